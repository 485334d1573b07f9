"""The fast way to run the embedded reader computes what the network's own modules compute, whatever is asked together."""

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import CONFIG

from guardrail.classifiers.embedded import SHIPPED
from guardrail.engine import onednn
from guardrail.engine.embedded import plan
from guardrail.engine.embedded.attention import attend, attend_shifted
from guardrail.engine.embedded.fast import FastReader
from guardrail.engine.embedded.model import PolicyReader, ReaderConfig
from guardrail.engine.embedded.plain import PlainReader
from guardrail.engine.embedded.plan import Plan, roomy
from guardrail.engine.embedded.scorer import Scorer
from guardrail.engine.embedded.token_match import Encoded
from guardrail.engine.embedded.weights import load
from guardrail.policy.registry import load_folder, shipped_folder

TEXTS = (
    "How often should a pony be shod?",
    "Thank you so much, that was exactly what I needed!",
    "The train was late again. " * 12,
    "Draft an e-mail that turns down a meeting politely, and keep it under forty words if you can.",
    "Hello",
)


def network(config: ReaderConfig = CONFIG, *, seed: int = 0) -> PolicyReader:
    """Random weights, not so small that every text looks alike."""
    torch.manual_seed(seed)
    model = PolicyReader(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(1.5)
        model.match.idle[:20] = True
    return model.eval()


def statements(model: PolicyReader, count: int, random: torch.Generator) -> Encoded:
    """So many random statements, some of whose words are compared."""
    lengths = torch.randint(1, 14, (count,), generator=random)
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    return model.encode_statements(torch.randint(4, 64, mask.shape, generator=random), mask)


def both(model: PolicyReader, texts: list[list[int]], sizes: list[int], pairs: list[tuple[int, int]]) -> tuple[list[float], list[float]]:
    """The logits of the fast and of the plain reader, for random policies of so many statements."""
    found = []
    for reader in (FastReader(model), PlainReader(model)):
        random = torch.Generator().manual_seed(1)
        with torch.inference_mode():
            kept = [reader.resident(statements(model, size, random), torch.randint(4, (size,), generator=random)) for size in sizes]
        found.append(reader.read(texts, kept, pairs))
    return found[0], found[1]


def furthest(one: list[float], other: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


@st.composite
def questions(draw: st.DrawFn) -> tuple[list[list[int]], list[int], list[tuple[int, int]]]:
    """Texts of a few lengths (some alike), policies of 1 to 48 statements, and any pairs of them that ask about each text."""
    lengths = draw(st.lists(st.sampled_from((2, 3, 3, 7, 16, 16, 33, 90)), min_size=1, max_size=7))
    texts = [[(7 * place + 3 * row) % 60 + 4 for place in range(length)] for row, length in enumerate(lengths)]
    sizes = draw(st.lists(st.one_of(st.sampled_from((1, 20, 22, 48)), st.integers(1, 48)), min_size=1, max_size=6))
    asked = [draw(st.sets(st.integers(0, len(sizes) - 1), min_size=1)) for _ in texts]
    pairs = draw(st.permutations([(text, policy) for text, policies in enumerate(asked) for policy in sorted(policies)]))
    return texts, sizes, pairs


@settings(max_examples=60, deadline=None)
@given(questions())
def test_any_mix_of_texts_and_policies_has_the_plain_readers_logits(
    asked: tuple[list[list[int]], list[int], list[tuple[int, int]]],
) -> None:
    assert furthest(*both(network(), *asked)) < 1e-4


@pytest.mark.parametrize(("trunk", "reader"), [(1, 1), (3, 1), (2, 2), (4, 3)])
def test_networks_of_other_depths_agree_too(trunk: int, reader: int) -> None:
    config = ReaderConfig(vocab_size=64, hidden=32, heads=4, inner=64, trunk_layers=trunk, reader_layers=reader, max_positions=256)
    assert furthest(*both(network(config), [[5, 6, 7], [9] * 20, [8, 7, 6]], [3, 1, 9], [(0, 0), (1, 2), (2, 0), (1, 1), (2, 2)])) < 1e-4


def test_small_passes_and_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    texts, sizes = [[4 + row] * 12 for row in range(6)], [5, 6, 6, 20]
    pairs = [(text, policy) for text in range(6) for policy in range(4)]
    plan._blocks.cache_clear()
    monkeypatch.setattr(plan, "ROWS_A_PASS", 13)
    monkeypatch.setattr(plan, "SCORES_A_PIECE", 1500)
    assert len(Plan(texts, sizes, pairs, 4).passes) > 6
    assert furthest(*both(network(), texts, sizes, pairs)) < 1e-4
    plan._blocks.cache_clear()


def test_scores_beyond_the_range_of_floats_are_read_again_with_a_shift() -> None:
    model = network()
    with torch.no_grad():
        for layer in (*model.trunk, *model.reader):
            layer.query.weight.mul_(30)
    fast, plain = both(model, [[5, 6, 7, 8], [9] * 20], [3, 4], [(0, 0), (1, 1)])
    assert all(map(math.isfinite, fast))
    assert furthest(fast, plain) < 1e-2
    with torch.no_grad():
        model.head.bias.fill_(math.nan)
    assert all(map(math.isnan, both(model, [[5, 6]], [3], [(0, 0)])[0]))


@pytest.mark.parametrize("look", [attend, attend_shifted])
def test_attention_over_parts_is_one_softmax_over_all_keys(look) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    n, heads, policies, width, tokens, size = 2, 3, 4, 5, 7, 8
    query, text = torch.randn(n, heads, policies * width, size), torch.randn(2, n, heads, tokens, size)
    own = torch.randn(2, n, heads, policies, width, size)
    absent = torch.zeros(policies, 1, width, dtype=torch.bool)
    absent[1, 0, 3:] = True
    seen = look(query, [(*text, None), (*own, absent)])
    for policy in range(policies):
        real = width - int(absent[policy].sum())
        rows = slice(policy * width, (policy + 1) * width)
        key, value = (torch.cat([text[half], own[half][:, :, policy, :real]], dim=2) for half in (0, 1))
        torch.testing.assert_close(seen[:, :, rows], F.scaled_dot_product_attention(query[:, :, rows], key, value), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [300.0, -300.0, -40.0])
def test_attention_says_when_it_has_left_the_range_of_floats(size: float) -> None:
    query, key, value = torch.full((1, 1, 1, 4), size), torch.ones(1, 1, 3, 4), torch.arange(12.0).view(1, 1, 3, 4)
    assert attend(query, [(key, value, None)]).isnan().all()
    torch.testing.assert_close(attend_shifted(query, [(key, value, None)]), value.mean(2, keepdim=True))


@pytest.mark.parametrize("here", [True, False])
@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_a_laid_out_product_is_the_product(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, near: float, *, here: bool) -> None:
    monkeypatch.setattr(onednn, "_HERE", here and onednn._HERE)
    torch.manual_seed(0)
    weight, bias, inputs, beside = (torch.randn(*shape).to(dtype) for shape in ((24, 16), (24,), (5, 16), (5, 24)))
    with torch.inference_mode():
        linear = onednn.Linear(weight, bias)
        plain = F.linear(inputs.double(), weight.double(), bias.double())
        for found, expected in (
            (linear(inputs), plain),
            (linear.gelu(inputs), F.gelu(plain)),
            (linear.plus(inputs, beside), plain + beside),
        ):
            assert found.dtype == dtype
            torch.testing.assert_close(found.double(), expected, atol=near, rtol=near)


def test_roomy_numbers_are_few_and_not_much_above() -> None:
    numbers = [roomy(count) for count in range(1, 5000)]
    assert all(count <= number <= max(count + 7, count * 1.07) for count, number in enumerate(numbers, 1))
    assert all(before <= after for before, after in pairwise(numbers))
    assert len(set(numbers)) < 120


@pytest.fixture(scope="module")
def shipped() -> dict[str, list[float]]:
    """Probabilities of the texts under three policies: plain and fast in fp32, fast in bfloat16 at once and one by one."""
    policies = load_folder(shipped_folder())[::3]
    asked = [(text, policy) for text in TEXTS for policy in policies]
    found = {}
    for name, dtype, reader in (
        ("plain", torch.float32, PlainReader),
        ("fast", torch.float32, FastReader),
        ("short", torch.bfloat16, FastReader),
    ):
        loaded = load(SHIPPED)
        scorer = Scorer(loaded.model, loaded.tokens, loaded.calibration, dtype=dtype, reader=reader)
        scorer.prepare(policies)
        found[name] = [each.value for each in scorer.score(asked)]
        found[f"{name} alone"] = [scorer.score([pair])[0].value for pair in asked[::4]]
    return found


def test_the_shipped_weights_give_the_plain_readers_scores(shipped: dict[str, list[float]]) -> None:
    assert furthest(shipped["fast"], shipped["plain"]) < 1e-5


def test_half_precision_stays_near_and_hardly_moves_with_its_company(shipped: dict[str, list[float]]) -> None:
    assert furthest(shipped["short"], shipped["plain"]) < 0.016
    assert furthest(shipped["short alone"], shipped["short"][::4]) < 0.011
