"""Who is signed in: signed, short-lived cookies, and how often a wrong key may be tried.

Nothing is stored for a session. What signs it is a secret of this process (or of all its workers), mixed with the admin key's hash, so
that another key ends all of them.
"""

import base64
import hashlib
import hmac
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

from guardrail.config.tenants import MAX_KEY_CHARS

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
    """Issues and reads sessions. `secret` signs them; `admin_key` is the key's hash as configured."""

    def __init__(self, admin_key: str, secret: bytes, *, lifetime_s: float, clock: Clock = time.time) -> None:
        self._known = bytes.fromhex(admin_key.removeprefix("sha256:"))
        self._signing = hmac.digest(secret, self._known, "sha256")
        self.lifetime_s = lifetime_s
        self._clock = clock
        self._ended: OrderedDict[str, None] = OrderedDict()

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
        """Sign out: this process takes the session no more."""
        self._spend(session.id)

    def invitation(self) -> str:
        """What signs in once, within an hour, instead of the key: for a link that is printed where only its owner sees it."""
        return self._signed("invitation", INVITATION_S)

    def accept(self, invitation: str | None) -> bool:
        """Whether an invitation is good. It is used up by that."""
        found = self._read("invitation", invitation)
        if found is not None:
            self._spend(found.id)
        return found is not None

    def _signed(self, purpose: str, lifetime_s: float) -> str:
        body = f"{secrets.token_hex(16)}.{int(self._clock() + lifetime_s)}"
        return f"{body}.{self._mac(purpose, body)}"

    def _read(self, purpose: str, value: str | None) -> Session | None:
        if value is None or len(value) > MAX_COOKIE_CHARS or not value.isascii() or value.count(".") != 2:
            return None
        identity, until, mac = value.split(".")
        if not hmac.compare_digest(mac, self._mac(purpose, f"{identity}.{until}")):
            return None
        if identity in self._ended or self._clock() >= int(until):
            return None
        return Session(identity, float(until), self._mac("form", identity))

    def _spend(self, identity: str) -> None:
        self._ended[identity] = None
        while len(self._ended) > MAX_ENDED:
            self._ended.popitem(last=False)

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
