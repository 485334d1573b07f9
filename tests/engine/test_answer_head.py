"""The head reads two fp32 logits and the mass of the whole vocabulary, and the probe beside them."""

import numpy as np
import pytest
import torch
from tiny_models import random_probe

from guardrail.engine.cope.head import AnswerHead

HIDDEN = torch.randn(7, 16, generator=torch.Generator().manual_seed(1))
VOCABULARY = torch.randn(9000, 16, generator=torch.Generator().manual_seed(2))
READS = torch.tensor([2, 6])


@pytest.mark.parametrize("softcap", [None, 30.0, 2.0])
def test_logits_and_their_total(softcap: float | None):
    whole = HIDDEN @ VOCABULARY.T
    if softcap is not None:
        whole = softcap * torch.tanh(whole / softcap)

    logits, log_total, probe = AnswerHead(VOCABULARY[[4, 8000]], VOCABULARY, softcap)(HIDDEN, READS)

    torch.testing.assert_close(logits, whole[READS][:, [4, 8000]])
    torch.testing.assert_close(log_total, whole[READS].logsumexp(-1))
    assert probe is None


def test_the_total_is_the_same_however_many_rows_are_read_at_once():
    head = AnswerHead(VOCABULARY[:2], VOCABULARY, 30.0)
    many = torch.randn(700, 16, generator=torch.Generator().manual_seed(3))  # the vocabulary is read in pieces

    _, log_total, _ = head(many, torch.arange(700))

    torch.testing.assert_close(log_total, torch.cat([head(many, torch.tensor([place]))[1] for place in range(700)]))


def test_rounded_weights_leave_no_negative_mass_outside():
    vocabulary = torch.full((4, 16), -20.0, dtype=torch.bfloat16)
    vocabulary[:2] = 0.7
    hidden = torch.full((1, 16), 1 + 2**-7, dtype=torch.bfloat16)  # the true logit, 11.27, is rounded down to 11.25

    logits, log_total, _ = AnswerHead(vocabulary[:2], vocabulary, None)(hidden, torch.tensor([0]))

    assert float(logits.logsumexp(-1) - log_total) <= 0


def test_not_a_number_is_never_hidden():
    hidden = HIDDEN.clone()
    hidden[2, 3] = float("nan")

    logits, log_total, probe = AnswerHead(VOCABULARY[:2], VOCABULARY, 30.0, random_probe(16))(hidden, READS)

    assert probe is not None
    assert logits[0].isnan().all()
    assert log_total.isnan().tolist() == [True, False]
    assert probe.isnan().tolist() == [False, False, True, False, False, False, False]


def test_nothing_read_is_nothing_told():
    logits, log_total, _ = AnswerHead(VOCABULARY[:2], VOCABULARY, 30.0)(HIDDEN, torch.zeros(0, dtype=torch.long))

    assert logits.shape == (0, 2)
    assert log_total.shape == (0,)


def test_the_probe_may_be_left_out():
    head = AnswerHead(VOCABULARY[:2], VOCABULARY, 30.0, random_probe(16))

    assert head(HIDDEN, READS)[2] is not None
    assert head(HIDDEN, READS, probed=False)[2] is None


def test_widths_must_fit():
    with pytest.raises(ValueError, match=r"answer rows of shape \(2, 15\)"):
        AnswerHead(VOCABULARY[:2, :15], VOCABULARY, None)
    with pytest.raises(ValueError, match="a stream probe of 15 weights"):
        AnswerHead(VOCABULARY[:2], VOCABULARY, None, random_probe(15))


def test_a_score_has_more_than_a_few_hundred_values():
    states = (HIDDEN[:1] + torch.linspace(0, 0.05, 2000)[:, None]).to(torch.bfloat16)
    rows = VOCABULARY.to(torch.bfloat16)

    logits, _, _ = AnswerHead(rows[:2], rows[:50], 30.0)(states, torch.arange(2000))

    gaps = (logits[:, 1] - logits[:, 0]).numpy()
    rounded = (states @ rows[:2].T).float().diff(dim=1).numpy()
    assert len(np.unique(gaps)) > 2 * len(np.unique(rounded))
