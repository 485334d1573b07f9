"""Who is signed in: signed, short-lived cookies, and how often a wrong key may be tried.

Nothing is stored for a session but that it was ended. What signs it is a secret of this process (or of all its workers), mixed with the
admin key's hash, so that another key ends all of them.
"""

import base64
import hashlib
import hmac
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from guardrail.config.tenants import MAX_KEY_CHARS
from guardrail.errors import WireError

COOKIE = "guardrail_console"
MAX_COOKIE_CHARS = 256
MAX_ENDED = 4_096
INVITATION_S = 3_600.0

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Session:
    """One sign-in, valid until `until` (seconds since 1970). `token` is what a form of it must carry."""

    id: str
    until: float
    token: str


class Sessions:
    """Issues and reads sessions. `secret` signs them; `admin_key` is the key's hash as configured.

    `shared` is a folder of the processes with that secret: what one of them has ended, or used up, the others take no more.
    """

    def __init__(self, admin_key: str, secret: bytes, *, lifetime_s: float, clock: Clock = time.time, shared: Path | None = None) -> None:
        self._known = bytes.fromhex(admin_key.removeprefix("sha256:"))
        self._signing = hmac.digest(secret, self._known, "sha256")
        self.lifetime_s = lifetime_s
        self._clock = clock
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._shared = shared

    def opens(self, key: str) -> bool:
        """Whether it is the admin key; the time taken does not depend on how much of it is right."""
        digest = hashlib.sha256(key[: MAX_KEY_CHARS + 1].encode("utf-8", "surrogatepass")).digest()
        return hmac.compare_digest(self._known, digest)

    def issue(self) -> str:
        """A cookie's value for a new session."""
        return self._signed("session", self.lifetime_s)

    def read(self, value: str | None) -> Session | None:
        """The session of a cookie; None for one that is missing, altered, over or ended."""
        return self._read("session", value)

    def end(self, session: Session) -> None:
        """Sign out: the session is taken no more. Raises WireError (503) where other processes cannot be told."""
        self._spend(session.id)

    def invitation(self) -> str:
        """What signs in once, within an hour, instead of the key: for a link that is printed where only its owner sees it."""
        return self._signed("invitation", INVITATION_S)

    def accept(self, invitation: str | None) -> bool:
        """Whether an invitation is good. It is used up by that. Raises WireError (503) where other processes cannot be told."""
        found = self._read("invitation", invitation)
        return found is not None and self._spend(found.id)

    def _signed(self, purpose: str, lifetime_s: float) -> str:
        body = f"{secrets.token_hex(16)}.{int(self._clock() + lifetime_s)}"
        return f"{body}.{self._mac(purpose, body)}"

    def _read(self, purpose: str, value: str | None) -> Session | None:
        if value is None or len(value) > MAX_COOKIE_CHARS or not value.isascii() or value.count(".") != 2:
            return None
        identity, until, mac = value.split(".")
        if not hmac.compare_digest(mac, self._mac(purpose, f"{identity}.{until}")):
            return None
        if identity in self._ended or self._clock() >= int(until) or (self._shared is not None and (self._shared / identity).exists()):
            return None
        return Session(identity, float(until), self._mac("form", identity))

    def _spend(self, identity: str) -> bool:
        """Whether no other process was quicker."""
        self._ended[identity] = None
        while len(self._ended) > MAX_ENDED:
            self._ended.popitem(last=False)
        if self._shared is None:
            return True
        try:
            (self._shared / identity).touch(0o600, exist_ok=False)
        except FileExistsError:
            return False
        except OSError as error:
            message = (
                f"The other worker processes cannot be told ({error.strerror}): a sign-out holds in this one only. Start the server again."
            )
            raise WireError(503, "not_shared", message) from error
        return True

    def _mac(self, purpose: str, body: str) -> str:
        digest = hmac.digest(self._signing, f"{purpose}:{body}".encode(), "sha256")
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")


class Failures:
    """Wrong keys of the last minute: at most a few from one address, and not many from all of them together."""

    def __init__(self, *, each: int = 5, together: int = 50, within_s: float = 60.0, clock: Clock = time.monotonic) -> None:
        self._each, self._together, self._within_s = each, together, within_s
        self._clock = clock
        self._seen: deque[tuple[float, str]] = deque(maxlen=together)

    def wait_s(self, address: str) -> float:
        """Seconds until this address may try again; 0 when it may now."""
        now = self._clock()
        while self._seen and now - self._seen[0][0] >= self._within_s:
            self._seen.popleft()
        own = [when for when, who in self._seen if who == address]
        if len(self._seen) >= self._together:
            return self._within_s - (now - self._seen[0][0])
        return self._within_s - (now - own[-self._each]) if len(own) >= self._each else 0.0

    def note(self, address: str) -> None:
        """A wrong key came from there."""
        self._seen.append((self._clock(), address))
