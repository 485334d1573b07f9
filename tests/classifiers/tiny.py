"""A tiny random policy reader on disk, read back through the real loading code."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from guardrail.calibration import Platt
from guardrail.engine.embedded.model import PolicyReader, ReaderConfig
from guardrail.engine.embedded.weights import save

CONFIG = ReaderConfig(vocab_size=64, hidden=32, heads=4, inner=64, trunk_layers=3, reader_layers=2, max_positions=256)


def tokenizer_json() -> str:
    """WordPiece over single letters, digits and a few signs: any text has many tokens, so that windows are easily reached."""
    signs = [*"abcdefghijklmnopqrstuvwxyz0123456789.,:;!?'-()"]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *signs]
    vocab = {word: place for place, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=1))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return tokenizer.to_str()


def model_file(folder: Path, *, seed: int = 0, calibration: Platt | None = None) -> Path:
    """Random weights, scaled so that texts differ visibly in score."""
    torch.manual_seed(seed)
    model = PolicyReader(CONFIG)
    with torch.no_grad():
        model.head.weight.mul_(8)
        model.words.weight.mul_(2)
    path = folder / "tiny.safetensors"
    save(path, model, tokenizer_json(), calibration or Platt(1.0, 0.0), notes={"note": json.dumps("tiny")})
    return path
