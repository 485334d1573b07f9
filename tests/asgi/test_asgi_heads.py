"""What the head of an answer says of its decision, which may not be there yet."""

from typing import Any

import httpx
import pytest
from asgi_cases import BAD, EVENTS, Answering, Proxy, completion, config, proxied, stream

from guardrail.errors import ClassifierError
from guardrail.events import DecisionMade
from guardrail.testing import ScriptedClassifier, contains
from guardrail.types import StreamMode

CALM = "The garden is calm today and the river runs slowly past the old mill. "
LET_OUT = [mode for mode in StreamMode if mode is not StreamMode.HOLD]


def live(mode: str, **more: Any) -> Any:
    return config({"stream": {"mode": mode, "window": 20, "overlap": 5, "first_ms": 60_000}, **more})


async def told(settings: Any, *texts: str, choices: int = 1, script: Any = None) -> tuple[httpx.Response, Proxy]:
    """What the client gets of a streamed answer of these pieces, each of another choice where there are several."""
    pieces = stream(*texts)
    if choices > 1:
        pieces = [
            *(stream(text)[1].replace(b'"index": 0', b'"index": %d' % place) for place, text in enumerate(texts)),
            *(stream()[1].replace(b'"index": 0', b'"index": %d' % place) for place in range(choices)),
            pieces[-1],
        ]
    classifier = ScriptedClassifier({"*": script or contains("forbidden")})
    async with proxied(settings, upstream=Answering(pieces, headers=EVENTS), classifier=classifier) as proxy:
        return await proxy.ask(stream=True, n=choices), proxy


def word(answered: httpx.Response) -> str | None:
    return answered.headers.get("x-guardrail-decision")


@pytest.mark.parametrize("mode", StreamMode)
async def test_an_answer_that_goes_out_before_all_of_it_is_judged_says_so(mode: StreamMode) -> None:
    answered, proxy = await told(live(mode.value), CALM, CALM)
    assert b'"stop"' in answered.content
    assert word(answered) == ("allow" if mode is StreamMode.HOLD else "pending")
    prompt, *output = (event.decision.id for event in proxy.sink.of(DecisionMade))
    assert answered.headers["x-guardrail-decision-id"].split(",") == [prompt, *(output if mode is StreamMode.HOLD else ())]


@pytest.mark.parametrize("mode", StreamMode)
async def test_an_answer_of_which_nothing_is_out_when_it_is_blocked_says_that_and_why(mode: StreamMode) -> None:
    answered, proxy = await told(live(mode.value), BAD)
    assert b"content_filter" in answered.content
    prompt, output = (event.decision.id for event in proxy.sink.of(DecisionMade))
    watched = mode is StreamMode.WATCH  # there the text is out before anything is known of it
    assert word(answered) == ("pending" if watched else "block")
    assert answered.headers["x-guardrail-decision-id"].split(",") == [prompt, *(() if watched else (output,))]
    assert answered.content.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("mode", LET_OUT)
async def test_an_answer_that_is_blocked_later_was_never_said_to_be_allowed(mode: StreamMode) -> None:
    answered, _ = await told(live(mode.value), CALM, CALM, f"Now {BAD} is told.")
    assert b"The garden" in answered.content
    assert b"content_filter" in answered.content
    assert word(answered) == "pending"


@pytest.mark.parametrize("mode", ["window", "overlap"])
async def test_an_answer_that_begins_with_a_blocked_choice_says_block(mode: str) -> None:
    answered, _ = await told(live(mode), f"Now {BAD} is told to everybody.", "Calm.", choices=2)
    assert b"Calm." in answered.content
    assert word(answered) == "block"


@pytest.mark.parametrize("mode", ["hold", "window", "overlap"])
async def test_an_answer_that_begins_with_what_stands_for_something_says_modify(mode: str) -> None:
    redacting = {"policies": [{"id": "harassment", "action": "redact"}]}
    answered, _ = await told(live(mode, output=redacting), f"Now {BAD} is told. ", CALM)
    assert b"forbidden" not in answered.content
    assert word(answered) == "modify"


@pytest.mark.parametrize("streamed", [True, False])
async def test_an_answer_that_is_only_watched_is_not_said_to_be_allowed_before_it_is_judged(streamed: bool) -> None:
    upstream = Answering(stream(BAD), headers=EVENTS) if streamed else Answering([completion(BAD)])
    async with proxied(config({"mode": "shadow"}), upstream=upstream) as proxy:
        assert word(await proxy.ask(stream=streamed)) == "pending"
    async with proxied(config({"output": {"policies": []}}), upstream=Answering([completion(BAD)])) as proxy:
        assert word(await proxy.ask()) == "allow"  # of the answer nothing is judged ever


@pytest.mark.parametrize("mode", LET_OUT)
async def test_what_the_prompt_came_to_is_said_where_it_is_more_than_that_nothing_was_found(mode: StreamMode) -> None:
    failing = lambda text: ClassifierError("crash", "x") if text == "Hello" else 0.0  # noqa: E731
    answered, _ = await told(live(mode.value, on_error="pass"), CALM, script=failing)
    assert word(answered) == "unjudged"
    annotating = {"policies": [{"id": "harassment", "action": "annotate"}]}
    answered, _ = await told(live(mode.value, input=annotating), CALM, script=contains("Hello"))
    assert word(answered) == "annotate"


@pytest.mark.parametrize("mode", LET_OUT)
async def test_where_prompts_are_not_judged_the_head_tells_of_the_answer_alone(mode: StreamMode) -> None:
    answered, proxy = await told(live(mode.value, input={"policies": []}), CALM)
    assert word(answered) == "pending"
    assert "x-guardrail-decision-id" not in answered.headers
    (event,) = proxy.sink.of(DecisionMade)
    assert answered.headers["x-guardrail-policy-version"] == event.decision.policy_set
    assert float(answered.headers["x-guardrail-overhead-ms"]) >= 0
