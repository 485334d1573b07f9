"""What a client gets when it does not get the model's answer. No body here ever echoes a judged text.

Statuses are chosen for the clients there are: a block is a 400, because SDKs retry 408, 409, 429 and 5xx and would run the guard
three times; what would only fail again says `x-should-retry: false`.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from guardrail.errors import UpstreamError, WireError
from guardrail.types import Action, Decision, Mode, Verdict
from guardrail.wire.answer import FilterResults
from guardrail.wire.chat import refused_choice, refused_deltas
from guardrail.wire.document import dump
from guardrail.wire.request import Request
from guardrail.wire.sse import DONE, frame

Headers = tuple[tuple[str, str], ...]

JSON: Headers = (("content-type", "application/json"),)
EVENTS: Headers = (("content-type", "text/event-stream; charset=utf-8"), ("cache-control", "no-cache"))
_NO_RETRY: Headers = (("x-should-retry", "false"),)
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_WORDS = {Action.BLOCK: "block", Action.REDACT: "modify", Action.ANNOTATE: "annotate", Action.PASS: "allow"}
_UPSTREAM_MESSAGES = {
    "connect": "The upstream cannot be reached.",
    "timeout": "The upstream did not answer in time.",
    "disconnect": "The upstream broke off its answer.",
    "malformed": "The upstream's answer cannot be read.",
    "too_large": "The upstream's answer is too large.",
}
_UNAVAILABLE = "The content could not be checked, so it was withheld."


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole HTTP answer: status, headers (lower case, content-type among them, no content-length) and body."""

    status: int
    headers: Headers
    body: bytes


def input_block(decision: Decision, *, param: str = "messages", name_policies: bool = False) -> Reply:
    """400 `content_filter` for a blocked prompt, streamed or not. `name_policies`: the message names the policies too.

    `param` is the field of the request that holds the prompt.

    Azure-aware clients read `code` and `innererror`, LiteLLM looks for the words of `guardrail.reason`; a part that could not be
    read is named by its place.
    """
    violated = _enforced(decision.violations)
    message = "Request blocked by content policy."
    if violated and name_policies:
        message = f"Request blocked by content policy: {', '.join(sorted({verdict.policy_id for verdict in violated}))}."
    elif not violated and decision.unscannable:
        message = "Request blocked: it holds content that cannot be checked."
    guardrail: dict[str, object] = {
        "reason": "content_policy_violation",
        "decision_id": decision.id,
        "direction": decision.stage.value,
        "policies": _policies(violated),
    }
    if decision.unscannable:
        guardrail["unscannable"] = list(decision.unscannable)
    error: dict[str, object] = {
        "message": message,
        "type": "invalid_request_error",
        "param": param,
        "code": "content_filter",
        "innererror": {"code": "ResponsibleAIPolicyViolation", "content_filter_result": _results(violated)},
        "guardrail": guardrail,
    }
    return Reply(400, JSON, dump({"error": error}))


def input_block_reply(decision: Decision, request: Request, notice: str, created: int) -> Reply:
    """`on_block: reply`: 200, `finish_reason: content_filter` and `notice`; an event stream if the request asked for one.

    `created` is a Unix time in seconds. Each of the `n` choices says the same; usage is zero because no model ran.
    """
    head: dict[str, object] = {"id": f"chatcmpl-{decision.id}", "created": created}
    if request.stream:
        head["object"] = "chat.completion.chunk"
        return choices_reply(decision, request, head, lambda index, results: refused_deltas(index, results, notice))
    head["object"] = "chat.completion"
    return choices_reply(decision, request, head, lambda index, results: (refused_choice(index, results, notice),))


def choices_reply(
    decision: Decision, request: Request, head: Mapping[str, object], refused: Callable[[int, FilterResults], Iterable[object]]
) -> Reply:
    """200 with what `refused` says of each choice; an event stream, one frame each, if the request asked for one."""
    results = block_results(decision)
    head = {**head, "model": request.model}
    usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    choices = [choice for index in range(request.choices) for choice in refused(index, results)]
    if not request.stream:
        return Reply(200, JSON, dump({**head, "choices": choices, "usage": usage}))
    frames = [frame({**head, "choices": [choice]}) for choice in choices]
    if request.include_usage:
        frames.append(frame({**head, "choices": [], "usage": usage}))
    return Reply(200, EVENTS, b"".join((*frames, DONE)))


def block_results(decision: Decision) -> FilterResults:
    """What a whole decision blocks for."""
    return _results(_enforced(decision.violations))


def blocked_choices(decision: Decision) -> Mapping[int, FilterResults]:
    """The choices of a judged answer that are to be replaced, each with its `content_filter_results`."""
    return {
        index: _results(_enforced(verdict for verdict in decision.violations if verdict.choice == index))
        for index, action in sorted(decision.outcome.choices.items())
        if action is Action.BLOCK
    }


@dataclass(frozen=True, slots=True)
class Pending:
    """An answer whose head goes out before all of it is judged: what was done to it so far, under which policies."""

    taken: Action
    policy_version: str


def decision_headers(decisions: Sequence[Decision], *, overhead_s: float, pending: Pending | None = None) -> Headers:
    """`x-guardrail-decision` (the strongest of the decisions), `-decision-id`, `-policy-version`, `-overhead-ms`.

    The policy version is the digest of the policies in force, as `/readyz` says it. `x-guardrail-history` says `drop` or `redact` where
    earlier turns were taken out of the request or replaced in it. Empty where nothing was decided, and nothing is going to be.
    """
    if not decisions and pending is None:
        return ()
    ids = ",".join(decision.id for decision in decisions)
    version = (decisions[-1].policy_set or str(decisions[-1].generation)) if pending is None else pending.policy_version
    return (
        ("x-guardrail-decision", decision_word(decisions, None if pending is None else pending.taken)),
        *((("x-guardrail-decision-id", ids),) if ids else ()),
        ("x-guardrail-policy-version", version),
        ("x-guardrail-overhead-ms", f"{overhead_s * 1000:.1f}"),
        *(("x-guardrail-history", decision.history[0].partition(" ")[0]) for decision in decisions if decision.history),
    )


def decision_word(decisions: Sequence[Decision], taken: Action | None = None) -> str:
    """`allow`, `annotate`, `modify`, `block`, or `unjudged` for something that was let through unjudged, which is never `allow`.

    `taken`: what was done so far to an answer that is not judged to its end; then `pending` stands in the place of `allow`.
    """
    strongest = max([taken or Action.PASS, *(decision.action for decision in decisions)])
    if strongest < Action.REDACT and any(decision.outcome.unjudged for decision in decisions):
        return "unjudged"
    return "pending" if taken is not None and strongest is Action.PASS else _WORDS[strongest]


def unavailable(decision: Decision | None = None) -> Reply:
    """503 `guardrail_unavailable`, not to be retried: the guard could not judge and the route fails closed."""
    error = _error(503, "guardrail_unavailable", _UNAVAILABLE)
    if decision is not None:
        error["guardrail"] = {"reason": "unjudged", "decision_id": decision.id, "direction": decision.stage.value}
    return Reply(503, JSON + _NO_RETRY, dump({"error": error}))


def failure(status: int, code: str, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> Reply:
    """An OpenAI-shaped error of our own: 400, 401, 403, 404, 405, 413, 415, 429, 500, 502, 503 or 504.

    429 and 503 say `retry-after`, 1 second where it is not known (a full queue empties), 401 names its scheme.
    """
    headers = JSON
    if status in {429, 503}:
        headers += retry_after(retry_after_s)
    elif status == 401:
        headers += (("www-authenticate", "Bearer"),)
    return Reply(status, headers, dump({"error": _error(status, code, message, param)}))


def wire_error(error: WireError) -> Reply:
    """The answer a WireError asks for."""
    return failure(error.status, error.code, str(error), param=error.param, retry_after_s=error.retry_after_s)


def retry_after(seconds: float | None) -> Headers:
    """The header in whole seconds, rounded up, 1 at least."""
    return (("retry-after", str(max(1, math.ceil(seconds or 0)))),)


def detector_error(error: WireError) -> Reply:
    """The same in the words of the FMS detector API: `code` and `message`."""
    headers = JSON if error.retry_after_s is None else JSON + retry_after(error.retry_after_s)
    return Reply(error.status, headers, dump({"code": error.status, "message": str(error)}))


def upstream_failure(error: UpstreamError) -> Reply:
    """502, or 504 for a timeout, when nothing was sent yet. Only a failed connect may be retried: the rest reached the model.

    503 with `retry-after` when it was not asked.
    """
    if error.code == "circuit_open":
        return failure(503, "upstream_unavailable", "The upstream is failing and is not asked now.", retry_after_s=error.retry_after_s)
    status = 504 if error.code == "timeout" else 502
    headers = JSON if error.code == "connect" else JSON + _NO_RETRY
    return Reply(
        status, headers, dump({"error": _error(status, "upstream_error", _UPSTREAM_MESSAGES.get(error.code, "The upstream failed."))})
    )


def _error(status: int, code: str, message: str, param: str | None = None) -> dict[str, object]:
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"message": message, "type": kind, "param": param, "code": code}


def _enforced(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Only what was enforced may show: a shadow policy changes nothing, so it isn't named either."""
    return [verdict for verdict in verdicts if verdict.mode is Mode.ENFORCE and verdict.action is Action.BLOCK]


def _results(verdicts: Sequence[Verdict]) -> dict[str, dict[str, object]]:
    """The strongest verdict of each policy; `verdicts` come strongest first."""
    found: dict[str, dict[str, object]] = {}
    for verdict in verdicts:
        found.setdefault(verdict.policy_id, {"filtered": True, "detected": True, "score": round(verdict.score or 0.0, 4)})
    return found


def _policies(verdicts: Sequence[Verdict]) -> list[dict[str, object]]:
    return [
        {"id": policy, "version": version, "action": "block"}
        for policy, version in dict.fromkeys((verdict.policy_id, verdict.policy_version) for verdict in verdicts)
    ]
