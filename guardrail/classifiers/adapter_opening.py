"""Puts an adapter classifier together out of its section of a configuration."""

from pathlib import Path

import torch

from guardrail.classifiers.adapter import AdapterClassifier
from guardrail.classifiers.adapter_options import AdapterOptions, KnownPair
from guardrail.config.adapter import AdapterClassifier as Section
from guardrail.engine.adapter.loading import Opening, open_adapter


def make_adapter(section: Section, folder: Path) -> AdapterClassifier:
    """`folder` is what the section's relative paths are relative to. Blocks for seconds to minutes.

    Raises ModelFileError and DoesNotFitError, in one sentence with what to do.
    """
    torch.set_num_threads(section.threads)
    base = None if section.base is None else _place(section.base, folder)
    model = open_adapter(_place(section.model, folder), Opening(base, section.device, section.longest_tokens))
    pair = section.known_pair
    known = None if pair is None else KnownPair(pair.category, pair.violating, pair.benign)
    return AdapterClassifier(model, AdapterOptions(section.categories, section.scores, section.batch_tokens, known))


def _place(name: str, folder: Path) -> str:
    """A folder beside the configuration, or a model of the hub."""
    return str(folder / name) if (folder / name).is_dir() else name
