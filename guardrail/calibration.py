"""Calibration: a monotone map from a classifier's probability to the share of such texts that do violate. A value, stored as JSON.

It changes what a score says, never (rounding and isotonic steps aside) which of two texts scores higher.
"""

import hashlib
import json
import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from guardrail.errors import ModelFileError

FORMAT = "guardrail-calibration/1"
IN_FOLDER = "calibration.json"
NEAREST = 1e-12  # how near to 0 and 1 a probability is told from them: log-odds of 27.6


@dataclass(frozen=True, slots=True)
class Temperature:
    """Log-odds divided by `temperature` (Guo et al. 2017): above 1 less sure, below 1 surer, .5 stays .5. Raises ValueError unless > 0."""

    method: ClassVar[str] = "temperature"
    temperature: float

    def __post_init__(self) -> None:
        _require(_number(self.temperature) and self.temperature > 0, f"a temperature is a number above 0, not {self.temperature!r}")

    def apply(self, p: float) -> float:
        """The calibrated probability of a probability. Raises ValueError for what is none."""
        return _sigmoid(_log_odds(p) / self.temperature)


@dataclass(frozen=True, slots=True)
class Platt:
    """Log-odds times `slope` plus `offset` (Platt 1999). Raises ValueError unless the slope is above 0."""

    method: ClassVar[str] = "platt"
    slope: float
    offset: float

    def __post_init__(self) -> None:
        _require(_number(self.slope) and self.slope > 0, f"a slope is a number above 0, not {self.slope!r}")
        _require(_number(self.offset), f"an offset is a number, not {self.offset!r}")

    def apply(self, p: float) -> float:
        """The calibrated probability of a probability. Raises ValueError for what is none."""
        return _sigmoid(self.slope * _log_odds(p) + self.offset)


@dataclass(frozen=True, slots=True)
class Isotonic:
    """Straight lines through the points (`scores`, `values`), flat beyond the first and the last (Zadrozny and Elkan 2002).

    Raises ValueError unless scores rise, values never fall, both lie in [0, 1] and are equally many, two at least.
    """

    method: ClassVar[str] = "isotonic"
    scores: tuple[float, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        _require(len(self.scores) == len(self.values) >= 2, "scores and values are equally many, two at least")
        _require(all(_number(x) and 0 <= x <= 1 for x in (*self.scores, *self.values)), "scores and values lie in [0, 1]")
        _require(all(a < b for a, b in zip(self.scores, self.scores[1:], strict=False)), "scores rise from each to the next")
        _require(all(a <= b for a, b in zip(self.values, self.values[1:], strict=False)), "values never fall")

    def apply(self, p: float) -> float:
        """The calibrated probability of a probability. Raises ValueError for what is none."""
        _require(0 <= p <= 1, f"a probability lies in [0, 1], not {p!r}")
        after = bisect_right(self.scores, p)
        if after == 0 or after == len(self.scores):
            return self.values[0] if after == 0 else self.values[-1]
        left, right = self.scores[after - 1], self.scores[after]
        low, high = self.values[after - 1], self.values[after]
        return min(high, max(low, low + (high - low) * ((p - left) / (right - left))))


Calibration = Temperature | Platt | Isotonic
METHODS: Mapping[str, type[Calibration]] = MappingProxyType({kind.method: kind for kind in (Temperature, Platt, Isotonic)})


@dataclass(frozen=True, slots=True)
class StoredCalibration:
    """A calibration with the digest of the weights it was fitted on (empty: any) and what else is known of its making."""

    calibration: Calibration
    weights: str = ""
    notes: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


def digest(calibration: Calibration) -> str:
    """`sha256:…` over method and numbers: equal digests give equal scores."""
    return "sha256:" + hashlib.sha256(_canonical(_document(calibration)).encode()).hexdigest()


def suffix(calibration: Calibration | None) -> str:
    """What a calibrated classifier adds to its id, so that a verdict can be replayed; nothing without one."""
    return "" if calibration is None else f"+calibration@{digest(calibration)[:23]}"


def dumps(stored: StoredCalibration) -> str:
    """As JSON, which `loads` reads."""
    document = {"format": FORMAT, **_document(stored.calibration), "weights": stored.weights, "notes": dict(stored.notes)}
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def loads(text: str, *, place: str = "calibration") -> StoredCalibration:
    """Read what `dumps` wrote. Raises ModelFileError: one sentence with the place, what is wrong there, and what to do."""
    try:
        document = json.loads(text)
        _require(isinstance(document, dict), "it is no JSON object")
        return _stored(dict(document))
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{place}: cannot be used as a calibration ({error}); fit it again or remove it") from error


def beside(weights: Path) -> Path:
    """Where the calibration of weights lies: `calibration.json` in a folder, `NAME.calibration.json` beside a file."""
    return weights / IN_FOLDER if weights.is_dir() else weights.with_suffix(".calibration.json")


def read_beside(weights: Path, digest_of_weights: str) -> Calibration | None:
    """The calibration stored beside weights, or None. Raises ModelFileError when it is damaged or was fitted on other weights.

    A digest may be given shortened: what both have must agree.
    """
    path = beside(weights)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ModelFileError(f"{path}: cannot be read ({error}); fit it again or remove it") from error
    stored = loads(text, place=str(path))
    common = min(len(stored.weights), len(digest_of_weights))
    if stored.weights[:common] != digest_of_weights[:common]:
        raise ModelFileError(
            f"{path}: was fitted on the weights {stored.weights}, these are {digest_of_weights}; fit it again or remove it"
        )
    return stored.calibration


def write_beside(weights: Path, stored: StoredCalibration) -> Path:
    """Write the calibration beside weights, whole or not at all, and say where."""
    path = beside(weights)
    unfinished = path.with_suffix(".part")
    unfinished.write_text(dumps(stored), encoding="utf-8")
    unfinished.replace(path)
    return path


def _stored(document: dict[str, Any]) -> StoredCalibration:
    _require(document.pop("format", None) == FORMAT, f"its format is not {FORMAT!r}")
    weights, notes, method = document.pop("weights", ""), document.pop("notes", {}), document.pop("method", None)
    _require(isinstance(weights, str), "`weights` is no text")
    _require(isinstance(notes, dict) and all(isinstance(value, str) for value in notes.values()), "`notes` are no texts by name")
    _require(isinstance(method, str) and method in METHODS, f"its method is none of {', '.join(METHODS)}")
    kind: Any = METHODS[method]
    wanted = set(kind.__slots__)
    _require(set(document) == wanted, f"{method} has {', '.join(sorted(wanted))}, not {', '.join(sorted(document)) or 'nothing'}")
    if kind is Isotonic:
        _require(all(isinstance(value, list) for value in document.values()), "scores and values are lists")
        document = {name: tuple(value) for name, value in document.items()}
    return StoredCalibration(kind(**document), weights, MappingProxyType(dict(notes)))


def _document(calibration: Calibration) -> dict[str, Any]:
    return {"method": calibration.method, **asdict(calibration)}


def _canonical(document: dict[str, Any]) -> str:
    numbers = {name: value if isinstance(value, str) else _floats(value) for name, value in document.items()}
    return json.dumps(numbers, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _floats(value: Any) -> Any:
    return [float(each) for each in value] if isinstance(value, tuple) else float(value)


def _log_odds(p: float) -> float:
    _require(0 <= p <= 1, f"a probability lies in [0, 1], not {p!r}")
    inside = min(1 - NEAREST, max(NEAREST, p))
    return math.log(inside) - math.log1p(-inside)


def _sigmoid(x: float) -> float:
    small = math.exp(-abs(x))
    return 1 / (1 + small) if x >= 0 else small / (1 + small)


def _number(value: object) -> bool:
    """JSON's true and huge integers are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)
