"""What the sections share: the model and its runner, how time is taken, how results are written."""

import gc
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from guardrail.engine.cope.cuda.runner import CudaRunner, Limits
from guardrail.engine.cope.head import AnswerHead
from guardrail.engine.cope.kv import KVPool, KVShape, KVSpan
from guardrail.engine.cope.packed_weights import PackedWeights
from guardrail.engine.cope.rows import Row
from guardrail.engine.cope.runner import Runner, execute
from guardrail.evaluation.engine_models import random_gemma2

GIB = 1 << 30
ZERO, ONE = 10, 11


@dataclass(frozen=True)
class Sizes:
    """How much of everything a run measures: `question` tokens stand behind every content; lengths in tokens."""

    policies: tuple[int, ...] = (300, 1500, 4000)
    contents: tuple[int, ...] = (64, 128, 256, 512, 1000)
    question: int = 9
    passes: tuple[int, ...] = (16, 64, 128, 256, 512, 1024, 2048)
    resident: int = 2000
    singles: int = 60
    seconds: float = 0.6
    repeats: int = 20
    streams: tuple[int, ...] = (1, 8, 32, 128)
    grown: int = 500
    step: int = 16
    many: tuple[int, ...] = (1, 10, 40, 80)
    many_length: int = 1500
    chunks: tuple[int, ...] = (0, 128, 256, 512)
    products: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048)
    probes: int = 24
    longest: int = 8192
    reserve: int = 8 * GIB
    copied: int = GIB
    square: int = 8192


TINY = Sizes(
    policies=(10,), contents=(4,), question=3, passes=(16,), resident=10, singles=1, seconds=0.0, repeats=1, streams=(2,), grown=6, step=2,
    many=(1, 2), many_length=5, chunks=(0, 5), products=(16,), probes=1, longest=128, reserve=0, copied=1 << 16, square=64,
)  # fmt: skip


@dataclass(frozen=True)
class Table:
    """One table of results: a list of rows, values in the order of `columns`."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    note: str = ""

    def __str__(self) -> str:
        lines = [f"### {self.title}", "", f"| {' | '.join(self.columns)} |", "|" + "---|" * len(self.columns)]
        lines += [f"| {' | '.join(shown(value) for value in row)} |" for row in self.rows]
        return "\n".join([*lines, *(["", self.note] if self.note else []), ""])


def shown(value: Any) -> str:
    """Three digits that count, no more."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


class Bench:
    """One run: the random model on the device, the runner under test, the machine's measured ceilings, what was found so far."""

    def __init__(self, shape: str, device: str, sizes: Sizes, *, out: Path, minutes: float) -> None:
        self.shape, self.device, self.sizes, self.out = shape, torch.device(device), sizes, out
        self.on_gpu = self.device.type == "cuda"
        self.dtype = torch.bfloat16 if self.on_gpu else torch.float32
        self.deadline = time.monotonic() + 60 * minutes
        self.flops_per_s = self.bytes_per_s = 1e12
        self.dice = np.random.default_rng(20_260_101)
        self.found: dict[str, Any] = {}
        changes = (
            {}
            if self.on_gpu
            else {"num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}
        )
        self.model = random_gemma2(shape, dtype=self.dtype, device=self.device, **changes)
        self.weights = PackedWeights.from_gemma2(self.model)
        self.head = AnswerHead.of(self.model, ZERO, ONE)
        self.runner: CudaRunner | None = None

    @property
    def left(self) -> float:
        """Seconds until the run should end."""
        return self.deadline - time.monotonic()

    def sync(self) -> None:
        """Wait for the device."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def pool(self, tokens: int | None = None) -> KVPool:
        """A KV pool of so many tokens, or of what memory is left less the reserve."""
        shape = KVShape.of(self.model.config)
        if tokens is None:
            self.collect()
            free = torch.cuda.mem_get_info()[0] if self.on_gpu else 40 * 64 * shape.bytes_per_token(self.dtype)
            return KVPool(shape, budget_bytes=int(free) - self.sizes.reserve, dtype=self.dtype, device=self.device)
        room = (tokens // 64 + 2) * 64 * shape.bytes_per_token(self.dtype)
        return KVPool(shape, budget_bytes=room, dtype=self.dtype, device=self.device)

    def make(self, pool: KVPool | None = None, weights: PackedWeights | None = None) -> CudaRunner:
        """A runner under test."""
        limits = Limits(longest=self.sizes.longest, most_tokens=max(self.sizes.passes), processors=None if self.on_gpu else 1)
        return CudaRunner(weights or self.weights, pool or self.pool(), self.head, limits)

    def live(self) -> CudaRunner:
        """The runner that the timed sections share."""
        if self.runner is None:
            self.runner = self.make()
        return self.runner

    def drop(self) -> None:
        """Give its pool and graphs back."""
        self.runner = None
        self.collect()

    def collect(self) -> None:
        """Give what nobody uses any more back to the device."""
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()

    def tokens(self, count: int) -> NDArray[np.int32]:
        """Fresh random ids."""
        return self.dice.integers(16, self.model.config.vocab_size, count, dtype=np.int32)

    def resident(self, runner: Runner, tokens: NDArray[np.int32] | int) -> KVSpan:
        """A policy, run in the largest portions."""
        ids = self.tokens(tokens) if isinstance(tokens, int) else tokens
        span = KVSpan(runner.pool)
        for start in range(0, len(ids), runner.most_tokens):
            part = ids[start : start + runner.most_tokens]
            execute(runner, [Row(part, (span,) if span.length else (), span, len(part), read=False)])
        return span

    def question(self, span: KVSpan, content: int) -> Row:
        """A check of fresh content."""
        return Row(self.tokens(content + self.sizes.question), (span,))

    def timed(self, run: Callable[[], object], repeats: int | None = None) -> list[float]:
        """Milliseconds of each of `repeats` runs, after one that is not counted: by the device's clock where it has one."""
        self.warm(run)
        found = []
        for _ in range(repeats or self.sizes.repeats):
            if self.on_gpu:
                begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                begin.record()
                run()
                end.record()
                end.synchronize()
                found.append(begin.elapsed_time(end))
            else:
                began = time.perf_counter()
                run()
                found.append(1e3 * (time.perf_counter() - began))
        return found

    def warm(self, run: Callable[[], object]) -> None:
        """One run that is not counted; a dry one needs none."""
        if self.on_gpu:
            run()
            self.sync()

    def wall(self, run: Callable[[], object], repeats: int) -> list[float]:
        """Milliseconds as a caller sees them, after one run that is not counted."""
        self.warm(run)
        found = []
        for _ in range(repeats):
            began = time.perf_counter()
            run()
            self.sync()
            found.append(1e3 * (time.perf_counter() - began))
        return found

    def graphed(self, run: Callable[[], object], repeats: int | None = None) -> float:
        """Median milliseconds of a run without launch gaps: captured where there is a GPU."""
        if not self.on_gpu:
            return statistics.median(self.timed(run, repeats))
        self.warm(run)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        return statistics.median(self.timed(graph.replay, repeats))

    def keep(self, section: str, tables: Sequence[Table], seconds: float) -> None:
        """Note a section's results and write all that there are."""
        self.found[section] = {**self.found.get(section, {}), "seconds": seconds, "tables": [asdict(table) for table in tables]}
        self.write()

    def fail(self, section: str, why: str) -> None:
        """Note that a section did not come to its end."""
        self.found[section] = {"failed": why}
        self.write()

    def write(self) -> None:
        """`gpu_engine.json` and `gpu_engine.md`."""
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "gpu_engine.json").write_text(json.dumps(self.found, indent=1, default=str), encoding="utf-8")
        parts = [f"# The engine on {self.found.get('machine', {}).get('device', self.device)}: {self.shape}, {self.dtype}", ""]
        for name, section in self.found.items():
            parts += [f"## {name}", ""]
            if "failed" in section:
                parts += [f"failed: {section['failed']}", ""]
            parts += [str(Table(**table)) for table in section.get("tables", [])]
        (self.out / "gpu_engine.md").write_text("\n".join(parts), encoding="utf-8")


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
