"""Units: rows that leak into each other (one template, a contrast pair, a thread). Data is split by unit, never by row, and in one way.

Training and evaluation both ask here which rows the shipped weights have never seen: a unit is held out when the first four bytes of the
sha256 of its name, as a big-endian number, are a multiple of `HELD_OUT`. Nothing about a split is stored, and no seed changes it.
"""

import hashlib
from collections.abc import Sequence

HELD_OUT = 20  # one unit in so many is never trained on


def unit_of(source: str, unit: str, row: str) -> str:
    """The name of a row's unit: the set's own one, or the row itself where the set names none."""
    return f"{source}:{unit or row}"


def held_out(unit: str, one_in: int = HELD_OUT) -> bool:
    """Whether a unit is kept from training. With a divisor of `HELD_OUT` as `one_in` more are, those of the rule always among them."""
    return int.from_bytes(hashlib.sha256(unit.encode("utf-8", "surrogatepass")).digest()[:4]) % one_in == 0


def fold_of(unit: str, count: int) -> int:
    """The fold of a unit wherever it stands, by other bytes than `held_out` asks: held-out units alone fall into all folds too."""
    return int.from_bytes(hashlib.sha256(unit.encode("utf-8", "surrogatepass")).digest()[4:8]) % count


def folds(units: Sequence[str], labels: Sequence[int], count: int) -> list[int]:
    """Each row's fold, from 0 to below `count`, the same for all rows of a unit.

    Units are dealt out in turn, in the order of a hash: those of positives, those of both labels, those of negatives, so that no fold
    holds all of one label where several could.
    """
    of: dict[str, set[int]] = {}
    for unit, label in zip(units, labels, strict=True):
        of.setdefault(unit, set()).add(label)
    kinds = {unit: -max(found) - (len(found) == 1 and 1 in found) for unit, found in of.items()}
    order = sorted(of, key=lambda unit: (kinds[unit], hashlib.sha256(unit.encode("utf-8", "surrogatepass")).digest()))
    place = {unit: number % max(2, count) for number, unit in enumerate(order)}
    return [place[unit] for unit in units]
