"""The embedded policy reader: one text and one policy have one score, whatever stands beside them, and nothing is cut off."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from tiny import model_file, tokenizer_json

from guardrail.calibration import Platt
from guardrail.engine.embedded.model import EXCLUDE, INCLUDE, LABEL, TERM
from guardrail.engine.embedded.scorer import Scorer
from guardrail.engine.embedded.statements import MAX_STATEMENTS, statements_of
from guardrail.engine.embedded.tokens import Tokens
from guardrail.engine.embedded.weights import load
from guardrail.errors import ModelFileError
from guardrail.testing import policy
from guardrail.types import Criterion, Label

TEXTS = st.text("abcdefgh xyz.!?", min_size=1, max_size=400).filter(str.strip)
POLICIES = tuple(
    policy(
        name,
        body=name,
        overview=f"About {name}.",
        labels=(Label("X", name, tuple(Criterion(f"c{i}", f"Content with {name} {i}.", i) for i in range(size)), (), 1),),
    )
    for size, name in enumerate(("war", "peace", "love", "tea"), 1)
)


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    loaded = load(model_file(tmp_path_factory.mktemp("model")))
    made = Scorer(loaded.model, loaded.tokens, loaded.calibration)
    made.prepare(POLICIES)
    return made


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(TEXTS, st.sampled_from(POLICIES)), min_size=1, max_size=12), st.data())
def test_alone_or_in_any_batch_the_score_is_the_same(scorer: Scorer, asked: list[tuple[str, object]], data: st.DataObject) -> None:
    together = scorer.score(asked)
    place = data.draw(st.integers(0, len(asked) - 1))
    (alone,) = scorer.score([asked[place]])
    assert abs(alone.value - together[place].value) < 1e-5
    assert alone.span == together[place].span


def test_texts_and_policies_matter(scorer: Scorer) -> None:
    values = {round(found.value, 6) for found in scorer.score([(text, each) for text in ("abc", "xyz xyz") for each in POLICIES])}
    assert len(values) == 8


@given(TEXTS, st.integers(8, 40), st.data())
def test_windows_cover_every_token_and_overlap(text: str, size: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, size // 2 - 2))
    tokens = Tokens.from_json(tokenizer_json())
    whole = tokens.windows(text, size=100_000, overlap=0)[0].ids[1:-1]
    windows = tokens.windows(text, size=size, overlap=overlap)
    joined: list[int] = []
    for window in windows:
        assert len(window.ids) <= size
        inner = list(window.ids[1:-1])
        joined += inner if not joined else inner[overlap:]
        assert 0 <= window.span.start <= window.span.end <= len(text)
    assert tuple(joined) == tuple(whole)


def test_a_long_text_scores_as_its_highest_window_and_says_where(scorer: Scorer) -> None:
    calm, loud = "abc. " * 60, "xyz! " * 60
    each = POLICIES[1]
    low, high = (found.value for found in scorer.score([(calm, each), (loud, each)]))
    calm, loud = (calm, loud) if low < high else (loud, calm)
    (found,) = scorer.score([(calm + loud, each)])
    assert found.value >= max(low, high) - 0.05
    assert found.span.end > len(calm)


def test_a_policy_is_read_from_its_head_to_its_terms() -> None:
    label = Label(
        "X",
        "Cruelty",
        (Criterion("Mockery", "Content that **mocks** a `person`.", 1, excludes="Content among friends."),),
        (Criterion("News", "Content that reports.", 2),),
        1,
    )
    made = statements_of(policy("x", overview="What it covers.", labels=(label,), terms=(Criterion("Person", "A human being.", 3),)))
    assert [(each.kind, each.text) for each in made] == [
        (LABEL, "Cruelty. What it covers."),
        (INCLUDE, "Mockery: Content that mocks a person."),
        (EXCLUDE, "Mockery: Content among friends."),
        (EXCLUDE, "News: Content that reports."),
        (TERM, "Person: A human being."),
    ]


def test_nothing_of_a_long_overview_or_inline_exception_is_left_out() -> None:
    long = "One sentence about what it says. " * 40
    label = Label("X", "x", (Criterion("Mockery", "Content that mocks.", 1, excludes=long),), (), 1)
    made = statements_of(policy("x", overview=long, labels=(label,)))
    for kind in (LABEL, EXCLUDE):
        assert " ".join(each.text for each in made if each.kind == kind).count("what it says") == 40


def test_long_criteria_become_several_statements_and_very_many_are_bounded() -> None:
    long = Criterion("Long", "Content that goes on and on about it. " * 40, 1)
    several = statements_of(policy("x", labels=(Label("X", "x", (long,), (), 1),)))
    assert len(several) > 3
    assert "".join(each.text for each in several[1:]).count("goes on") == 40
    many = tuple(Criterion(f"c{i}", "Content.", i) for i in range(200))
    assert len(statements_of(policy("x", labels=(Label("X", "x", many, (), 1),)))) == MAX_STATEMENTS


def test_calibration_moves_the_probability(tmp_path: Path) -> None:
    plain = load(model_file(tmp_path))
    (tmp_path / "b").mkdir()
    moved = load(model_file(tmp_path / "b", calibration=Platt(0.5, -3.0)))
    values = []
    for loaded in (plain, moved):
        scorer = Scorer(loaded.model, loaded.tokens, loaded.calibration)
        scorer.prepare(POLICIES[:1])
        values.append(scorer.score([("abc", POLICIES[0])])[0].value)
    expected = torch.sigmoid(0.5 * torch.logit(torch.tensor(values[0], dtype=torch.float64)) - 3.0)
    assert values[1] == pytest.approx(float(expected), abs=1e-9)


def test_a_files_slope_and_offset_are_platts_and_the_score_is_theirs_to_the_bit(tmp_path: Path) -> None:
    path = model_file(tmp_path, calibration=Platt(0.73, -1.31))
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["calibration"]) == {"slope": 0.73, "offset": -1.31}
    loaded = load(path)
    assert loaded.calibration == Platt(0.73, -1.31)
    scorer = Scorer(loaded.model, loaded.tokens, loaded.calibration)
    for logit in (-80.0, -3.3, -0.1, 0.0, 1e-9, 2.7182818284590455, 41.0):
        assert scorer._probability(logit) == float(torch.sigmoid(torch.tensor(0.73 * logit + -1.31, dtype=torch.float64)))


def test_a_file_with_a_calibration_that_is_none_is_refused(tmp_path: Path) -> None:
    path = model_file(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'slope\\": 1.0', b'slope\\": 0.0'))
    assert path.read_bytes() != whole
    with pytest.raises(ModelFileError, match="its calibration cannot be used"):
        load(path)


def test_an_altered_or_foreign_file_is_refused_with_a_remedy(tmp_path: Path) -> None:
    path = model_file(tmp_path)
    whole = load(path)
    assert len(whole.digest) == 64
    for content in (b"", path.read_bytes()[:1000], b"\x80\x04K\x01."):
        path.write_bytes(content)
        with pytest.raises(ModelFileError, match=r"cannot be read as an embedded model .* reinstall"):
            load(path)
    with pytest.raises(ModelFileError):
        load(tmp_path / "absent.safetensors")
