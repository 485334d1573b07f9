"""Puts a CoPE classifier together. The tokenizer and the calibration are read in this process, wherever the engine is."""

from dataclasses import replace

from guardrail.calibration import read_beside
from guardrail.classifiers.cope import CopeClassifier
from guardrail.classifiers.cope_options import CopeOptions
from guardrail.engine.cope.checkpoint import load_tokens
from guardrail.engine.cope.messages import EngineClient
from guardrail.engine.cope.source import locate


def make_cope(engine: EngineClient, model: str, options: CopeOptions | None = None) -> CopeClassifier:
    """`engine` is open and serves `model`, a folder or a hub id. Blocks for seconds.

    A `calibration.json` in the model's folder is used unless `options` has a calibration of its own. Raises ModelFileError for the
    tokenizer, or for a calibration that is damaged or was fitted on other weights.
    """
    chosen = options or CopeOptions()
    if chosen.calibration is None:
        chosen = replace(chosen, calibration=read_beside(locate(model).folder, engine.info.model))
    return CopeClassifier(engine, load_tokens(model), chosen)
