"""Where weights come from: a folder, or the Hugging Face hub. Safetensors only: a pickle can run code when it is read."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from guardrail.errors import ModelFileError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
ADAPTER = "adapter_model.safetensors"
_WANTED = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model")
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_PICKLED = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}


@dataclass(frozen=True, slots=True)
class Source:
    """`name` as it was asked for, the folder it lies in, and the hub's commit (None for a folder)."""

    name: str
    folder: Path
    revision: str | None = None

    def shards(self) -> tuple[Path, ...]:
        """The files with a model's weights, in order. Raises ModelFileError when there are none, or not all, or only pickles."""
        index = self.folder / INDEX
        if not index.is_file():
            return self._present([SINGLE])
        places = read_json(index).get("weight_map")
        if not isinstance(places, dict) or not places:
            raise ModelFileError(f"{index} names no weights; download or copy it again")
        return self._present(sorted({str(name) for name in places.values()}))

    def adapter(self) -> Path:
        """The file with an adapter's weights. Raises ModelFileError when there is none."""
        return self._present([ADAPTER])[0]

    def _present(self, names: list[str]) -> tuple[Path, ...]:
        missing = [name for name in names if Path(name).name != name or not (self.folder / name).is_file()]
        if not missing:
            return tuple(self.folder / name for name in names)
        pickled = sorted(path.name for path in self.folder.iterdir() if path.suffix in _PICKLED)
        if pickled:
            raise ModelFileError(
                f"{self.name} holds pickled weights ({pickled[0]}), which can run code when they are read and are never loaded here; "
                "save it as safetensors (`save_pretrained` does) or ask its publisher to"
            )
        raise ModelFileError(f"{self.name} has no {missing[0]}: the download or the copy is not complete")


def locate(place: str | Path, *, endpoint: str | None = None, cache: Path | None = None) -> Source:
    """A folder as it is; anything of the form `owner/name` or `owner/name@revision` from the hub's cache or the hub.

    Raises ModelFileError in one sentence with the next step: licence to accept, login, network, a name that is nowhere.
    """
    folder = Path(place).expanduser()
    if folder.is_dir():
        return Source(str(place), folder)
    name, _, revision = str(place).partition("@")
    if not _HUB_ID.fullmatch(name):
        raise ModelFileError(f"{place}: there is no such folder, and a model on the hub is named owner/name")
    hub = HfApi(endpoint=endpoint)
    page = f"{hub.endpoint}/{name}"
    try:
        path = hub.snapshot_download(name, revision=revision or None, allow_patterns=list(_WANTED), cache_dir=cache)
    except GatedRepoError as error:
        raise ModelFileError(
            f"{name} is gated: accept its licence at {page} while logged in there, then run `hf auth login` with a token of that account "
            "and the same command again"
        ) from error
    except RevisionNotFoundError as error:
        raise ModelFileError(f"{name} has no revision {revision!r}; its revisions are listed at {page}/commits/main") from error
    except RepositoryNotFoundError as error:
        raise ModelFileError(
            f"{name} is no folder here and no model that the hub shows you: check the spelling, and if it is private run `hf auth login` "
            "and the same command again"
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise ModelFileError(
            f"{name} is not in the hub's cache and could not be had from {hub.endpoint} ({reason(error.__cause__ or error)}): run the "
            f"same command where there is a network, or `hf download {name}` there and give the folder here"
        ) from error
    except (HfHubHTTPError, EntryNotFoundError, HFValidationError, OSError) as error:
        raise ModelFileError(f"{name} could not be downloaded ({reason(error)}); run the same command again to go on") from error
    return Source(str(place), Path(path), Path(path).name)


def read_json(path: Path) -> dict[str, Any]:
    """One JSON object. Raises ModelFileError naming the file."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path} cannot be read as JSON ({reason(error)})") from error
    if not isinstance(document, dict):
        raise ModelFileError(f"{path} is not a JSON object")
    return document


def reason(error: BaseException) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
