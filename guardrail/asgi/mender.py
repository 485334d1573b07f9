"""What a request becomes whose earlier turns violate a policy, under a route that drops or redacts them."""

import secrets
from collections.abc import Sequence

from guardrail.conversation import scoped, user_texts
from guardrail.guard import Mended
from guardrail.placeholder import Placeholders, conversation_key
from guardrail.types import Action, Fallback, Mode, Part, Route, Verdict
from guardrail.wire.history import mended
from guardrail.wire.request import Request

_SECRET = secrets.token_bytes(32)  # of this process: a placeholder stays the same as long as it lives


class Mender:
    """For one request. `request` is the mended one, once it was mended. `stored` are the parts of turns that it does not hold itself."""

    def __init__(self, request: Request, route: Route, tenant: str, stored: tuple[Part, ...] = ()) -> None:
        self.request = request
        self._route = route
        self._tenant = tenant
        self._stored = stored

    def __call__(self, verdicts: Sequence[Verdict], unreadable: Sequence[Part]) -> Mended | None:
        """The request without its offending earlier turns; None where something else is why it was blocked, or it cannot be mended."""
        route, asked = self._route, self.request
        how, history = route.history, asked.history
        if how == "block" or history is None or self.request is not asked:
            return None
        joined = {part.path for part in scoped(asked.parts, history, route.scope, self._stored) if part.pieces}
        enforced = [verdict for verdict in verdicts if verdict.mode is Mode.ENFORCE]
        paths = {verdict.part for verdict in enforced if verdict.violation and verdict.action is Action.BLOCK} - joined
        if route.unscannable is Fallback.BLOCK:
            paths |= {part.path for part in unreadable}
        if any(verdict.error is not None for verdict in enforced) and route.on_error is Fallback.BLOCK:
            return None
        found = mended(asked, sorted(paths), how, self._placeholders())
        if found is None:
            return None
        self.request = found
        entries = sorted({entry for path in paths if (entry := history.entry(path)) is not None})
        changes = tuple(f"{how} {history.name}[{entry}]" for entry in entries)
        return Mended(scoped(found.parts, found.history, route.scope, self._stored), changes)

    def _placeholders(self) -> Placeholders:
        """Of this conversation: one that begins with the same words, under the same tenant and route."""
        asked = self.request
        said = user_texts(asked.parts, asked.history) if asked.history is not None else {}
        first = said[min(said)].text if said else ""
        return Placeholders(conversation_key(_SECRET, self._tenant, self._route.name, first or ""))
