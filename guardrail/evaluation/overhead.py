"""From bursts of load to the table of what guarding costs: rates, latencies, and ratios that share their noise."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from guardrail.evaluation.load import Burst


@dataclass(frozen=True, slots=True)
class Load:
    """One server under one number of connections. Rates are medians over the rounds, latencies in milliseconds over all of them.

    `added_*` is what the server adds to the latency of the upstream asked directly. `ratio` is its rate divided by that of the bare
    passthrough, taken within each round and then the median: what disturbs a round disturbs both.
    """

    server: str
    connections: int
    requests: int
    failures: int
    per_second: float
    p50_ms: float
    p99_ms: float
    added_p50_ms: float
    added_p99_ms: float
    ratio: float


@dataclass(frozen=True, slots=True)
class Yardsticks:
    """The servers that the others are compared with: the upstream itself, and the bare passthrough."""

    direct: str
    bare: str


def summarise(rounds: Mapping[tuple[str, int], Sequence[Burst]], against: Yardsticks) -> list[Load]:
    """One `Load` for each (server, connections), whose bursts are in the order of the rounds."""
    return [_load(server, connections, rounds, against) for server, connections in rounds]


@dataclass(frozen=True, slots=True)
class Change:
    """One server beside another under the same load: `rate`, its requests a second over the other's, taken within each round and then
    the median; `p99`, its 99th percentile over the other's, both over all rounds."""

    server: str
    connections: int
    rate: float
    p99: float


def change(rounds: Mapping[tuple[str, int], Sequence[Burst]], server: str, beside: str, connections: int) -> Change:
    """What `server` is to `beside` at this many connections."""
    mine, other = rounds[server, connections], rounds[beside, connections]
    rates = [own.per_second / their.per_second for own, their in zip(mine, other, strict=True) if their.per_second]
    p99 = quantile(_milliseconds(mine), 0.99) / quantile(_milliseconds(other), 0.99)
    return Change(server, connections, statistics.median(rates) if rates else math.nan, p99)


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of them do not exceed; NaN of none."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def _load(server: str, connections: int, rounds: Mapping[tuple[str, int], Sequence[Burst]], against: Yardsticks) -> Load:
    mine, bare = rounds[server, connections], rounds[against.bare, connections]
    latencies, direct = _milliseconds(mine), _milliseconds(rounds[against.direct, connections])
    p50, p99 = quantile(latencies, 0.5), quantile(latencies, 0.99)
    ratios = [own.per_second / other.per_second for own, other in zip(mine, bare, strict=True) if other.per_second]
    return Load(
        server=server,
        connections=connections,
        requests=len(latencies),
        failures=sum(burst.failures for burst in mine),
        per_second=statistics.median(burst.per_second for burst in mine),
        p50_ms=p50,
        p99_ms=p99,
        added_p50_ms=p50 - quantile(direct, 0.5),
        added_p99_ms=p99 - quantile(direct, 0.99),
        ratio=statistics.median(ratios) if ratios else math.nan,
    )


def _milliseconds(bursts: Sequence[Burst]) -> list[float]:
    return [latency * 1000 for burst in bursts for latency in burst.latencies]
