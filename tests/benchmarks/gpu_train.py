"""What fine-tuning a Gemma-2-9B into a CoPE costs on one GPU: the loop of `guardrail train cope` on random weights, some two minutes.

    PYTHONPATH=. python3 tests/benchmarks/gpu_train.py --out "$OUT"

Needs torch with CUDA, transformers, peft and numpy, and an 80 GB card; nothing is downloaded: the model is made on the device. Twenty steps
with contents of a policy behind it once, as many with each prompt whole, and one pass of a prompt as long as any may be. Prints one JSON
object, and writes it to `gpu_train.json`: tokens a second, model FLOPs utilisation, peak memory. A dry run, whose times mean nothing:

    PYTHONPATH=. python3 tests/benchmarks/gpu_train.py --shape tiny --device cpu --out /tmp/dry
"""

import argparse
import gc
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from guardrail.errors import GuardrailError
from guardrail.evaluation.engine_models import SHAPES, Shape, random_gemma2, shape_of
from guardrail.training.causal_learner import CausalLearner, Kept, Recipe
from guardrail.training.causal_model import Answers, Judge, adapted, assert_apart
from guardrail.training.causal_packs import Batch, Layout, Prompt, packs
from guardrail.training.checkpoints import Keeper
from guardrail.training.lora import Lora
from guardrail.training.steps import Pace, Progress, Upkeep, peak_memory, run

ZERO, ONE = 10, 11
WARM_UP = 3  # steps that are not timed
PEAKS = {"H200": 989e12, "H100 80GB HBM3": 989e12, "H100 PCIe": 756e12, "A100": 312e12}  # dense bf16, by NVIDIA's data sheets


@dataclass(frozen=True)
class Sizes:
    """Tokens of a policy, of a content with its question, of the longest prompt; contents of each policy; tokens of a pass."""

    policy: int = 800
    content: int = 96
    longest: int = 8000
    contents: int = 32
    tokens: int = 8192
    rank: int = 16


SIZES = {"tiny": Sizes(40, 12, 300, 8, 256, 2), "small": Sizes(tokens=2048, longest=2000)}


def main() -> int:
    """Exit status 0 when every lane came to its end."""
    told = parsed()
    torch.set_num_threads(1)
    if told.device == "cuda" and not torch.cuda.is_available():
        print("torch sees no GPU; for a dry run on the CPU see the top of this file", file=sys.stderr)
        return 2
    device = torch.device(told.device)
    sizes = SIZES.get(told.shape, Sizes())
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    began = time.monotonic()
    recipe = Recipe(lora=Lora(rank=sizes.rank, alpha=2 * sizes.rank), pace=Pace(rate=1e-4), steps=told.steps)
    judge = adapted(random_gemma2(told.shape, dtype=dtype, device=device), Answers(ZERO, ONE), recipe.lora, seed=1)
    found: dict[str, Any] = {
        "shape": told.shape,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "dtype": str(dtype).removeprefix("torch."),
        "sizes": asdict(sizes),
        "made_s": round(time.monotonic() - began, 1),
        "weights_bytes": sum(weight.nbytes for weight in judge.model.parameters()),
        "lanes": {},
    }
    prompts = questions(sizes, told.steps, SHAPES[told.shape].vocab_size)
    try:
        found["packed_against_alone"] = assert_apart(judge, packs(prompts, recipe.layout))
    except GuardrailError as error:  # rounding of random weights may look like it: what is fast is measured all the same
        found["packed_against_alone"] = str(error)
    for name, share, chosen in (
        ("shared", 16, prompts),
        ("whole", 1, prompts),
        ("longest", 1, [longest(sizes, SHAPES[told.shape].vocab_size)]),
    ):
        steps = 1 + WARM_UP if name == "longest" else told.steps
        found["lanes"][name] = lane(judge, chosen, Layout(tokens=sizes.tokens, share=share, accumulate=1), steps)
        write(told.out, found)
    print(json.dumps(found, indent=1))
    return 1 if any("failed" in each for each in found["lanes"].values()) else 0


def lane(judge: Judge, prompts: Sequence[Prompt], layout: Layout, steps: int) -> dict[str, Any]:
    """So many steps of one layout through the loop that trains; what it took, or why it stopped."""
    recipe = Recipe(layout=layout, steps=steps)
    learner = CausalLearner(judge, prompts, Kept(), recipe)
    gc.collect()
    if judge.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(judge.device)
    times, losses = [time.monotonic()], []

    def report(progress: Progress) -> None:
        times.append(time.monotonic())  # the loss was read, so the device is done
        losses.append(progress.loss)

    try:
        with tempfile.TemporaryDirectory() as folder, judge.ready(training=True):
            run(learner, Pace(), Upkeep(checkpoint_every=0), Keeper(Path(folder), {}), report=report)
    except torch.OutOfMemoryError as error:
        return {"failed": str(error).splitlines()[0]}
    passes = [each for step in range(steps) for each in learner.passes(step)]
    seconds = [after - before for before, after in itertools.pairwise(times)][WARM_UP:-1] or [times[-1] - times[0]]
    timed = passes[WARM_UP:-1] or passes
    step_s = statistics.median(seconds)
    tokens, spelled = (statistics.mean(getattr(each, name) for each in timed) for name in ("tokens", "spelled"))
    flops = statistics.mean(work(each, shape_of(judge.model.get_base_model().config), learner) for each in timed)
    peak = next((peak for name, peak in PEAKS.items() if judge.device.type == "cuda" and name in torch.cuda.get_device_name()), None)
    return {
        "steps": steps,
        "step_s": round(step_s, 4),
        "tokens_per_s": round(tokens / step_s, 1),
        "prompt_tokens_per_s": round(spelled / step_s, 1),
        "examples_per_s": round(statistics.mean(len(each.prompts) for each in timed) / step_s, 2),
        "model_tflops_per_s": round(flops / step_s / 1e12, 3),
        "mfu": None if peak is None else round(flops / step_s / peak, 4),
        "peak_memory_bytes": peak_memory(judge.device),
        "loss_first": round(losses[0], 4),
        "loss_last": round(losses[-1], 4),
    }


def work(batch: Batch, shape: Shape, learner: CausalLearner) -> float:
    """FLOPs that a pass is worth: forward and back through frozen weights and attention, the adapter's gradients; nothing twice.

    Recomputing layers, padding and the reads over the vocabulary are not counted, so utilisation is a lower bound.
    """
    seen = 0
    for pack in batch.packs:
        first = len(pack.prompts[0].prefix)
        seen += first * (first + 1) // 2
        seen += sum(len(prompt.row) * first + len(prompt.row) * (len(prompt.row) + 1) // 2 for prompt in pack.prompts)
    width = shape.num_attention_heads * shape.head_dim
    adapter = sum(parameter.numel() for parameter in learner.parameters.values())
    return (4 * shape.body_weights + 6 * adapter) * batch.tokens + 12 * shape.num_hidden_layers * width * seen


def questions(sizes: Sizes, steps: int, vocabulary: int) -> list[Prompt]:
    """Prompts enough for so many steps of whole prompts; contents of several lengths."""
    dice = np.random.default_rng(7)
    wanted = steps * max(1, sizes.tokens // (sizes.policy + sizes.content)) + sizes.contents
    found: list[Prompt] = []
    while len(found) < wanted:
        prefix = dice.integers(20, vocabulary, sizes.policy, dtype=np.int32)
        for _ in range(sizes.contents):
            length = int(dice.integers(sizes.content // 2, 3 * sizes.content // 2))
            row = dice.integers(20, vocabulary, length, dtype=np.int32)
            found.append(Prompt(prefix, row, int(row[0] % 2), 1.0, len(found)))
    return found


def longest(sizes: Sizes, vocabulary: int) -> Prompt:
    """One as long as any may be."""
    dice = np.random.default_rng(8)
    half = sizes.longest // 2
    return Prompt(*(dice.integers(20, vocabulary, half, dtype=np.int32) for _ in range(2)), 1, 1.0, 0)


def write(folder: Path, found: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu_train.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shape", default="gemma-2-9b", choices=list(SHAPES))
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("results"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
