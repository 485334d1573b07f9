"""A causal language model as a judge that can learn: packs of prompts through it, the two answers' logits, and the loss on them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from peft.helpers import disable_input_dtype_casting
from torch import Tensor

from guardrail.errors import GuardrailError
from guardrail.training.causal_packs import Batch, Pack
from guardrail.training.lora import Lora, attach, recompute

UNMOVED = 1e-6  # how far what another content says may move a probability: sums of the same shape round alike
AGREE = {torch.float32: 1e-3}  # how far a probability may be from that of its prompt alone, whose sums round otherwise
ROUGHLY = 0.25  # the same in 16 bits, which forty layers may multiply


@dataclass(frozen=True, slots=True)
class Answers:
    """Token ids of the two answers."""

    zero: int
    one: int


class Judge:
    """Reads batches with a model that `attach` made (or a plain one): logits of "0" and "1" behind each prompt, fp32.

    They are those of the engine: two rows of the output embeddings in fp32 on the last hidden state, soft-capped where the model is.
    """

    def __init__(self, model: Any, answers: Answers) -> None:
        self.model = model
        self._whole = model.get_base_model() if hasattr(model, "get_base_model") else model
        vocabulary = self._whole.get_output_embeddings().weight.detach()
        self._vocabulary = vocabulary
        self._rows = vocabulary[[answers.zero, answers.one]].float()
        config = self._whole.config
        self._softcap = getattr(config, "final_logit_softcapping", None)
        kinds = set(getattr(config, "layer_types", None) or ())
        self._mixed = "sliding_attention" in kinds
        self._window = getattr(config, "sliding_window", None) if self._mixed or not kinds else None
        self.device, self.dtype = vocabulary.device, vocabulary.dtype

    @contextmanager
    def ready(self, *, training: bool) -> Iterator[None]:
        """Around a run, backward passes included, which compute anew; within it once more, around what is only measured.

        Dropout and recomputing are for training. Inputs of the adapter's fp32 weights stay as they are: the weights are rounded instead.
        """
        before = self.model.training
        self.model.train(training)
        try:
            with disable_input_dtype_casting(self.model, self.dtype != torch.float32):
                yield
        finally:
            self.model.train(before)

    def logits(self, batch: Batch, *, total: bool) -> tuple[Tensor, Tensor | None]:
        """[R, 2] in the order of the batch's prompts, and with `total` the logsumexp over the whole vocabulary [R]. With gradients."""
        laid = _laid_out(batch)
        ids, reads = (torch.from_numpy(each).to(self.device) for each in (laid.ids, laid.reads))
        inputs: dict[str, Any] = {}
        if laid.shared:
            places, segments = (torch.from_numpy(each).to(self.device) for each in (laid.places, laid.segments))
            inputs = {"position_ids": places, "attention_mask": self._masks(places, segments)}
        # Once a pass and no longer: it remembers rounded weights until its end, and the next step changes them.
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            # Without sharing, causality is mask enough: what is padded stands behind what is read.
            states = self._whole.base_model(input_ids=ids, use_cache=False, **inputs).last_hidden_state
        hidden = states[reads[:, 0], reads[:, 1]]
        with torch.autocast(self.device.type, enabled=False):
            logits = self._capped(hidden.float() @ self._rows.T)
            if not total:
                return logits, None
            whole = self._capped(F.linear(hidden.to(self.dtype), self._vocabulary).float()).logsumexp(-1)
            return logits, torch.maximum(whole, logits.logsumexp(-1))

    def _masks(self, places: Tensor, segments: Tensor) -> Tensor | dict[str, Tensor]:
        """What is added to attention's scores: a token sees its policy and its own content, up to itself, within the window."""
        length = places.shape[1]
        earlier = torch.ones(length, length, dtype=torch.bool, device=places.device).tril()
        own = (segments[:, None, :] == 0) | (segments[:, None, :] == segments[:, :, None])
        seen = earlier & own
        near = seen & (places[:, :, None] - places[:, None, :] < self._window) if self._window is not None else seen
        if not self._mixed:
            return self._added(near)
        return {"full_attention": self._added(seen), "sliding_attention": self._added(near)}

    def _added(self, seen: Tensor) -> Tensor:
        hidden = torch.zeros(seen.shape, dtype=self.dtype, device=seen.device)
        return hidden.masked_fill_(~seen, torch.finfo(self.dtype).min)[:, None]

    def _capped(self, logits: Tensor) -> Tensor:
        return logits if self._softcap is None else torch.tanh(logits / self._softcap) * self._softcap


def adapted(model: Any, answers: Answers, lora: Lora, *, seed: int) -> Judge:
    """A transformers model with a new adapter, ready to learn: its layers are computed anew on the way back."""
    model = attach(model, lora, seed=seed)
    recompute(model.get_base_model())
    return Judge(model, answers)


def losses(logits: Tensor, total: Tensor | None, labels: Tensor, outside: float) -> Tensor:
    """Nats an example [R]: that the answer is the other one, and `outside` times that it is neither.

    The first is the log loss of p("1") / (p("0") + p("1")), which is the score that is read: a proper scoring rule for it. With `outside` 1
    the sum is the log loss over the whole vocabulary, most of which then goes into teaching what an answer looks like; with 0 nothing does,
    and a base model may go on saying something else, which the engine takes for an error.
    """
    both = logits.logsumexp(-1)
    decided = both - logits.gather(1, labels[:, None])[:, 0]
    return decided if total is None else decided + outside * (total - both)


@torch.inference_mode()
def scores(judge: Judge, batches: Sequence[Batch]) -> tuple[list[float], list[float]]:
    """p("1") against p("0") of each prompt, and the probability outside of both, in the order of the batches."""
    found: list[float] = []
    outside: list[float] = []
    with judge.ready(training=False):
        for batch in batches:
            logits, total = judge.logits(batch, total=True)
            found += torch.sigmoid(logits[:, 1] - logits[:, 0]).tolist()
            if total is not None:
                outside += (-torch.expm1(logits.logsumexp(-1) - total)).tolist()
    return found, outside


def assert_apart(judge: Judge, packs: Sequence[Pack]) -> float:
    """That contents behind one policy do not see each other in this model; the largest difference of a score to its prompt's own.

    What one content says must not move another's score at all, whatever the rounding; and a shared prompt's score is its own but for that.
    Raises GuardrailError where it is not so, as in a model that does not heed the places and masks it is given.
    """
    shared = [Pack(pack.prompts[:3]) for pack in sorted(packs, key=lambda pack: pack.length) if len(pack.prompts) > 1][:2]
    if not shared:
        return 0.0
    moved = apart = 0.0
    for pack in shared:
        together, _ = scores(judge, [Batch((pack,))])
        first, *others = pack.prompts
        altered, _ = scores(judge, [Batch((Pack((replace(first, row=np.roll(first.row, 1)), *others)),))])
        moved = max(moved, _furthest(together[1:], altered[1:]))
        alone, _ = scores(judge, [Batch((Pack((prompt,)),)) for prompt in pack.prompts])
        apart = max(apart, _furthest(together, alone))
    if not (moved <= UNMOVED and apart <= AGREE.get(judge.dtype, ROUGHLY)):
        raise GuardrailError(
            f"contents that share a policy move each other's scores by up to {max(moved, apart):.2g} in this architecture; train with each "
            "prompt whole (--share 1)"
        )
    return apart


def _furthest(before: Sequence[float], after: Sequence[float]) -> float:
    """The largest difference; infinite where one is no number."""
    return float(np.nan_to_num(np.abs(np.subtract(before, after)), nan=np.inf).max(initial=0.0))


@dataclass(frozen=True, slots=True, eq=False)
class _Laid:
    """A batch as arrays: `ids`, `places` (positions) and `segments` (0 policy, 1… contents, -1 padding) [B, L]; `reads` [R, 2]."""

    ids: np.ndarray[Any, np.dtype[np.int64]]
    places: np.ndarray[Any, np.dtype[np.int64]]
    segments: np.ndarray[Any, np.dtype[np.int64]]
    reads: np.ndarray[Any, np.dtype[np.int64]]

    @property
    def shared(self) -> bool:
        return bool(self.segments.max() > 1)


def _laid_out(batch: Batch) -> _Laid:
    shape = (len(batch.packs), max(pack.length for pack in batch.packs))
    ids, places, segments = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.full(shape, -1, np.int64)
    reads = []
    for line, pack in enumerate(batch.packs):
        prefix = pack.prompts[0].prefix
        parts = [(prefix, 0, 0), *((prompt.row, len(prefix), number) for number, prompt in enumerate(pack.prompts, 1))]
        end = 0
        for part, first, segment in parts:
            begin, end = end, end + len(part)
            ids[line, begin:end], segments[line, begin:end] = part, segment
            places[line, begin:end] = np.arange(first, first + len(part))
            if segment:
                reads.append((line, end - 1))
    return _Laid(ids, places, segments, np.array(reads, np.int64))


def labels_of(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
    """Labels [R] and weights [R] of a batch."""
    prompts = batch.prompts
    return (
        torch.tensor([prompt.label for prompt in prompts], device=device),
        torch.tensor([prompt.weight for prompt in prompts], dtype=torch.float32, device=device),
    )
