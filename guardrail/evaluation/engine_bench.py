"""One run of the engine's bench: a random model, ceilings of the machine, predictions, then everything side by side in one process."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch

from guardrail.engine.cope.head import AnswerHead
from guardrail.engine.cope.kv import PAGE, KVPool, KVShape
from guardrail.engine.cope.memory import available
from guardrail.engine.cope.runner import Runner
from guardrail.engine.cope.runners import Ground, Kind, candidates, make_runner, pack
from guardrail.errors import GuardrailError
from guardrail.evaluation.engine_baselines import Transformers
from guardrail.evaluation.engine_lanes import BANDS, NAIVE, OURS, Terms, llama_lanes, our_lanes, served_lanes, transformers_lanes
from guardrail.evaluation.engine_llama import left_out, opened
from guardrail.evaluation.engine_models import Shape, random_gemma2, shape_of
from guardrail.evaluation.engine_ours import PASS_TOKENS, Ours, Resident, residents
from guardrail.evaluation.engine_roofline import Ceilings, Roofline, better, ceilings
from guardrail.evaluation.engine_room import Room, room
from guardrail.evaluation.engine_rounds import Lane, Line, Watch, Yardstick, lines, measure, peak_rss
from guardrail.evaluation.engine_served import served
from guardrail.evaluation.engine_streams import TOGETHER, Growth, Streaming, Streams
from guardrail.evaluation.engine_work import ONE, POLICIES, ZERO, Lengths, Work, work

PARTS = ("generate", "padded", "cache", "llama", "ours", "engine", "resident", "streams")
OURS_PARTS = {"ours", "resident", "streams"}
Device = Literal["cpu", "cuda"]
DTYPES = {"cpu": torch.float32, "cuda": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Settings:
    """What is measured. `requests`: of the slow ways, in each round. `resident`: how many policies are resident at once, each measured."""

    shape: str = "small"
    device: Device = "cpu"
    runner: Kind = "auto"
    threads: int = 1
    lengths: Lengths = field(default_factory=Lengths)
    growth: Growth = field(default_factory=Growth)
    rounds: int = 3
    requests: int = 4
    resident: tuple[int, ...] = (1, 4, 16, 64, 100)
    parts: tuple[str, ...] = PARTS


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes: of the weights, of one resident token, of one policy, of the pool; the most the process and the device have had."""

    weights: int
    kv_token: int
    kv_policy: int
    pool: int
    peak_process: int | None
    peak_device: int | None


@dataclass(frozen=True, slots=True)
class Results:
    """Everything that was found, and sentences about what was left out or went wrong.

    `right`: whether every answer of the engine itself, in every part, was as near to the naive ones as its dtype allows.
    """

    settings: Settings
    shape: Shape
    dtype: str
    runner: str
    ceilings: Ceilings
    lines: tuple[Line, ...]
    residents: tuple[Resident, ...]
    streams: Streams | None
    memory: Memory
    right: bool
    notes: tuple[str, ...]


def run(settings: Settings, watch: Watch) -> Results:
    """Measure. Raises GuardrailError when memory does not hold what is asked for, or a device is not there."""
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise GuardrailError("there is no CUDA device here; measure with --device cpu")
    torch.set_num_threads(settings.threads)
    device, dtype = torch.device(settings.device), DTYPES[settings.device]
    model = random_gemma2(settings.shape, dtype=dtype, device=device)
    shape = shape_of(model.config)
    growth = settings.growth.answer + settings.growth.fork if "streams" in settings.parts else 0
    longest = settings.lengths.policy + max(settings.lengths.row, growth)
    if longest > shape.max_position_embeddings:
        raise GuardrailError(f"policy and what stands behind it have {longest} tokens; the model reads {shape.max_position_embeddings}")
    return _Run(settings, model, shape, watch).results()


class _Run:
    def __init__(self, settings: Settings, model: Any, shape: Shape, watch: Watch) -> None:
        self._settings = settings
        self._model = model
        self._shape = shape
        self._watch = watch
        self._notes: list[str] = []
        self._runner_name = "none"
        self._parameter = next(model.parameters())
        self._work: Work = work(shape.vocab_size, settings.lengths)
        self._baseline = Transformers(model, self._work)

    def results(self) -> Results:
        """Ceilings first, then predictions, then measurements; the ceilings once more at the end, for shares of them."""
        settings, fits = self._settings, self._room()
        before = self._ceilings()
        roofline = Roofline(self._shape, self._parameter.dtype.itemsize, before)
        ours = Ours(self._runner(fits.nbytes), self._work) if OURS_PARTS & set(settings.parts) else None
        known = {(number, number): self._baseline.judge(number, number) for number in range(POLICIES)}
        with contextlib.ExitStack() as stack:
            lanes = self._lanes(stack, Terms(settings.lengths, settings.requests, self._parameter.dtype, roofline), ours)
            taken = measure(lanes, settings.rounds, self._watch)
        around = tuple(residents(ours, fits.resident, settings.rounds, known, self._watch)) if ours and fits.resident else ()
        streams = None
        if ours and "streams" in settings.parts:
            streams = Streaming(ours, settings.growth, self._baseline.answer).measure(settings.rounds, roofline, self._watch)
        best = better(before, self._ceilings())
        judged = lines(lanes, taken, Yardstick(NAIVE, known, replace(roofline, ceilings=best)))
        return Results(
            settings=settings,
            shape=self._shape,
            dtype=str(self._parameter.dtype).removeprefix("torch."),
            runner=self._runner_name,
            ceilings=best,
            lines=tuple(judged),
            residents=around,
            streams=streams,
            memory=self._memory(fits.nbytes),
            right=self._right(judged, around, streams),
            notes=(*self._notes, *_wrong(judged)),
        )

    def _lanes(self, stack: contextlib.ExitStack, terms: Terms, ours: Ours | None) -> list[Lane]:
        settings = self._settings
        lanes = transformers_lanes(self._baseline, terms, settings.parts)
        if "llama" in settings.parts:
            if reason := left_out(self._model):
                self._notes.append(reason)
            else:
                lanes += llama_lanes(stack.enter_context(opened(self._model, self._work, threads=settings.threads)), terms)
        if ours and "ours" in settings.parts:
            lanes += our_lanes(ours, terms)
        if "engine" in settings.parts:
            runner = self._runner(self._token_bytes() * (POLICIES + 1) * (settings.lengths.whole + 2 * PAGE))
            engine = stack.enter_context(served(runner, self._work, longest=self._shape.max_position_embeddings))
            lanes += served_lanes(engine, terms, runner.most_tokens)
        return lanes

    def _ceilings(self) -> Ceilings:
        row, step = self._settings.lengths.row, self._settings.growth.step + self._settings.growth.fork
        return ceilings(self._model, (1, step, TOGETHER * step, row, 8 * row))

    def _room(self) -> Room:
        settings, parameter = self._settings, self._parameter
        asked = settings.resident if "resident" in settings.parts else ()
        found = room(settings.lengths, settings.growth, asked, self._token_bytes(), available(parameter.device))
        if found.left_out:
            self._notes.append(f"{', '.join(map(str, found.left_out))} resident policies were not measured: memory does not hold them.")
        return found

    def _token_bytes(self) -> int:
        return KVShape.of(self._model.config).bytes_per_token(self._parameter.dtype)

    def _runner(self, pool_bytes: int) -> Runner:
        model, parameter = self._model, self._parameter
        names = candidates(self._settings.runner, model, parameter.device)
        weights = pack(names, model, {})
        pool = KVPool(KVShape.of(model.config), budget_bytes=pool_bytes, dtype=parameter.dtype, device=parameter.device)
        longest = self._shape.max_position_embeddings
        runner = make_runner(names, Ground(model, pool, AnswerHead.of(model, ZERO, ONE), longest, PASS_TOKENS), weights)
        self._runner_name = runner.name
        return runner

    def _right(self, judged: Sequence[Line], around: Sequence[Resident], streams: Streams | None) -> bool:
        gaps = [one.max_dp for one in around if not math.isnan(one.max_dp)]
        gaps += [streams.max_dp, streams.max_dp_naive] if streams else []
        ours = [line.right for line in judged if line.name.startswith(OURS)]
        return all(ours) and all(gap <= BANDS[self._parameter.dtype] for gap in gaps)

    def _memory(self, pool_bytes: int) -> Memory:
        itemsize, device = self._parameter.dtype.itemsize, self._parameter.device
        token = self._token_bytes()
        return Memory(
            weights=self._shape.parameters * itemsize,
            kv_token=token,
            kv_policy=token * self._settings.lengths.policy,
            pool=pool_bytes,
            peak_process=peak_rss(),
            peak_device=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        )


def _wrong(found: Sequence[Line]) -> Iterator[str]:
    for line in found:
        if not line.right:
            yield f"{line.name}: its answers are up to {line.max_dp:.2g} from the naive ones, so its speed is not compared."
