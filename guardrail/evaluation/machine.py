"""The machine and the versions that a measurement belongs to."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from guardrail import __version__

PACKAGES = ("starlette", "uvicorn", "uvloop", "httptools", "aiohttp", "torch", "transformers", "llama-cpp-python")
CPU_INFO = Path("/proc/cpuinfo")


def describe() -> dict[str, object]:
    """Processor, cores (those this process may use), load, system, Python and package versions; None where one cannot be told."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": _processor(),
        "cores": cores,
        "load_average": [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {"guardrail": __version__} | {name: _version(name) for name in PACKAGES},
    }


def _processor() -> str:
    if CPU_INFO.exists():
        for line in CPU_INFO.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
