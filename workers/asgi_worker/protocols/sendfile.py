"""A file to a connection without its bytes passing through Python: ``sendfile(2)``.

uvloop has no ``loop.sendfile``, and both loops refuse to watch a descriptor that belongs to a
transport; so once the transport has nothing left to write, a duplicate of its descriptor is written
to and watched instead.
"""

from __future__ import annotations

import os
import stat
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

    from asgi_worker.protocols.exchange import Exchange
    from asgi_worker.protocols.http1_output import Output

PIECE_BYTES = 256 * 1024
"""At most this much per call, so that a file in the page cache does not keep the loop for long."""


def size_of(file: IO[bytes]) -> int:
    """Bytes in ``file``; raises ``OSError`` for what is not a regular file."""
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        raise OSError(f"cannot send {file.name}: not a regular file")
    return status.st_size


async def send(output: Output, exchange: Exchange, file: IO[bytes], size: int) -> None:
    """Write ``size`` bytes of ``file`` after all that ``output`` holds.

    Raises ``OSError`` when the client goes or the file turns out shorter than ``size``.
    """
    transport = output.transport
    _, high = transport.get_write_buffer_limits()
    transport.set_write_buffer_limits(high=0)
    try:
        await output.writable()
        if output.lost:
            return
        connection = os.dup(transport.get_extra_info("socket").fileno())
        try:
            await _copy(output, exchange, connection, file.fileno(), size)
        finally:
            os.close(connection)
    finally:
        transport.set_write_buffer_limits(high=high)


async def _copy(output: Output, exchange: Exchange, connection: int, file: int, size: int) -> None:
    loop = output.server.loop
    offset = 0
    while offset < size and not output.lost:
        try:
            sent = os.sendfile(connection, file, offset, min(PIECE_BYTES, size - offset))
        except BlockingIOError:
            await _writable(loop, connection)
            continue
        if sent == 0:
            raise OSError(f"the file ended at byte {offset} of {size}")
        offset += sent
        exchange.sent_bytes = offset
        future: asyncio.Future[None] = loop.create_future()
        loop.call_soon(future.set_result, None)
        await future  # let the others have a turn


async def _writable(loop: asyncio.AbstractEventLoop, descriptor: int) -> None:
    future: asyncio.Future[Any] = loop.create_future()
    loop.add_writer(descriptor, _resolve, future)
    try:
        await future
    finally:
        loop.remove_writer(descriptor)


def _resolve(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_result(None)
