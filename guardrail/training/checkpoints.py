"""Checkpoints of what is learnt: two files in turn, and a note that makes the last of them count. No pickles."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from guardrail.errors import GuardrailError

NOTE = "checkpoint.json"
FILES = ("checkpoint-0.safetensors", "checkpoint-1.safetensors")


class Keeper:
    """Checkpoints in a folder. `identity`: all that decides the result (recipe, digests of data and base), as JSON holds it."""

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self._folder = folder
        self._identity: dict[str, Any] = json.loads(json.dumps(identity))

    def save(self, step: int, parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, notes: Mapping[str, Any]) -> None:
        """What was learnt and the optimizer's moments by parameter name, then the note that makes them count.

        Two files in turn: a kill while one is written leaves the other whole.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"model.{name}": tensor.detach().contiguous() for name, tensor in parameters.items()}
        for name, tensor in parameters.items():
            for part, moment in optimizer.state.get(tensor, {}).items():
                tensors[f"optimizer.{part}.{name}"] = moment.detach().contiguous()
        last = (self._note() or {}).get("file")
        file = next(file for file in FILES if file != last)
        save_file({name: tensor.cpu() for name, tensor in tensors.items()}, self._folder / file)
        note = {"step": step, "file": file, "identity": self._identity, "notes": dict(notes)}
        unfinished = self._folder / f"{NOTE}.part"
        unfinished.write_text(json.dumps(note, indent=1, allow_nan=False), encoding="utf-8")
        unfinished.replace(self._folder / NOTE)

    @torch.no_grad()
    def resume(self, parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> tuple[int, dict[str, Any]]:
        """Put back what the last checkpoint holds; the steps done, and its notes. (0, {}) where there is none.

        Raises GuardrailError for one of another run, saying in what it differs, and for a damaged one.
        """
        note = self._note()
        if note is None:
            return 0, {}
        self._same(note["identity"])
        place = self._folder / note["file"]
        try:
            stored = load_file(place)
            for name, parameter in parameters.items():
                parameter.copy_(stored.pop(f"model.{name}"))
        except (OSError, SafetensorError, KeyError, RuntimeError) as error:
            raise GuardrailError(
                f"{place} cannot be used as a checkpoint ({error}); remove the folder {self._folder} to begin anew"
            ) from error
        for full, moment in stored.items():
            _, part, name = full.split(".", 2)
            parameter = parameters[name]
            # The count of steps stays where the optimizer keeps it, which is the CPU unless it is a capturable one.
            optimizer.state[parameter][part] = moment if part == "step" else moment.to(parameter.device)
        return int(note["step"]), dict(note["notes"])

    def _note(self) -> dict[str, Any] | None:
        place = self._folder / NOTE
        try:
            note: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise GuardrailError(f"{place} cannot be read ({error}); remove the folder {self._folder} to begin anew") from error
        if not {"step", "file", "identity", "notes"} <= set(note) or Path(note["file"]).name != note["file"]:
            raise GuardrailError(f"{place} is of another kind of run; use another folder")
        return note

    def _same(self, before: Mapping[str, Any]) -> None:
        if differing := list(_differences(before, self._identity)):
            raise GuardrailError(
                f"{self._folder / NOTE} is of another run: {'; '.join(differing[:3])}. Give the same options and data, or another folder"
            )


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for name in sorted({*before, *now}):
        first, second = before.get(name), now.get(name)
        if isinstance(first, dict) and isinstance(second, dict):
            yield from _differences(first, second, f"{path}{name}.")
        elif first != second:
            yield f"{path}{name} was {json.dumps(first)}, is {json.dumps(second)}"
