"""However an answer arrives, its score is that of the whole answer."""

import numpy as np
import pytest
import torch
from exactness import CLOSE, RUNNERS, Desk, Growing, apart, shared_gemma2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_models import TAIL, head_of, random_tokens

from guardrail.engine.cope.kv import KVSpan

ANSWERS = 5
SPLITS = 200  # of each answer: 1,000 sessions


@pytest.fixture(scope="module", params=RUNNERS)
def desk(request: pytest.FixtureRequest) -> Desk:
    torch.set_num_threads(1)
    return Desk(shared_gemma2(sliding_window=24, num_hidden_layers=2, num_key_value_heads=1), RUNNERS[request.param])


@pytest.fixture(scope="module")
def policy() -> np.ndarray:
    return random_tokens(np.random.default_rng(3), 70)


@pytest.fixture(scope="module")
def span(desk: Desk, policy: np.ndarray) -> KVSpan:
    return desk.prefix(policy)


def test_a_thousand_random_splits_end_at_one_score_each(desk: Desk, policy: np.ndarray, span: KVSpan):
    generator = np.random.default_rng(4)
    answers = [random_tokens(generator, int(length)) for length in generator.integers(6, 40, ANSWERS)]
    for answer in answers:
        expected = desk.naive(policy, answer, TAIL)
        cuts = [np.sort(generator.choice(np.arange(1, len(answer)), generator.integers(1, 4), replace=False)) for _ in range(SPLITS)]
        streams = [Growing(desk, span) for _ in cuts]
        for step in range(3):
            going = [(stream, cut) for stream, cut in zip(streams, cuts, strict=True) if step < len(cut)]
            desk.run([stream.row(answer[: cut[step]]) for stream, cut in going])
        found = desk.scores([stream.row(answer) for stream in streams])
        for stream in streams:
            stream.span.drop()
        assert apart(found, [expected] * SPLITS) < CLOSE


steps = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 20)), min_size=1, max_size=6)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps, seed=st.integers(0, 1000))
def test_every_step_is_exact_though_tails_merge_anew(desk: Desk, policy: np.ndarray, span: KVSpan, steps: list[tuple[int, int]], seed: int):
    generator = np.random.default_rng(seed)
    stream, content = Growing(desk, span), random_tokens(generator, 3)
    found, expected = [], []
    for lost, gained in steps:  # a tokenizer may spell the last few tokens anew when text follows
        content = np.concatenate([content[: max(1, len(content) - lost)], random_tokens(generator, gained)])
        found += desk.scores([stream.row(content)])
        expected.append(desk.naive(policy, content, TAIL))
    stream.span.drop()
    assert apart(found, expected) < CLOSE


def test_a_step_runs_only_what_is_new(desk: Desk, span: KVSpan):
    generator = np.random.default_rng(6)
    stream, content = Growing(desk, span), random_tokens(generator, 60)
    desk.run([stream.row(content[:48])])

    row = stream.row(content)

    assert len(row.tokens) == 12 + len(TAIL)
    stream.span.drop()


@pytest.mark.parametrize("kind", RUNNERS)
def test_the_probe_scores_each_kept_token(kind: str):
    desk = Desk(shared_gemma2(sliding_window=24), RUNNERS[kind], probe=True)
    generator = np.random.default_rng(7)
    policy, content = random_tokens(generator, 30), random_tokens(generator, 20)
    stream = Growing(desk, desk.prefix(policy))
    desk.run([stream.row(content[:8])])

    (read,) = desk.run([stream.row(content, probe=True)])

    prompt = torch.from_numpy(np.concatenate([policy, content]).astype(np.int64))[None]
    with torch.inference_mode():
        hidden = desk.model.model(input_ids=prompt, use_cache=False).last_hidden_state[0]
    expected = head_of(desk.model, probe=True).probe_scores(hidden)
    assert read is not None
    assert expected is not None
    assert apart(read.probe, expected[-12:].tolist()) < CLOSE
    assert np.ptp(read.probe) > 0.1
