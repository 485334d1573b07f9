"""What a next token's probabilities say of 0 and 1: the plain case, the bounds, and everything that is an error."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardrail.classifiers.remote.digits import Answered, Shown, Strictness, read, spelled
from guardrail.classifiers.remote.logprobs import DigitIds, shown
from guardrail.errors import ClassifierError

WHATEVER = Strictness(most_outside=1.0, slack=1.0)
NAMES = {"0": "0", "1": "1", None: "x"}


def of(*pairs: tuple[str | None, float], merged: bool = False) -> Shown:
    """Tokens with probabilities."""
    return Shown([(digit, math.log(p)) for digit, p in pairs], merged)  # type: ignore[arg-type]


def code(given: Shown, strictness: Strictness | None = None) -> str:
    with pytest.raises(ClassifierError) as error:
        read(given, strictness or Strictness())
    return error.value.code


@st.composite
def vocabularies(draw: st.DrawFn) -> list[tuple[str | None, float]]:
    """A next-token distribution over up to 40 tokens, likeliest first; some tokens spell a digit, at least one each."""
    logits = draw(st.lists(st.floats(-12, 12), min_size=3, max_size=40))
    digits: list[str | None] = ["0", "1", *draw(st.lists(st.sampled_from(["0", "1", None, None, None]), max_size=38))][: len(logits)]
    digits += [None] * (len(logits) - len(digits))
    total = math.fsum(math.exp(logit) for logit in logits)
    return sorted(((digit, math.exp(logit) / total) for digit, logit in zip(digits, logits, strict=True)), key=lambda pair: -pair[1])


def exact(tokens: list[tuple[str | None, float]]) -> float:
    zero, one = (math.fsum(p for digit, p in tokens if digit == wanted) for wanted in "01")
    return one / (zero + one)


@given(vocabularies())
def test_with_the_whole_vocabulary_shown_the_score_is_exact(tokens: list[tuple[str | None, float]]) -> None:
    answered = read(of(*tokens), WHATEVER)
    assert answered.value == pytest.approx(exact(tokens), rel=1e-9)
    assert answered.outside == pytest.approx(math.fsum(p for digit, p in tokens if digit is None), abs=1e-9)
    assert not answered.bounded


@given(vocabularies(), st.integers(1, 40), st.floats(0.0, 0.2))
def test_a_bound_is_never_on_the_wrong_side_nor_off_by_more_than_the_slack(
    tokens: list[tuple[str | None, float]], k: int, slack: float
) -> None:
    # one spelling a digit: then what is missing is at most as likely as the last token shown
    seen: set[str] = set()
    single = [(None if digit in seen else digit, p) for digit, p in tokens if not (digit and digit in seen) and not seen.add(digit or "")]
    try:
        answered = read(of(*single[:k]), Strictness(1.0, slack))
    except ClassifierError:
        return
    truth = exact(single)
    assert abs(answered.value - truth) <= slack + 1e-9
    assert 0 < answered.value < 1 or not answered.bounded
    if answered.bounded:  # drawn towards the middle, never beyond
        present = "1" if any(digit == "1" for digit, _ in single[:k]) else "0"
        assert (answered.value <= truth + 1e-12) if present == "1" else (answered.value >= truth - 1e-12)


@given(vocabularies(), st.floats(0.0, 0.2))
def test_tokens_that_hide_one_another_give_a_score_within_the_slack_or_an_error(
    tokens: list[tuple[str | None, float]], slack: float
) -> None:
    kept = {(digit or number): (digit, p) for number, (digit, p) in enumerate(tokens)}  # the last of each name survives
    try:
        answered = read(of(*kept.values(), merged=True), Strictness(1.0, slack))
    except ClassifierError:
        return
    assert abs(answered.value - exact(tokens)) <= slack + 1e-9


def test_a_missing_digit_is_as_likely_as_the_last_token_shown_and_the_score_says_so() -> None:
    low = read(of(("0", 0.99), (None, 0.004), (None, 0.001)), Strictness())
    high = read(of(("1", 0.99), (None, 0.004), (None, 0.001)), Strictness())
    assert low == Answered(pytest.approx(0.001 / 0.991), pytest.approx(0.01), bounded=True)
    assert high == Answered(pytest.approx(0.99 / 0.991), pytest.approx(0.01), bounded=True)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (of(("1", 0.7), (None, 0.2), (None, 0.05)), "a bound that leaves too much doubt"),
        (of((None, 0.7), (None, 0.2)), "neither digit"),
        (of(("1", 0.3), ("0", 0.1), (None, 0.5)), "more than half outside"),
        (of(("1", 0.9), ("0", 0.5)), "probabilities of more than one"),
        (Shown([("1", 3.0), ("0", 2.0)]), "logits, not log probabilities"),
        (Shown([("1", 0.0), ("0", -9999.0), (None, -9999.0)]), "what was chosen, not how likely it was"),
        (Shown([("1", 0.0), (None, -3.4e38)]), "the same, the other digit not even shown"),
        (Shown([("1", 0.0), ("0", -math.inf)]), "the same, spelled otherwise"),
        (of(("1", 0.6), ("0", 0.2), merged=True), "a fifth of the probability may be either's"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_answer_is_an_error(given: Shown, why: str) -> None:
    assert code(given) == "malformed"


def test_a_log_probability_that_is_no_number_is_named_so() -> None:
    assert code(Shown([("1", math.nan), ("0", -1.0)])) == "not_a_number"


@pytest.mark.parametrize("token", ["1", " 1", "▁1", "▁▁1", "1 ", " ▁1"])
def test_a_digit_is_one_with_spaces_around_it(token: str) -> None:
    assert spelled(token) == "1"
    assert spelled(token.replace("1", "0")) == "0"


@pytest.mark.parametrize("token", ["", " ", "▁", "10", "01", "1.", "\n1", "१", "１", "²", "yes", "true"])
def test_nothing_else_is_a_digit(token: str) -> None:
    assert spelled(token) is None


TOKENS = [("1", 0.6), ("▁1", 0.2), ("0", 0.15), ("yes", 0.05)]
LEGACY = {"top_logprobs": [{name: math.log(p) for name, p in TOKENS}]}
LISTED = {"content": [{"token": "1", "top_logprobs": [{"token": name, "logprob": math.log(p)} for name, p in TOKENS]}]}
LISTED_LEGACY = {"top_logprobs": [[{"token": name, "logprob": math.log(p)} for name, p in TOKENS]]}
NUMBERED = {"top_logprobs": [{f"token_id:{number}": math.log(p) for number, (_, p) in enumerate(TOKENS)}]}
BOTH = {"content": [{"top_logprobs": [{"id": number, "token": name, "logprob": math.log(p)} for number, (name, p) in enumerate(TOKENS)]}]}


@pytest.mark.parametrize("logprobs", [LEGACY, LISTED, LISTED_LEGACY], ids=["legacy", "listed", "listed in legacy"])
def test_every_servers_shape_reads_the_same(logprobs: object) -> None:
    answered = read(shown({"choices": [{"logprobs": logprobs}]}, None, asked=4), Strictness())
    assert answered.value == pytest.approx(0.8 / 0.95)
    assert answered.outside == pytest.approx(0.05)


@pytest.mark.parametrize("logprobs", [NUMBERED, BOTH], ids=["token_id keys", "id fields"])
def test_where_ids_are_known_the_digits_are_these_ids_and_nothing_that_reads_alike(logprobs: object) -> None:
    answered = read(shown({"choices": [{"logprobs": logprobs}]}, DigitIds(zero=2, one=0), asked=4), Strictness())
    assert answered.value == pytest.approx(0.6 / 0.75)


def test_names_that_are_ids_never_hide_one_another_but_texts_may() -> None:
    def merged(logprobs: object, asked: int) -> bool:
        return shown({"choices": [{"logprobs": logprobs}]}, None, asked=asked).merged

    assert merged(LEGACY, 5)
    assert not merged(LEGACY, 4)
    assert not merged(NUMBERED, 20)
    assert not merged(LISTED, 20)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8) | st.just(10**400),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "logprobs", "content", "top_logprobs", "token", "logprob", "id", "1", "0", "token_id:7"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.just("choices"), st.lists(json_values, max_size=2), max_size=1))
def test_no_answer_whatever_gives_anything_but_a_probability_or_an_error(body: dict[str, object]) -> None:
    try:
        answered = read(shown(body, DigitIds(7, 8), asked=5), Strictness())
    except ClassifierError:
        return
    assert 0 <= answered.value <= 1


@given(st.sampled_from([LEGACY, LISTED, BOTH]), st.data())
def test_a_nearly_right_answer_with_one_value_replaced_is_read_or_refused(logprobs: dict[str, object], data: st.DataObject) -> None:
    """Deeper than random JSON gets: some value on the way to the tokens is another."""
    import copy

    body: dict[str, object] = {"choices": [{"logprobs": copy.deepcopy(logprobs)}]}
    place: object = body
    while True:
        keys = list(place) if isinstance(place, dict) else range(len(place)) if isinstance(place, list) else []  # type: ignore[arg-type]
        key = data.draw(st.sampled_from(list(keys)))
        inner = place[key]  # type: ignore[index]
        if not isinstance(inner, dict | list) or not inner or data.draw(st.booleans()):
            place[key] = data.draw(json_values)  # type: ignore[index]
            break
        place = inner
    try:
        answered = read(shown(body, None, asked=4), Strictness())
    except ClassifierError:
        return
    assert 0 <= answered.value <= 1
