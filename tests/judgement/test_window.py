"""A streamed answer is let out no sooner than its mode allows, no later than it must, and never in halves of anything."""

from itertools import combinations, pairwise, product

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from guardrail.cadence import Widening
from guardrail.errors import UpstreamError
from guardrail.evaluation.stream_cases import BAD, LONGEST_BAD, Case
from guardrail.evaluation.stream_fuzz import Counts, play
from guardrail.placeholder import Placeholders, conversation_key
from guardrail.types import Action, Fallback, Mode, Span, Streaming, StreamMode, Verdict
from guardrail.window import AnswerFlow, Bounds, Release, Ruling, StreamPart, Window, ruling

CONTENT = StreamPart(0, "choices[0].message.content")
CALL = StreamPart(0, "choices[0].message.tool_calls[0].function.arguments", whole=True)
OTHER = StreamPart(1, "choices[1].message.content")
PASS, BLOCK = Ruling(Action.PASS), Ruling(Action.BLOCK)


def answer(mode: StreamMode, *, window: int = 10, overlap: int = 0, first_s: float = 9.0, **bounds: object) -> AnswerFlow:
    return AnswerFlow(Streaming(mode, window, overlap, first_s), Bounds(**{"growth": 0.0, **bounds}))


def texts(step) -> list[str]:
    return [release.text for release in step.release]


def test_a_window_is_out_once_it_was_judged_with_all_before_it_but_for_the_overlap() -> None:
    flow = answer(StreamMode.WINDOW, overlap=5)
    assert flow.feed(CONTENT, "one two th", now=0).judge == ()
    (first,) = flow.feed(CONTENT, "ree four", now=0).judge
    assert (first.text, first.start) == ("one two three ", 0)
    assert texts(flow.settle(first, PASS)) == ["one two "]
    (second,) = flow.feed(CONTENT, " five six", now=0).judge
    assert (second.text, second.start) == ("one two three four five ", 14)
    assert texts(flow.settle(second, PASS)) == ["three four "]
    (last,) = flow.close().judge
    step = flow.settle(last, PASS)
    assert (texts(step), step.finished) == (["five six"], (0,))


def test_under_window_what_comes_while_a_window_is_judged_waits_for_the_next() -> None:
    flow = answer(StreamMode.WINDOW)
    (first,) = flow.feed(CONTENT, "one two three four", now=0).judge
    assert flow.feed(CONTENT, " five six seven eight", now=0).judge == ()
    (second,) = flow.settle(first, PASS).judge
    assert second.text == "one two three four five six seven "


def test_under_overlap_windows_are_judged_at_once_and_let_out_in_order() -> None:
    flow = answer(StreamMode.OVERLAP, ahead=2)
    (first,) = flow.feed(CONTENT, "one two three four", now=0).judge
    (second,) = flow.feed(CONTENT, " five six seven eight", now=0).judge
    assert flow.feed(CONTENT, " nine ten eleven twelve", now=0).judge == ()
    assert texts(flow.settle(second, PASS)) == []
    assert texts(flow.settle(first, PASS)) == [second.text]


def test_hold_lets_nothing_out_before_the_whole_answer_was_judged() -> None:
    flow = answer(StreamMode.HOLD)
    assert flow.feed(CONTENT, "one two three four ", now=0).judge == ()
    assert flow.feed(CALL, '{"a": 1}', now=9).judge == ()
    assert flow.tick(now=99).judge == flow.finish(0).judge == flow.complete(CALL).judge == ()
    content, call = flow.close().judge
    assert flow.settle(content, PASS).release == ()
    assert flow.settle(call, PASS).release == (Release(CONTENT, "one two three four "), Release(CALL, '{"a": 1}'))


def test_watch_lets_everything_out_at_once_until_a_block() -> None:
    flow = answer(StreamMode.WATCH)
    step = flow.feed(CONTENT, "one two three fo", now=0)
    assert texts(step) == ["one two three fo"]
    assert texts(flow.feed(CONTENT, "ur five", now=0)) == ["ur five"]
    assert flow.settle(step.judge[0], BLOCK).blocked == ((0, BLOCK),)
    assert texts(flow.feed(CONTENT, "six", now=0)) == []
    assert (flow.produced(CONTENT), flow.released(CONTENT), flow.withheld(CONTENT), flow.over) == (26, 23, 3, True)


@pytest.mark.parametrize("mode", StreamMode)
def test_a_tool_call_is_out_in_one_piece_after_all_else_of_its_choice(mode: StreamMode) -> None:
    flow = answer(mode)
    flow.feed(CONTENT, "let us see", now=0)
    assert flow.feed(CALL, '{"query": "weather tomorrow', now=0).release == ()
    assert flow.feed(CALL, ' morning"}', now=0).release == ()
    pending = [*flow.complete(CALL).judge, *flow.finish(0).judge, *flow.close().judge]
    released = [release for window in pending for release in flow.settle(window, PASS).release]
    assert released[-1] == Release(CALL, '{"query": "weather tomorrow morning"}')


def test_a_call_that_goes_on_after_it_seemed_complete_is_judged_as_a_whole() -> None:
    flow = answer(StreamMode.WINDOW)
    flow.feed(CALL, '{"a": ', now=0)
    (early,) = flow.complete(CALL).judge
    flow.feed(CALL, "1}", now=0)
    assert flow.settle(early, PASS).release == ()
    (whole,) = flow.close().judge
    assert whole.text == '{"a": 1}'
    assert texts(flow.settle(whole, PASS)) == ['{"a": 1}']


def test_a_block_ends_its_choice_and_no_other() -> None:
    flow = answer(StreamMode.WINDOW)
    (bad,) = flow.feed(CONTENT, "one two three four", now=0).judge
    (good,) = flow.feed(OTHER, "five six seven eight", now=0).judge
    assert flow.settle(bad, BLOCK).blocked == ((0, BLOCK),)
    assert not flow.over
    assert texts(flow.settle(good, PASS)) == ["five six seven "]
    assert flow.settle(flow.close().judge[0], PASS).finished == (1,)


def test_the_first_window_is_judged_early_once_it_can_let_something_out() -> None:
    flow = answer(StreamMode.WINDOW, window=400, overlap=6, first_s=0.5)
    flow.feed(CONTENT, "one two", now=1.0)
    assert flow.wake_at == 1.5
    assert flow.tick(now=1.5).judge == ()
    assert flow.wake_at is None
    (first,) = flow.feed(CONTENT, " three", now=1.6).judge
    assert first.text == "one two "
    assert flow.feed(CONTENT, " four five six seven", now=3.0).judge == ()


def test_more_withheld_than_may_be_ends_the_answer_and_lets_nothing_out() -> None:
    flow = answer(StreamMode.WINDOW, withheld=30)
    (window,) = flow.feed(CONTENT, "one two three four", now=0).judge
    with pytest.raises(UpstreamError, match="more than 30 characters"):
        flow.feed(CONTENT, "x" * 30, now=0)
    with pytest.raises(UpstreamError, match="given up"):
        flow.settle(window, PASS)


def test_what_violates_is_replaced_and_the_rest_judged_again_before_it_goes_on() -> None:
    flow = AnswerFlow(Streaming(StreamMode.WINDOW, 10, 6), Bounds(growth=0.0), placeholder=lambda text: f"[{len(text)}]")
    (first,) = flow.feed(CONTENT, "call me at 555 0100 today please", now=0).judge
    step = flow.settle(first, Ruling(Action.REDACT, (Span(11, 19),)))
    assert step.release == ()
    (again,) = step.judge
    assert (again.text, again.version) == ("call me at [8] today ", 1)
    assert texts(flow.settle(again, PASS)) == ["call me at [8] "]
    assert (flow.produced(CONTENT), flow.released(CONTENT), flow.withheld(CONTENT)) == (32, 20, 12)


@pytest.mark.parametrize(
    ("mode", "part", "spans"),
    [
        (StreamMode.WINDOW, CONTENT, (Span(0, 5),)),  # it is out already
        (StreamMode.WATCH, CONTENT, (Span(20, 22),)),
        (StreamMode.WINDOW, CALL, (Span(20, 22),)),  # what is left of it may mean something else
    ],
)
def test_what_cannot_be_redacted_is_blocked(mode: StreamMode, part: StreamPart, spans: tuple[Span, ...]) -> None:
    flow = answer(mode)
    for window in flow.feed(part, "one two three four", now=0).judge:
        flow.settle(window, PASS)
    pending = [*flow.feed(part, " five six seven", now=0).judge, *flow.complete(part).judge]
    assert flow.settle(pending[0], Ruling(Action.REDACT, spans)).blocked


def test_a_classifier_that_is_never_content_ends_in_a_block() -> None:
    flow = answer(StreamMode.HOLD)
    flow.feed(CONTENT, "one two three", now=0)
    (window,), rounds = flow.close().judge, 0
    while not (step := flow.settle(window, Ruling(Action.REDACT))).blocked:
        (window,), rounds = step.judge, rounds + 1
    assert rounds == 1


def test_a_placeholder_is_one_conversations_own() -> None:
    here, there = (Placeholders(conversation_key(b"secret", "acme", first)) for first in ("hello", "good day"))
    assert here("555 0100") == here("555 0100") != here("555 0101")
    assert here("555 0100") != there("555 0100")
    assert "555" not in here("555 0100")


def test_a_ruling_is_what_the_verdicts_on_one_part_come_to() -> None:
    def verdict(part: StreamPart, **changes: object) -> Verdict:
        facts = {"policy_id": "x", "policy_version": "1", "policy_digest": "d", "threshold": 0.5, "part": part.path, "classifier": "c"}
        return Verdict(**facts, **changes)

    bad = verdict(CONTENT, score=0.9, action=Action.REDACT, span=Span(1, 3))
    fold = {"on_error": Fallback.BLOCK}
    assert ruling((bad, verdict(OTHER, score=0.9)), CONTENT, **fold) == Ruling(Action.REDACT, (Span(1, 3),))
    assert ruling((bad, verdict(OTHER, score=0.9)), OTHER, **fold) == BLOCK
    assert ruling([verdict(CONTENT, error="timeout")], CONTENT, **fold) == Ruling(Action.BLOCK, unavailable=True)
    assert ruling([verdict(CONTENT, score=0.9, mode=Mode.SHADOW)], CONTENT, **fold) == PASS
    assert ruling((bad, verdict(CONTENT, score=0.9, action=Action.REDACT)), CONTENT, **fold).spans == ()


@pytest.mark.parametrize("growth", [0.1, 0.25, 1.0])
def test_whole_text_checks_widen_so_that_their_work_is_bounded(growth: float) -> None:
    widening, length = Widening(400, growth), 200_000
    ends = [400]
    while ends[-1] <= length:
        ends.append(widening.after(ends[-1]))
    assert len(ends[:-1]) == widening.most(length) <= 1 / growth + 120
    assert sum(ends[:-1]) <= (1 + 1 / growth) * (length + 400)


MODES = st.sampled_from(list(StreamMode))
WORDS = [*BAD, "melons", "sour", "grape", " ", " ", " ", "\n", "\u0301", "👩\u200d👧", "\ud83d", "\ude00", "日本", "。", "x" * 70]
PARTS = (CONTENT, CALL, OTHER, StreamPart(1, "choices[1].message.reasoning"))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    texts = draw(st.lists(st.lists(st.sampled_from(WORDS), max_size=8).map("".join), min_size=1, max_size=len(PARTS)))
    queues = []
    for number, text in enumerate(texts):
        cuts = sorted(draw(st.sets(st.integers(1, max(1, len(text))), max_size=6)) | {len(text)})
        queues.append([(number, text[start:end]) for start, end in zip([0, *cuts], cuts, strict=False)])
    order = draw(st.permutations([number for number, queue in enumerate(queues) for _ in queue]))
    pieces = [queues[number].pop(0) for number in order]
    mode = draw(MODES)
    streaming = Streaming(mode, draw(st.integers(1, 30)), draw(st.sampled_from([0, 1, 7, LONGEST_BAD])), draw(st.floats(0.01, 1.0)))
    bounds = Bounds(draw(st.sampled_from([20, 10**6])), growth=draw(st.sampled_from([0.0, 0.5])), ahead=draw(st.integers(1, 3)))
    action = Action.BLOCK if mode is StreamMode.WATCH else draw(st.sampled_from([Action.BLOCK, Action.REDACT]))
    return Case(streaming, bounds, action, draw(st.booleans()), PARTS[: len(texts)], tuple(pieces), draw(st.integers(0, 2**32)))


@given(cases())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_text_in_any_chunking_and_any_order_of_verdicts_keeps_every_promise(case: Case) -> None:
    play(case, Counts())


@pytest.mark.parametrize("mode", StreamMode)
@pytest.mark.parametrize("text", ["a melon b", "\ud83d\ude00e\u0301 x", "my \r\nmel", "in bloom"])
def test_every_split_of_a_short_text_keeps_every_promise(mode: StreamMode, text: str) -> None:
    counts = Counts()
    for number, overlap in product(range(len(text)), (0, 5)):
        for cuts in combinations(range(1, len(text)), number):
            places = [0, *cuts, len(text)]
            pieces = tuple((0, text[start:end]) for start, end in pairwise(places))
            play(Case(Streaming(mode, 2, overlap, 0.05), Bounds(growth=0.0), Action.BLOCK, True, (CONTENT,), pieces, number), counts)
    assert counts.chunkings == 2 * 2 ** (len(text) - 1)
    assert counts.blocks == (counts.chunkings if "melon" in text else 0)


def test_a_window_knows_where_it_ends() -> None:
    assert Window(0, CONTENT, "abc", 1, 0).end == 3
