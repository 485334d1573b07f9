"""Puts a CoPE classifier together. The tokenizer is read in this process, wherever the engine is."""

from guardrail.classifiers.cope import CopeClassifier
from guardrail.classifiers.cope_options import CopeOptions
from guardrail.engine.cope.checkpoint import load_tokens
from guardrail.engine.cope.messages import EngineClient


def make_cope(engine: EngineClient, model: str, options: CopeOptions | None = None) -> CopeClassifier:
    """`engine` is open and serves `model`, a folder or a hub id. Blocks for seconds. Raises ModelFileError for its tokenizer."""
    return CopeClassifier(engine, load_tokens(model), options)
