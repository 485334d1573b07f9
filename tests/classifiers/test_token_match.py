"""Words of a statement are met by words of a text: what a policy's one vector cannot tell."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import CONFIG, model_file, tokenizer_json

from guardrail.calibration import Platt
from guardrail.engine.embedded.model import PolicyReader
from guardrail.engine.embedded.tokens import pad
from guardrail.engine.embedded.weights import load, save, start_from
from guardrail.errors import ModelFileError


def test_what_a_text_meets_depends_on_its_compared_words_alone() -> None:
    torch.manual_seed(0)
    model = PolicyReader(CONFIG).eval()
    model.match.idle[5] = True
    with torch.inference_mode():
        statements = model.encode_statements(*pad([(7, 8, 9), (5, 5), (10, 11)]))
        assert statements.owner.tolist() == [0, 0, 0, 2, 2]
        ids, mask = pad([(7, 8, 9), (5, 5), (12, 13, 14, 15, 16)])
        met = model.match(statements, model.match.keys(model.encode(ids, mask)), model.match.words(ids, mask))
        same, nothing, other = met
        assert not torch.allclose(same[0], other[0], atol=1e-3)
        torch.testing.assert_close(same[1], model.match.out.bias)  # a statement of idle words brings nothing
        alone = pad([(7, 8, 9)])
        torch.testing.assert_close(
            model.match(statements, model.match.keys(model.encode(*alone)), model.match.words(*alone))[0], same, atol=1e-5, rtol=1e-4
        )
        assert nothing.isfinite().all()


def test_what_is_compared_survives_the_file(tmp_path: Path) -> None:
    model = PolicyReader(CONFIG)
    model.match.idle[3] = True
    save(tmp_path / "m.safetensors", model, tokenizer_json(), Platt(1.0, 0.0))
    again = load(tmp_path / "m.safetensors").model.match.idle
    assert again.dtype == torch.bool
    assert again.nonzero().flatten().tolist() == [3]


def test_training_goes_on_from_an_earlier_format_but_nothing_is_judged_with_it(tmp_path: Path) -> None:
    path = model_file(tmp_path)
    tensors = {name: tensor for name, tensor in load_file(path).items() if not name.startswith("match.")}
    save_file(tensors, path, {"format": "guardrail-embedded/1", "config": "{}", "calibration": "{}", "tokenizer": tokenizer_json()})
    with pytest.raises(ModelFileError, match="format is 'guardrail-embedded/1', this version reads 'guardrail-embedded/2'"):
        load(path)
    model = PolicyReader(CONFIG)
    before = model.match.out.weight.clone()
    start_from(model, path)
    torch.testing.assert_close(model.head.weight, tensors["head.weight"].float())
    torch.testing.assert_close(model.match.out.weight, before)
