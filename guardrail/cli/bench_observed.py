"""What watching costs: the audit store, spans and metrics, beside the same proxy without them, and whether its memory stays."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
from yarl import URL

from guardrail.cli.bench_servers import EMBEDDED, EMBEDDED_OBSERVED, SCRIPTED, SCRIPTED_OBSERVED, Running
from guardrail.evaluation.load import Burst, Requests, burst
from guardrail.evaluation.overhead import change

RATE_BAR = 0.8
P99_BAR = 1.5
SOAK_CONNECTIONS = 8
SOAK_SLICE_S = 1.0
SOAK_PATIENCE = 10  # slices without an answer; a machine that is busy with something else may miss one
_PAIRS = ((SCRIPTED_OBSERVED, SCRIPTED), (EMBEDDED_OBSERVED, EMBEDDED))


def observed_sentences(rounds: Mapping[tuple[str, int], Sequence[Burst]], connections: Sequence[int]) -> list[str]:
    """One for each pair that was measured: rates and 99th percentiles over those of the same server without being watched."""
    told = []
    for server, beside in _PAIRS:
        if (server, connections[0]) not in rounds:
            continue
        found = [change(rounds, server, beside, count) for count in connections]
        rates = ", ".join(f"{each.rate:.2f} at {each.connections}" for each in found)
        p99s = ", ".join(f"{each.p99:.2f} at {each.connections}" for each in found)
        reached = "reaches" if all(each.rate >= RATE_BAR for each in found) else "misses"
        within = "within" if all(each.p99 <= P99_BAR for each in found) else "above"
        told.append(
            f"{server} / {beside}: requests/s {rates} connections ({reached} {RATE_BAR:g}); p99 {p99s} connections ({within} {P99_BAR:g})."
        )
    return told


def memory_sentences(server: Running, requests: int) -> list[str]:
    """Send this many requests, and tell the memory of the server's process after each tenth of them."""
    url = URL(server.url)
    place = url.host or "", url.port or 0
    wanted = Requests(host=f"{place[0]}:{place[1]}")
    done, failed, silent, tenths = 0, 0, 0, [resident_mib(server.pid)]
    while done < requests:
        found = asyncio.run(burst(place, wanted, connections=SOAK_CONNECTIONS, seconds=SOAK_SLICE_S))
        silent = 0 if found.latencies else silent + 1
        if silent == SOAK_PATIENCE:
            return [f"The soak ended after {done} requests: the server does not answer any more."]
        done, failed = done + len(found.latencies), failed + found.failures
        while len(tenths) <= 10 and done >= requests * len(tenths) / 10:
            tenths.append(resident_mib(server.pid))
            click.echo(f"{done:,} requests: {_spelled(tenths[-1])} MiB", err=True)
    spelled = ", ".join(_spelled(mib) for mib in tenths)
    return [f"Memory of {SCRIPTED_OBSERVED} before and at each tenth of {done:,} requests ({failed} failed), MiB: {spelled}."]


def _spelled(mib: float | None) -> str:
    return "?" if mib is None else f"{mib:.1f}"


def resident_mib(pid: int) -> float | None:
    """The resident memory of a process, where the system tells it (Linux)."""
    status = Path(f"/proc/{pid}/status")
    lines = status.read_text(encoding="ascii").splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:")), None)
