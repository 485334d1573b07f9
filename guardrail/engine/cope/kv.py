"""Where keys and values live: one tensor taken at start, cut into reference-counted pages, and runs of tokens laid out over pages."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

PAGE = 64  # tokens; half a page is lost for each span, and whole pages are what two versions of a policy can share


class OutOfPages(Exception):  # noqa: N818  (a condition that the caller handles by making room, not a defect)
    """More pages were asked for than are free. `needed` and `free` count pages."""

    def __init__(self, needed: int, free: int) -> None:
        self.needed = needed
        self.free = free
        super().__init__(f"{needed} pages are needed, {free} are free")


@dataclass(frozen=True, slots=True)
class KVShape:
    """What one token's keys and values measure."""

    layers: int
    heads: int
    head_dim: int

    @classmethod
    def of(cls, config: Any) -> Self:
        """What a transformers model's configuration asks for."""
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(layers=config.num_hidden_layers, heads=config.num_key_value_heads, head_dim=head_dim)

    def bytes_per_token(self, dtype: torch.dtype) -> int:
        """Keys and values of every layer."""
        return self.layers * 2 * self.heads * self.head_dim * dtype.itemsize


class PageBook:
    """Who owns which page: a page belongs to nobody (reference count 0) or to one or more owners. Not thread-safe.

    `stamps[page]` names what a page holds: a new number each time it comes to a new owner, never used twice, so that two places
    with one stamp hold one content once nobody writes to either any more. Who copies a page may carry its stamp over.
    """

    def __init__(self, pages: int) -> None:
        self.pages = pages
        self.stamps = np.zeros(pages, np.int64)
        self._references = np.zeros(pages, np.int32)
        self._free = pages
        self._stamp = 1

    @property
    def free_pages(self) -> int:
        """Pages that belong to nobody."""
        return self._free

    @property
    def used_pages(self) -> int:
        """Pages that belong to at least one owner."""
        return self.pages - self._free

    def allocate(self, count: int) -> NDArray[np.int64]:
        """`count` free pages, one run if there is one (a run is read without gathering). Raises OutOfPages."""
        if count > self._free:
            raise OutOfPages(count, self._free)
        free = np.flatnonzero(self._references == 0)
        if count > 1:
            breaks = np.flatnonzero(np.diff(free) != 1)
            firsts, lasts = np.r_[0, breaks + 1], np.r_[breaks, len(free) - 1]
            long_enough = np.flatnonzero(lasts - firsts + 1 >= count)
            if len(long_enough):
                free = free[firsts[long_enough[0]] :]
        pages: NDArray[np.int64] = free[:count].copy()
        self._references[pages] = 1
        self._free -= count
        self.stamps[pages] = np.arange(self._stamp, self._stamp + count)
        self._stamp += count
        return pages

    def share(self, pages: NDArray[np.int64]) -> None:
        """One more owner for pages that have one. Raises ValueError for a page that nobody owns."""
        if (self._references[pages] <= 0).any():
            raise ValueError("a page that nobody owns cannot be shared")
        self._references[pages] += 1

    def owners(self, page: int) -> int:
        """How many own a page."""
        return int(self._references[page])

    def ownership(self) -> NDArray[np.int32]:
        """How many own each page: a copy, to work out with what giving pages back would free."""
        return self._references.copy()

    def holding(self, stamps: NDArray[np.int64]) -> NDArray[np.int64]:
        """The owned page that holds what each of `stamps` names; -1 where none does."""
        near = np.flatnonzero(np.isin(self.stamps, stamps) & (self._references > 0))
        place = dict(zip(self.stamps[near].tolist(), near.tolist(), strict=True))
        return np.array([place.get(stamp, -1) for stamp in stamps.tolist()], np.int64)

    def release(self, pages: NDArray[np.int64]) -> None:
        """One owner less. Raises ValueError for a page that nobody owns."""
        if (self._references[pages] <= 0).any():
            raise ValueError("a page was released that nobody owns")
        self._references[pages] -= 1
        self._free += int((self._references[pages] == 0).sum())


class KVPool(PageBook):
    """`kv[layer, 0 key or 1 value, head, slot, dimension]`; slot = page * PAGE + place in the page. Nothing is allocated after start.

    A page belongs to nobody or to one or more spans. Not thread-safe: the engine's thread owns it.
    Raises ValueError when the budget does not hold two pages.
    """

    def __init__(
        self, shape: KVShape, *, budget_bytes: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> None:
        self.shape = shape
        self.page_bytes = shape.bytes_per_token(dtype) * PAGE
        super().__init__(budget_bytes // self.page_bytes)
        if self.pages < 2:
            raise ValueError(f"a KV budget of {budget_bytes} bytes holds {self.pages} pages of {self.page_bytes}; give it two at least")
        self.kv = torch.zeros(shape.layers, 2, shape.heads, self.pages * PAGE, shape.head_dim, dtype=dtype, device=device)

    def blocks(self) -> torch.Tensor:
        """The same memory by page: `[page, layer, 0 key or 1 value, head, place, dimension]`, a view."""
        layers, two, heads, _, dimensions = self.kv.shape
        return self.kv.view(layers, two, heads, self.pages, PAGE, dimensions).permute(3, 0, 1, 2, 4, 5)


class KVSpan:
    """A run of resident tokens at positions [first, first + length), laid out over pages of one pool.

    `tokens` are the ids whose keys and values it holds (int32, `length` of them). `pins` counts who relies on it right now.
    `proven`: an answer that is a number was read behind it, so what it holds is sound.
    """

    __slots__ = ("contiguous", "first", "length", "pages", "pins", "pool", "proven", "tokens")

    def __init__(self, pool: KVPool, *, first: int = 0) -> None:
        self.pool = pool
        self.first = first
        self.length = 0
        self.pages: NDArray[np.int64] = np.zeros(0, np.int64)
        self.tokens: NDArray[np.int32] = np.zeros(0, np.int32)
        self.pins = 0
        self.proven = False
        self.contiguous = True

    @property
    def nbytes(self) -> int:
        """Bytes of its pages, shared ones included."""
        return len(self.pages) * self.pool.page_bytes

    def pages_for(self, length: int) -> int:
        """How many further pages a length of `length` tokens needs."""
        return max(0, -(-length // PAGE) - len(self.pages))

    def reserve(self, length: int) -> None:
        """Own pages for `length` tokens. Raises OutOfPages, and then nothing has changed.

        Raises ValueError when the first new token would land in a page that others own too: their keys would be overwritten.
        """
        if length > self.length and self.length % PAGE and self.pool.owners(int(self.pages[self.length // PAGE])) > 1:
            raise ValueError("a span cannot grow inside a page that it shares")
        if missing := self.pages_for(length):
            self._set(np.concatenate([self.pages, self.pool.allocate(missing)]))

    def append(self, tokens: NDArray[np.int32]) -> None:
        """Count `tokens` as resident: their keys and values have been written into reserved slots. Raises ValueError if not reserved."""
        if self.pages_for(self.length + len(tokens)):
            raise ValueError(f"{len(tokens)} tokens behind {self.length} do not fit the {len(self.pages)} pages that were reserved")
        self.tokens = np.concatenate([self.tokens, np.asarray(tokens, np.int32)])
        self.length = len(self.tokens)

    def share_head(self, other: "KVSpan", length: int) -> None:
        """Start, while empty, with the first `length` tokens of another span; whole pages only. Raises ValueError otherwise."""
        if self.length or len(self.pages) or length % PAGE or length > other.length or self.first != other.first:
            raise ValueError("only an empty span shares a head, of whole pages, at the same positions")
        self.adopt(other.pages[: length // PAGE], other.tokens[:length])

    def adopt(self, pages: NDArray[np.int64], tokens: NDArray[np.int32]) -> None:
        """Start, while empty, with owned pages that hold `tokens`, which fill them to the last place. Raises ValueError otherwise."""
        if self.length or len(self.pages) or len(tokens) != len(pages) * PAGE:
            raise ValueError("only an empty span adopts pages, and only full ones")
        self.pool.share(pages)
        self._set(pages.copy())
        self.tokens = np.array(tokens, np.int32)
        self.length = len(tokens)

    def truncate(self, length: int) -> None:
        """Forget tokens from `length` on, and give pages back that hold nothing (reserved ones too).

        The last page kept must not be shared if anything is to be written into it: a span only ever shares whole pages of its
        head, so truncating below a shared head raises ValueError, and so does a negative length.
        """
        if length < 0:
            raise ValueError(f"a span cannot be cut to {length} tokens")
        keep = -(-length // PAGE)
        if length % PAGE and length < self.length and self.pool.owners(self.pages[keep - 1]) > 1:
            raise ValueError("a span cannot be cut inside a page that it shares")
        if keep < len(self.pages):
            self.pool.release(self.pages[keep:])
            self._set(self.pages[:keep])
        self.tokens = self.tokens[:length]
        self.length = len(self.tokens)

    def drop(self) -> None:
        """Give every page back."""
        self.truncate(0)

    def slots(self, start: int, stop: int) -> NDArray[np.int64]:
        """Pool slots of the tokens [start, stop) of this span (reserved ones too)."""
        places = np.arange(start, stop)
        slots: NDArray[np.int64] = self.pages[places // PAGE] * PAGE + places % PAGE
        return slots

    def _set(self, pages: NDArray[np.int64]) -> None:
        self.pages = pages
        self.contiguous = bool((np.diff(pages) == 1).all())
