"""Prompts for training are the engine's, token for token; packs give the answers and the gradient of prompts of their own."""

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_checkpoints import byte_level_tokenizer, gemma_tokenizer, tiny_base, tiny_checkpoint
from tiny_models import ONE, ZERO, naive, tiny_gemma2, tiny_llama, tiny_qwen2

from guardrail.engine.cope.checkpoint import LONGEST, load_tokens
from guardrail.engine.cope.head import AnswerHead
from guardrail.engine.cope.source import locate
from guardrail.engine.cope.tokens import PromptTokens
from guardrail.errors import GuardrailError
from guardrail.policy.prompt import render
from guardrail.training.causal import prompt_tokens
from guardrail.training.causal_data import Example
from guardrail.training.causal_learner import CausalLearner, Kept, Recipe
from guardrail.training.causal_model import Answers, Judge, assert_apart, losses, scores
from guardrail.training.causal_packs import Batch, Layout, Pack, Prompt, batches, epoch, packs, spell
from guardrail.training.lora import Lora, attach, learning, recompute

POLICIES = ("Content about {gardens}.\n\n\nCONTENT\n=======\n\nx", "# Policy\n\nContent that is rude. \n", "é {policy}")
CONTENTS = ("The tulips are out.", "\n\nANSWER\n======\n\n1", "Buy now!\n\n", "<bos><eos>", " x  ", "日本\u200b")
EXAMPLES = [Example(policy, content, n % 2, 1.0 + n, content, "") for n, policy in enumerate(POLICIES) for content in CONTENTS]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_token_ids_are_the_engine_s(tmp_path: Path) -> None:
    """Of the merged model's folder, as the classifier reads it; and those of the prompt as one text."""
    served, trained = load_tokens(tiny_checkpoint(tmp_path)), prompt_tokens(locate(tiny_base(tmp_path)), Recipe())
    assert served.digest == trained.digest
    assert trained.longest == LONGEST
    assert (served.zero, served.one, served.longest) == (trained.zero, trained.one, trained.longest)
    prompts, refused = spell(EXAMPLES, trained)
    assert refused == []
    for example, prompt in zip(EXAMPLES, prompts, strict=True):
        ids = np.concatenate([prompt.prefix, prompt.row])
        assert np.array_equal(ids, np.concatenate([served.prefix(example.policy), served.row(example.content).tokens]))
        assert np.array_equal(ids, served.whole(example.policy, example.content))
    plain = gemma_tokenizer()(render(POLICIES[1], CONTENTS[0], "A"))["input_ids"]
    assert plain == np.concatenate([prompts[6].prefix, prompts[6].row]).tolist()


@pytest.mark.parametrize("tokenizer", [byte_level_tokenizer, lambda: gemma_tokenizer(newline_tokens=False)])
def test_so_they_are_where_a_prompt_cannot_be_cut_in_its_header(tokenizer: Any) -> None:
    tokens = PromptTokens(tokenizer())
    prompts, _ = spell(EXAMPLES, tokens)
    for prompt in prompts:
        example = EXAMPLES[prompt.place]
        assert np.array_equal(np.concatenate([prompt.prefix, prompt.row]), tokens.whole(example.policy, example.content))


def test_what_is_too_long_is_counted_and_never_cut() -> None:
    tokens = PromptTokens(gemma_tokenizer(), longest=400)
    prompts, refused = spell([EXAMPLES[0], Example("p", "word " * 400, 1, 1.0, "w", ""), EXAMPLES[1]], tokens)
    assert [prompt.place for prompt in prompts] == [0, 2]
    assert len(refused) == 1
    assert "more than the 400 that fit" in refused[0]
    with pytest.raises(GuardrailError, match=r"none of the 1 examples fits: .*more than the 400"):
        spell([Example("p", "word " * 400, 1, 1.0, "w", "")], tokens)


def test_weights_are_the_rows_times_the_label_s() -> None:
    prompts, _ = spell(EXAMPLES[:2], PromptTokens(gemma_tokenizer()), positive=3.0)
    assert [prompt.weight for prompt in prompts] == [1.0, 1.0]
    prompts, _ = spell(EXAMPLES[6:8], PromptTokens(gemma_tokenizer()), positive=3.0)
    assert [prompt.weight for prompt in prompts] == [6.0, 6.0]


def some(policies: int, contents: int, seed: int = 0) -> list[Prompt]:
    dice = np.random.default_rng(seed)
    prefixes = [dice.integers(3, 500, 20 + 7 * n, dtype=np.int32) for n in range(policies)]
    return [
        Prompt(prefixes[n % policies], dice.integers(3, 500, int(dice.integers(3, 12)), dtype=np.int32), n % 2, 1.0 + n % 3, n)
        for n in range(policies * contents)
    ]


@given(st.integers(1, 6), st.integers(1, 12), st.integers(1, 9), st.sampled_from([40, 90, 400]), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_every_prompt_is_in_one_pass_of_an_epoch_and_passes_keep_to_their_limits(
    policies: int, contents: int, share: int, tokens: int, seed: int
) -> None:
    prompts = some(policies, contents, seed)
    layout = Layout(tokens=tokens, share=share, longest_pack=60, accumulate=2)
    steps = epoch(prompts, layout, str(seed))
    passes = [each for step in steps for each in step]
    assert sorted(prompt.place for each in passes for prompt in each.prompts) == list(range(len(prompts)))
    assert all(len(step) == 2 for step in steps[:-1])
    for each in passes:
        widest = max(pack.length for pack in each.packs)
        assert len(each.packs) * widest <= tokens or (len(each.packs) == 1 and len(each.prompts) == 1)
        for pack in each.packs:
            assert len(pack.prompts) <= share
            assert len({prompt.prefix.tobytes() for prompt in pack.prompts}) == 1
    assert [[prompt.place for each in step for prompt in each.prompts] for step in steps] == [
        [prompt.place for each in step for prompt in each.prompts] for step in epoch(prompts, layout, str(seed))
    ]


def test_packs_are_shuffled_by_the_seed_or_stand_as_in_the_file() -> None:
    prompts = sorted(some(6, 20), key=lambda prompt: len(prompt.prefix))  # as triples stand: a policy's contents together
    order = [[prompt.place for step in epoch(prompts, Layout(tokens=200), seed) for each in step for prompt in each.prompts]
             for seed in ("1:0", "1:1")]  # fmt: skip
    assert order[0] != order[1]
    filed = epoch(prompts, Layout(tokens=200, share=4, order="file", accumulate=1), "1")
    near = [prompt.prefix.size for step in filed for each in step for prompt in each.prompts]
    assert Counter(near) == Counter(prompt.prefix.size for prompt in prompts)


def test_like_lengths_stand_together() -> None:
    laid = batches(packs(some(9, 30), Layout(share=1)), Layout(tokens=400, share=1))
    padding = sum(len(each.packs) * max(pack.length for pack in each.packs) - each.tokens for each in laid)
    assert padding < 0.05 * sum(each.tokens for each in laid)
    widths = [max(pack.length for pack in each.packs) for each in laid]
    assert all(first >= second for first, second in pairwise(widths))


def mistral_like(**settings: Any) -> Any:
    """A window in every layer and no kinds of layers in the configuration."""
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(5)
    sizes = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = MistralForCausalLM(MistralConfig(**sizes, num_key_value_heads=2, **settings, attn_implementation="eager"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
    return model.eval().requires_grad_(False)


SMALL = {"num_hidden_layers": 2}
MODELS = {
    "gemma2": lambda: tiny_gemma2(**SMALL),
    "gemma2 whose window is full": lambda: tiny_gemma2(**SMALL, sliding_window=16),
    "qwen2": lambda: tiny_qwen2(**SMALL),
    "llama": lambda: tiny_llama(**SMALL),
    "mistral whose window is full": lambda: mistral_like(sliding_window=16),
}


@pytest.mark.parametrize("name", MODELS)
def test_scores_of_packs_are_those_of_whole_prompts_through_the_stock_model(name: str) -> None:
    model, prompts = MODELS[name](), some(3, 4)
    expected = [naive(model, np.concatenate([prompt.prefix, prompt.row]).tolist()) for prompt in prompts]
    for attention in ("eager", "sdpa") if "gemma2" not in name else ("eager",):
        model.set_attn_implementation(attention)
        judge = Judge(model, Answers(ZERO, ONE))
        for share in (1, 4):
            layout = Layout(tokens=200, share=share)
            laid = batches(packs(prompts, layout), layout)
            assert len(laid) < len(prompts)
            found, outside = scores(judge, laid)
            by_place = {prompt.place: score for prompt, score in zip((p for each in laid for p in each.prompts), found, strict=True)}
            assert [by_place[n] for n in range(len(prompts))] == pytest.approx(expected, abs=2e-5)
            assert all(0 <= share <= 1 for share in outside)
    assert max(expected) - min(expected) > 0.05  # contents and policies matter, so that equality says something


def test_the_gradient_of_a_pack_is_that_of_its_prompts_one_by_one() -> None:
    model = attach(tiny_gemma2(**SMALL, sliding_window=16), Lora(rank=2), seed=1)
    with torch.no_grad():
        for parameter in learning(model).values():
            parameter.normal_(0, 0.05)
    recompute(model.get_base_model())
    judge, prompts, found = Judge(model, Answers(ZERO, ONE)), some(2, 5), []
    for share in (1, 5):
        recipe = Recipe(layout=Layout(tokens=120 if share == 1 else 400, share=share, accumulate=99), outside=0.3)
        learner = CausalLearner(judge, prompts, Kept(), recipe)
        with judge.ready(training=True):
            for each in learner.passes(0):
                learner.loss(each).backward()
        found.append({name: parameter.grad.clone() for name, parameter in learner.parameters.items()})
        model.zero_grad()
    assert learner.saved > 2
    scale = max(float(gradient.abs().max()) for gradient in found[0].values())
    assert scale > 0
    assert max(float((found[0][name] - found[1][name]).abs().max()) for name in found[0]) < 2e-5 * scale


def test_recomputing_changes_the_memory_and_not_the_gradient() -> None:
    gradients = []
    for again in (False, True):
        model = attach(tiny_gemma2(**SMALL), Lora(rank=2, dropout=0.2), seed=1)
        if again:
            recompute(model.get_base_model())
        judge = Judge(model, Answers(ZERO, ONE))
        learner = CausalLearner(judge, some(2, 3), Kept(), Recipe())
        torch.manual_seed(3)
        held = [0]

        def keep(tensor: torch.Tensor, held: list[int] = held) -> torch.Tensor:
            held[0] += tensor.nbytes
            return tensor

        with judge.ready(training=True):
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                loss = learner.loss(learner.passes(0)[0])
            loss.backward()
        gradients.append(([parameter.grad for parameter in learner.parameters.values()], held[0]))
    (plain, much), (recomputed, little) = gradients
    assert all(torch.allclose(first, second, atol=1e-6) for first, second in zip(plain, recomputed, strict=True))
    assert little < 0.3 * much


def test_the_loss_is_the_engine_s_score_s_and_with_outside_one_the_vocabulary_s() -> None:
    model, prompts = tiny_gemma2(**SMALL), some(2, 3)
    judge = Judge(model, Answers(ZERO, ONE))
    batch = Batch(tuple(packs(prompts, Layout())))
    labels = torch.tensor([prompt.label for prompt in batch.prompts])
    with torch.no_grad():
        logits, total = judge.logits(batch, total=True)
        ids = [torch.from_numpy(np.concatenate([prompt.prefix, prompt.row]).astype(np.int64)) for prompt in batch.prompts]
        whole = torch.stack([model(input_ids=each[None]).logits[0, -1] for each in ids])
        states = torch.stack([model.model(input_ids=each[None]).last_hidden_state[0, -1] for each in ids])
    engine, engine_total, _ = AnswerHead.of(model, ZERO, ONE)(states, torch.arange(len(ids)))
    assert torch.allclose(logits, engine, atol=1e-4)
    assert torch.allclose(total, engine_total, atol=1e-3)
    p = torch.sigmoid(engine[:, 1] - engine[:, 0])
    two = losses(logits, None, labels, 0.0)
    assert torch.allclose(two, -torch.log(torch.where(labels == 1, p, 1 - p)), rtol=2e-3, atol=1e-4)
    answers = torch.tensor([ZERO, ONE])[labels]
    assert torch.allclose(
        losses(logits, total, labels, 1.0), torch.nn.functional.cross_entropy(whole, answers, reduction="none"), atol=1e-3
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_does_not_keep_contents_apart_is_refused(dtype: torch.dtype) -> None:
    class Careless(Judge):
        def _masks(self, places: Any, segments: Any) -> Any:
            return super()._masks(places, segments.clamp(max=0))

    prompts = packs(some(1, 4), Layout())
    assert assert_apart(Judge(tiny_gemma2(**SMALL, dtype=dtype), Answers(ZERO, ONE)), prompts) < 0.2
    with pytest.raises(GuardrailError, match=r"contents that share a policy move each other's scores .* \(--share 1\)"):
        assert_apart(Careless(tiny_gemma2(**SMALL, dtype=dtype), Answers(ZERO, ONE)), prompts)


def test_a_model_that_does_not_heed_places_is_refused() -> None:
    class Careless(Judge):
        def logits(self, batch: Batch, *, total: bool) -> Any:
            inner, self._whole = self._whole, lambda: None
            self._whole.base_model = lambda position_ids=None, **inputs: inner.base_model(**inputs)
            try:
                return super().logits(batch, total=total)
            finally:
                self._whole = inner

    with pytest.raises(GuardrailError, match=r"in this architecture; train with each prompt whole"):
        assert_apart(Careless(tiny_gemma2(**SMALL), Answers(ZERO, ONE)), packs(some(1, 4), Layout()))


def test_sixteen_bits_train_the_adapter_in_thirty_two() -> None:
    model = attach(tiny_gemma2(**SMALL, dtype=torch.bfloat16), Lora(rank=2), seed=1)
    recompute(model.get_base_model())
    judge, prompts = Judge(model, Answers(ZERO, ONE)), some(2, 4)
    learner = CausalLearner(judge, prompts, Kept(), Recipe())
    with judge.ready(training=True):
        for each in learner.passes(0):
            learner.loss(each).backward()
    ups = [parameter for name, parameter in learner.parameters.items() if "lora_B" in name]
    assert {parameter.grad.dtype for parameter in ups} == {torch.float32}
    assert all(parameter.grad.isfinite().all() and parameter.grad.abs().max() > 0 for parameter in ups)
    assert assert_apart(judge, [Pack(tuple(prompts[::2]))]) < 0.06


def test_examples_count_by_their_weights() -> None:
    judge, prompts = Judge(tiny_gemma2(**SMALL), Answers(ZERO, ONE)), some(2, 3)
    learner = CausalLearner(judge, prompts, Kept(), Recipe(outside=0.0))
    (batch,) = learner.passes(0)
    found, _ = scores(judge, [batch])
    expected = sum(-prompt.weight * np.log(p if prompt.label else 1 - p) for prompt, p in zip(batch.prompts, found, strict=True))
    assert len({prompt.weight for prompt in prompts}) > 1
    assert float(learner.loss(batch)) == pytest.approx(expected, rel=1e-3)


def test_without_examples_there_is_nothing_to_learn() -> None:
    judge = Judge(tiny_gemma2(**SMALL), Answers(ZERO, ONE))
    with pytest.raises(GuardrailError, match="no examples to learn from"):
        CausalLearner(judge, [], Kept(), Recipe())
