"""Whether a model fits, asked before anything is loaded."""

import importlib
import importlib.util
from pathlib import Path

import torch

from guardrail.errors import DoesNotFitError

GIB = 1 << 30
_MEMINFO = Path("/proc/meminfo")
_CGROUPS = (  # what a container may use, what it uses, and how much of that is files the kernel would let go; version 2, version 1
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def available(device: torch.device | str) -> int | None:
    """Bytes that can be taken on a device now, a container's limit respected; None where the system does not say."""
    device = torch.device(device)
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    found = [left for left in (_system(), *(_cgroup(*group) for group in _CGROUPS)) if left is not None]
    return min(found, default=None)


def require(needed: int, device: torch.device | str, what: str, *, remedy: str = "") -> None:
    """Refuse what does not fit. Raises DoesNotFitError saying what `what` needs, what is there, and `remedy`."""
    there = available(device)
    if there is not None and needed > there:
        place = "GPU memory" if torch.device(device).type == "cuda" else "memory"
        raise DoesNotFitError(f"{what} needs {gib(needed)} of {place} and {gib(there)} is available{'; ' if remedy else ''}{remedy}")


def gib(size: int) -> str:
    """A size for people."""
    return f"{size / GIB:.1f} GiB" if size >= GIB // 10 else f"{size / (1 << 20):.1f} MiB"


def _system() -> int | None:
    if _MEMINFO.is_file():
        for line in _MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    if importlib.util.find_spec("psutil"):  # systems without /proc
        return int(importlib.import_module("psutil").virtual_memory().available)
    return None


def _cgroup(folder: Path, limit: str, usage: str, cached: str) -> int | None:
    try:
        most, used = (folder / limit).read_text().strip(), (folder / usage).read_text().strip()
        facts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    if not (most.isdigit() and used.isdigit()):  # "max": no limit
        return None
    return max(0, int(most) - int(used) + int(facts.get(cached, 0)))
