"""Calibrations of an adapter's categories, in one file beside its weights: `calibrations.json`."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from guardrail.calibration import Calibration, StoredCalibration, dumps, loads
from guardrail.engine.adapter.frame import Frame
from guardrail.engine.cope.source import read_json
from guardrail.errors import ModelFileError

NAME = "calibrations.json"


def write_calibrations(folder: Path, stored: Mapping[str, StoredCalibration]) -> None:
    """One calibration a category, each with the digest of the weights it was fitted on."""
    document = {category: json.loads(dumps(each)) for category, each in stored.items()}
    (folder / NAME).write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_calibrations(folder: Path, frame: Frame, digest: str) -> Mapping[str, Calibration]:
    """By label; none for a folder without the file. Raises ModelFileError for a damaged one, or one fitted on other weights."""
    path = folder / NAME
    if not path.is_file():
        return MappingProxyType({})
    found: dict[str, Calibration] = {}
    for name, document in read_json(path).items():
        stored, label = loads(json.dumps(document), place=f"{path}, {name}"), frame.label(name)
        if label is None:
            raise ModelFileError(f"{path}: {name!r} is no category of this adapter; fit it again or remove the file")
        if stored.weights != digest:
            raise ModelFileError(f"{path}: was fitted on the weights {stored.weights}, these are {digest}; fit it again or remove it")
        found[label] = stored.calibration
    return MappingProxyType(found)
