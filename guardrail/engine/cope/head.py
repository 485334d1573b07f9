"""From final hidden states to the two answer logits, the mass of everything else, and the stream probe's scores."""

from typing import Any, Self

import torch
from torch import Tensor

from guardrail.engine.cope.probe import ProbeWeights
from guardrail.engine.onednn import linear

_CHUNK = 1 << 20  # logits held at a time: 4 MiB in fp32


class AnswerHead:
    """Two vocabulary rows in fp32 give a smooth score; a bf16 product over the vocabulary leaves it a few hundred distinct values.

    `rows` [2, N]: the output embeddings of "0" and "1"; `vocabulary` [V, N]: all of them, in the model's dtype; `softcap`: the final
    soft-cap, None without. A NaN in a hidden state is a NaN in everything read from it. Raises ValueError where widths differ.
    """

    def __init__(self, rows: Tensor, vocabulary: Tensor, softcap: float | None, probe: ProbeWeights | None = None) -> None:
        width = vocabulary.shape[1]
        if rows.shape != (2, width):
            raise ValueError(f"answer rows of shape {tuple(rows.shape)} do not fit a vocabulary of width {width}; two of that width do")
        if probe is not None and len(probe.weight) != width:
            raise ValueError(f"a stream probe of {len(probe.weight)} weights does not fit hidden states of {width}")
        self.probe = probe
        self.rows = rows.detach().float()
        self.vocabulary = vocabulary.detach()
        self.softcap = softcap
        self._probe_weight = None if probe is None else torch.from_numpy(probe.weight).to(vocabulary.device)

    @classmethod
    def of(cls, model: Any, zero: int, one: int, probe: ProbeWeights | None = None) -> Self:
        """The head of a transformers causal language model whose answers are token ids `zero` and `one`."""
        vocabulary = model.get_output_embeddings().weight.detach()
        softcap = getattr(model.config, "final_logit_softcapping", None)
        return cls(vocabulary[[zero, one]], vocabulary, softcap, probe)

    def __call__(self, hidden: Tensor, reads: Tensor, *, probed: bool = True) -> tuple[Tensor, Tensor, Tensor | None]:
        """`hidden` [T, N] after the final norm, `reads` [R] places in it -> logits [R, 2], log_total [R], probe [T]; all fp32.

        The probe's scores are None without a probe, or where the caller does not want them.
        """
        states = hidden.index_select(0, reads)
        logits = self._capped(states.float() @ self.rows.T)
        # The vocabulary's logits carry the model's rounding, the two do not: the whole is never less than its two best known parts.
        log_total = torch.maximum(self._log_total(states), logits.logsumexp(-1))
        return logits, log_total, self.probe_scores(hidden) if probed else None

    def probe_scores(self, hidden: Tensor) -> Tensor | None:
        """[T] fp32 for hidden [T, N], or None without a probe."""
        if self.probe is None or self._probe_weight is None:
            return None
        return torch.sigmoid(hidden.float() @ self._probe_weight + self.probe.bias)

    def _log_total(self, states: Tensor) -> Tensor:
        if len(states) == 0:
            return states.new_zeros(0, dtype=torch.float32)
        step = max(256, _CHUNK // len(states))
        totals = [self._roughly_capped(linear(states, rows).float()).logsumexp(-1) for rows in torch.split(self.vocabulary, step)]
        return torch.stack(totals).logsumexp(0)

    def _capped(self, logits: Tensor) -> Tensor:
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap

    def _roughly_capped(self, logits: Tensor) -> Tensor:
        """tanh(x) = 2 sigmoid(2x) - 1, right to about 1e-5: several times faster on a CPU, and good enough for a sum over a vocabulary."""
        if self.softcap is None:
            return logits
        return torch.sigmoid(logits * (2.0 / self.softcap)).mul_(2.0 * self.softcap).sub_(self.softcap)
