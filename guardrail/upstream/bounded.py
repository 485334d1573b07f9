"""Bodies with a limit."""

from collections.abc import AsyncIterable, AsyncIterator

from guardrail.errors import UpstreamError


async def bounded(chunks: AsyncIterable[bytes], max_bytes: int) -> AsyncIterator[bytes]:
    """The chunks as they come. Raises UpstreamError("too_large") before the chunk that would go over `max_bytes`."""
    seen = 0
    async for chunk in chunks:
        seen += len(chunk)
        if seen > max_bytes:
            raise UpstreamError("too_large", f"the upstream's answer is longer than {max_bytes} bytes")
        yield chunk


async def joined(chunks: AsyncIterable[bytes]) -> bytes:
    """All chunks as one."""
    return b"".join([chunk async for chunk in chunks])
