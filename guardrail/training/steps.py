"""The loop that a LoRA run goes through, whatever it learns: seeded steps of several passes, checkpoints, validation, one report a step.

What is learnt is a `Learner`'s business; see `guardrail.training.causal_model` for one.
"""

import math
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from guardrail.errors import GuardrailError
from guardrail.training.checkpoints import Keeper

Schedule = Literal["linear", "cosine", "constant"]


@dataclass(frozen=True, slots=True)
class Pace:
    """How far each step goes: AdamW at `rate`, warmed up over a share of the steps, then falling to the share `least` of it.

    `clip`: the longest gradient, by its norm. `seed` decides dropout, whatever a learner draws, and the adapter's beginning.
    """

    rate: float = 1e-4
    schedule: Schedule = "cosine"
    warm_up: float = 0.05
    least: float = 0.1
    weight_decay: float = 0.0
    clip: float = 1.0
    seed: int = 1

    def at(self, step: int, steps: int) -> float:
        """The rate of step `step` (from 0) of `steps`."""
        warm = max(1, round(self.warm_up * steps))
        if step < warm:
            return self.rate * (step + 1) / warm
        done = (step - warm) / max(1, steps - warm)
        left = {"linear": 1 - done, "cosine": 0.5 + 0.5 * math.cos(math.pi * done), "constant": 1.0}[self.schedule]
        return self.rate * (self.least + (1 - self.least) * left)


@dataclass(frozen=True, slots=True)
class Upkeep:
    """What a run does beside its steps, every so many of them; 0: at the end only. Decides nothing about the result."""

    checkpoint_every: int = 50
    validate_every: int = 0


class Pass(Protocol):
    """What goes through the model at once. `weight`: of its examples, summed; `tokens` that are run, padding aside."""

    @property
    def weight(self) -> float: ...

    @property
    def tokens(self) -> int: ...


P = TypeVar("P", bound=Pass)


class Learner(Protocol[P]):
    """What is learnt. `parameters` by name, as checkpoints hold them; `steps` of the whole run."""

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]: ...

    @property
    def steps(self) -> int: ...

    def passes(self, step: int) -> Sequence[P]:
        """Those of a step; the same however often and in whatever order they are asked for."""
        ...

    def loss(self, each: P) -> Tensor:
        """Summed over the examples, each by its weight: nats, a scalar with a gradient."""
        ...

    def validate(self, *, whole: bool) -> Mapping[str, float]:
        """Measures on what is held out, or on a part of it that is quick; empty where nothing is."""
        ...


@dataclass(frozen=True, slots=True)
class Progress:
    """One step's report: loss (nats an example), its moving average, the rate, tokens run a second so far."""

    step: int
    steps: int
    loss: float
    smooth: float
    rate: float
    tokens_per_s: float


@dataclass(slots=True)
class History:
    """What a run went through, over interruptions. `seconds` and `tokens` are of the steps alone."""

    losses: list[float] = field(default_factory=list)
    validations: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    tokens: int = 0

    @property
    def tokens_per_s(self) -> float:
        """Tokens run a second."""
        return self.tokens / self.seconds if self.seconds else 0.0


def run(learner: Learner[P], pace: Pace, upkeep: Upkeep, keeper: Keeper, *, report: Callable[[Progress], None]) -> History:
    """Learn in place, going on from the keeper's checkpoint if there is one, to the bit as if never interrupted (on one machine's CPU).

    Validates before the first step and after the last. Raises GuardrailError where the loss is no number any more.
    """
    parameters, steps = dict(learner.parameters), learner.steps
    optimizer = torch.optim.AdamW(parameters.values(), lr=pace.rate, weight_decay=pace.weight_decay)
    first, notes = keeper.resume(parameters, optimizer)
    history = History(**notes)
    if first == 0:
        _validated(history, learner, 0, whole=True)
    smooth = _smooth(history.losses)
    for step in range(first, steps):
        began = time.monotonic()
        rate = pace.at(step, steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(pace.seed * 1_000_003 + step)
        passes = learner.passes(step)
        loss = _step(learner, passes, optimizer, pace, what=f"step {step + 1}")
        history.losses.append(round(loss, 6))
        history.seconds += time.monotonic() - began
        history.tokens += sum(each.tokens for each in passes)
        smooth = loss if smooth is None else 0.9 * smooth + 0.1 * loss
        last = step + 1 == steps
        if last or _due(upkeep.validate_every, step):
            _validated(history, learner, step + 1, whole=last)
        if last or _due(upkeep.checkpoint_every, step):
            keeper.save(step + 1, parameters, optimizer, asdict(history))
        report(Progress(step + 1, steps, loss, smooth, rate, history.tokens_per_s))
    return history


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that tensors took on a GPU, or the most that this process was on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _step(learner: Learner[P], passes: Sequence[P], optimizer: torch.optim.Optimizer, pace: Pace, *, what: str) -> float:
    """One update; the mean loss of its examples. Passes add up to the gradient of the step, however it is cut."""
    weight = sum(each.weight for each in passes)
    total: Any = 0.0
    for each in passes:
        loss = learner.loss(each) / weight
        loss.backward()  # type: ignore[no-untyped-call]
        total = total + loss.detach()
    norm = torch.nn.utils.clip_grad_norm_(learner.parameters.values(), pace.clip)
    found = float(total)
    if not (math.isfinite(found) and math.isfinite(float(norm))):
        optimizer.zero_grad(set_to_none=True)
        raise GuardrailError(f"{what}: the loss is {found} and its gradient {float(norm)}; lower the rate and begin anew in another folder")
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return found


def _validated(history: History, learner: Learner[P], step: int, *, whole: bool) -> None:
    if found := learner.validate(whole=whole):
        history.validations.append({"step": step, **found})


def _due(every: int, step: int) -> bool:
    return every > 0 and (step + 1) % every == 0


def _smooth(losses: Sequence[float]) -> float | None:
    smooth: float | None = None
    for loss in losses:
        smooth = loss if smooth is None else 0.9 * smooth + 0.1 * loss
    return smooth
