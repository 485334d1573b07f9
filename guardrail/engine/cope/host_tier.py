"""Host memory for policies that had to leave the device: copied out once, copied back instead of computed again."""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from guardrail.engine.cope.kv import KVPool, KVSpan, PageBook

_SEGMENT_BYTES = 256 << 20  # pinned memory is rounded up to a power of two for each tensor; many small ones lose little


class HostTier:
    """Copies of spans' pages in host memory, by key; the least recently put leave when room is needed.

    All memory is taken at start: pinned where the pool lies on a CUDA device, plain otherwise. A page that two spans share on the
    device is kept once here (it is known by its stamp). Copies to and from a CUDA device are queued on its current stream and not
    waited for: use the stream that the passes run on. Not thread-safe.
    """

    def __init__(self, pool: KVPool, budget_bytes: int) -> None:
        self.page_bytes = pool.page_bytes
        self._device = pool.blocks()
        self._stamps = pool.stamps
        self._book = PageBook(budget_bytes // pool.page_bytes)
        self._each = max(1, _SEGMENT_BYTES // pool.page_bytes)
        self._memory = tuple(_segments(pool, self._book.pages, self._each))
        self._copies: OrderedDict[str, NDArray[np.int64]] = OrderedDict()
        self._held: set[str] = set()

    def __contains__(self, key: object) -> bool:
        return key in self._copies

    def __iter__(self) -> Iterator[str]:
        """Keys, the next to leave first."""
        return iter(self._copies)

    @property
    def nbytes(self) -> int:
        """Bytes in use; what several copies share is counted once."""
        return self._book.used_pages * self.page_bytes

    def stamps(self, key: str) -> NDArray[np.int64]:
        """What the pages of a copy hold, by the pool's stamps. Raises KeyError for a key that is not here."""
        stamps: NDArray[np.int64] = self._book.stamps[self._copies[key]]
        return stamps

    def put(self, key: str, span: KVSpan) -> bool:
        """Copy a span that nobody writes to any more. False (and no copy) when it is larger than what can leave for it."""
        if key in self._copies:
            self._copies.move_to_end(key)
            return True
        if len(span.pages) > self._book.pages:
            return False  # nobody leaves for what cannot stay
        wanted = self._stamps[span.pages]
        pages = self._book.holding(wanted)
        while np.count_nonzero(pages < 0) > self._book.free_pages:
            if not self._drop_oldest():
                return False
            pages = self._book.holding(wanted)
        absent = pages < 0
        self._book.share(pages[~absent])
        pages[absent] = self._book.allocate(int(np.count_nonzero(absent)))
        self._book.stamps[pages] = wanted
        for here, there in zip(pages[absent], span.pages[absent], strict=True):
            self._page(here).copy_(self._device[there], non_blocking=True)
        self._copies[key] = pages
        return True

    def write(self, key: str, span: KVSpan, places: range) -> None:
        """Copy these pages of a copy back into the same pages of a span, which carry the stamps of what they hold from now on.

        The copy stays here (what comes back unchanged need not be copied out again), and is the next to leave.
        """
        chosen = slice(places.start, places.stop)
        for here, there in zip(self._copies[key][chosen], span.pages[chosen], strict=True):
            self._device[there].copy_(self._page(here), non_blocking=True)
            self._stamps[there] = self._book.stamps[here]
        self._copies.move_to_end(key, last=False)

    def drop(self, key: str) -> None:
        """Forget a copy. Idempotent."""
        pages = self._copies.pop(key, None)
        if pages is not None:
            self._book.release(pages)

    @contextmanager
    def held(self, key: str) -> Iterator[None]:
        """What is done inside does not push this copy out."""
        self._held.add(key)
        try:
            yield
        finally:
            self._held.discard(key)

    def _drop_oldest(self) -> bool:
        oldest = next((key for key in self._copies if key not in self._held), None)
        if oldest is not None:
            self.drop(oldest)
        return oldest is not None

    def _page(self, page: np.int64) -> torch.Tensor:
        return self._memory[page // self._each][page % self._each]


def _segments(pool: KVPool, pages: int, each: int) -> Iterator[torch.Tensor]:
    shape = pool.blocks().shape[1:]
    for start in range(0, pages, each):
        count = min(each, pages - start)
        yield torch.empty(count, *shape, dtype=pool.kv.dtype, pin_memory=pool.kv.is_cuda)
