"""Where a pass lies on the device: one integer table for any bucket, filled through pinned memory with a single copy.

Captured graphs read fixed addresses. So a bucket (a number of tokens that a pass is padded to) is a fixed layout of one device tensor:
the tokens' columns, the read places, two program tables and, last because its length varies, the attention's entries. What is copied
ends with the last entry used.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from guardrail.engine.cope.cuda.launch import Laid
from guardrail.engine.cope.cuda.worklist import Tiling, kept_slots, most_entries, row_starts, tiling, work_list
from guardrail.engine.cope.rows import Plan

SIZES = (16, 32, 64, 128, 192, 256, 384, 512, 640, 768, 896, 1024, 1280, 1536, 2048)
_COLUMNS = 5  # ids, positions, row starts, slots, reads
_UNSEEN = 1 << 30  # a padding token's row starts behind every token, so it sees nothing


def sizes_up_to(most: int) -> tuple[int, ...]:
    """Buckets for passes of up to `most` tokens; the last is `most` rounded up to whole 16s."""
    return (*(size for size in SIZES if size < most), -(-most // 16) * 16)


@dataclass(frozen=True, slots=True)
class Bucket:
    """One bucket: how many `tokens`, how its attention is cut, and how many rows may be read before every place is computed.

    Measured prompts spend at least nine tokens on the question alone, so an eighth of the tokens is room for all real reads.
    """

    tokens: int
    shape: Tiling
    longest: int

    @classmethod
    def of(cls, tokens: int, *, heads: int, processors: int, longest: int) -> "Bucket":
        """For a model with `heads` key heads and sequences of up to `longest` tokens, on a GPU with so many processors."""
        return cls(tokens, tiling(tokens, heads, processors), longest)

    @property
    def reads(self) -> int:
        """Rows read without crowding."""
        return min(self.tokens, max(16, self.tokens // 8))

    @property
    def blocks(self) -> int:
        """Query blocks."""
        return -(-self.tokens // self.shape.block)

    @property
    def programs(self) -> int:
        """Attention programs of each key head."""
        return self.blocks * self.shape.splits

    @property
    def head(self) -> int:
        """Integers before the entries; whole 16-byte lines."""
        return -(-_COLUMNS * self.tokens // 4) * 4 + 8 * self.programs

    @property
    def most(self) -> int:
        """Integers that no pass exceeds: entries of both kinds of layers, four integers each."""
        return self.head + 8 * most_entries(self.tokens, self.shape, self.longest)


@dataclass(frozen=True, slots=True)
class Views:
    """A bucket's part of the device table: the pass, the programs of layers without and with a window."""

    laid: Laid
    everywhere: Tensor
    windowed: Tensor

    @classmethod
    def of(cls, table: Tensor, bucket: Bucket) -> "Views":
        """Views of `table`, int32."""
        ids, positions, starts, slots, reads = table[: _COLUMNS * bucket.tokens].view(_COLUMNS, bucket.tokens).unbind()
        programs = table[bucket.head - 8 * bucket.programs : bucket.head].view(2, bucket.programs, 4)
        laid = Laid(ids, positions, starts, slots, reads, entries=table[bucket.head :])
        return cls(laid, programs[0], programs[1])


class Staging:
    """Two pinned copies of the table in turn: while one travels, the next pass is written into the other.

    `table` is the device's. Not thread-safe.
    """

    def __init__(self, buckets: Sequence[Bucket], device: torch.device) -> None:
        length = max(bucket.most for bucket in buckets)
        pinned = device.type == "cuda"
        self.table = torch.zeros(length, dtype=torch.int32, device=device)
        self._host = [torch.zeros(length, dtype=torch.int32, pin_memory=pinned) for _ in range(2 if pinned else 1)]
        self._sent = [torch.cuda.Event() for _ in self._host] if pinned else []  # type: ignore[no-untyped-call]
        self._turn = 0

    def idle(self, bucket: Bucket) -> None:
        """Make the table a pass of padding alone, which reads and keeps nothing: what a graph may be captured over."""
        self.table[: bucket.head].zero_()
        laid = Views.of(self.table, bucket).laid
        laid.row_starts.fill_(_UNSEEN)
        laid.slots.fill_(-1)

    def send(self, planned: Plan, bucket: Bucket, window: int | None) -> None:
        """Lay a pass out and copy it to the device, without waiting. `window` is None where no key of the pass is too far away."""
        self._turn = (self._turn + 1) % len(self._host)
        host = self._host[self._turn]
        if self._sent:
            self._sent[self._turn].synchronize()
        used = write(planned, bucket, window, host.numpy())
        self.table[:used].copy_(host[:used], non_blocking=True)
        if self._sent:
            self._sent[self._turn].record()


def write(planned: Plan, bucket: Bucket, window: int | None, out: NDArray[np.int32]) -> int:
    """Write a pass into `out` as `Views` reads it, and return how many integers count. Raises ValueError when it does not fit."""
    tokens, size = planned.tokens, bucket.tokens
    columns = out[: _COLUMNS * size].reshape(_COLUMNS, size)
    values: tuple[NDArray[Any], ...] = (planned.ids, planned.positions, row_starts(planned), kept_slots(planned), planned.reads)
    for column, value, padding in zip(columns, values, (0, 0, _UNSEEN, -1, 0), strict=True):
        column[: len(value)] = value
        column[len(value) :] = padding
    lists = [work_list(planned, bucket.shape, blocks=bucket.blocks, window=None)]
    if window is not None:
        lists.append(work_list(planned, bucket.shape, blocks=bucket.blocks, window=window, base=len(lists[0].entries)))
    used = bucket.head + sum(found.entries.size for found in lists)
    if tokens > size or used > len(out):
        raise ValueError(f"a pass of {tokens} tokens and {used} integers does not fit a bucket of {size} tokens and {len(out)} integers")
    programs = out[bucket.head - 8 * bucket.programs : bucket.head].reshape(2, -1)
    place = bucket.head
    for table, found in zip(programs, lists, strict=False):
        table[:] = found.programs.reshape(-1)
        out[place : place + found.entries.size] = found.entries.reshape(-1)
        place += found.entries.size
    return used
