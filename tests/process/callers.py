"""Clients by hand: one that keeps its connection, many that open theirs at once, a steady stream.

They know who answered, and they take nothing that was not promised: a connection that ends, or an
octet too many, is an error.
"""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from tests.process.service import connected, until
from tests.process.websocket_user import HANDSHAKE, next_frame

PATIENCE_S = 20.0
Address = tuple[str, int] | str
WHO = re.compile(rb"version=(\S+) slot=(\d+) gen=(\d+) pid=(\d+)\n")
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
LAST = re.compile(rb"\r\nconnection: *close\r\n", re.IGNORECASE)


class Who(NamedTuple):
    """The worker that answered."""

    version: str
    slot: int
    generation: int
    pid: int


def who(body: bytes) -> Who:
    found = WHO.search(body)
    assert found is not None, body[:200]
    return Who(found[1].decode(), int(found[2]), int(found[3]), int(found[4]))


class Caller:
    """One connection, which the server is to keep open."""

    def __init__(self, address: Address) -> None:
        self.socket = connected(address)
        self._data = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.socket.close()

    def ask(self, path: str = "/") -> Who:
        self.send(get(path))
        return self.answer()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self, *, last: bool = False) -> Who:
        """The next answer, which must be 200 and announce the end only if it is the ``last``."""
        head, body = self.response()
        assert head.startswith(b"HTTP/1.1 200 "), head
        assert bool(LAST.search(head)) == last, head
        return who(body)

    def response(self) -> tuple[bytes, bytes]:
        """Head and body of what comes next."""
        while (end := self._data.find(b"\r\n\r\n") + 4) < 4:
            self._more()
        head = self._data[:end]
        length = LENGTH.search(head)
        size = end + (int(length[1]) if length else 0)
        while len(self._data) < size:
            self._more()
        body, self._data = self._data[end:size], self._data[size:]
        return head, body

    def ended(self) -> bool:
        """Wait for the end of the connection; whether nothing else came."""
        return not self._data and self.socket.recv(4096) == b""

    def _more(self) -> None:
        data = self.socket.recv(65536)
        assert data, f"the connection has ended after {self._data!r}"
        self._data += data

    def until_read(self) -> None:
        """Until the server has read all that was sent: its loop, not only its kernel (TCP)."""
        until(lambda: unread(self.socket) == 0, "all was read")


def get(path: str, fields: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: test\r\n{fields}\r\n".encode()


def unread(client: socket.socket) -> int:
    """How many octets wait in the server's socket on this machine (IPv4); see proc_net_tcp."""
    ports = client.getpeername()[1], client.getsockname()[1]
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues, *_ = line.split()
        if (int(local.partition(":")[2], 16), int(remote.partition(":")[2], 16)) == ports:
            return int(queues.partition(":")[2], 16)
    raise AssertionError("the server has no such connection")


async def open_connection(address: Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if isinstance(address, str):
        return await asyncio.open_unix_connection(address)
    return await asyncio.open_connection(*address)


class Knock(NamedTuple):
    """A new connection with one request on it: when, how long that took, and who answered."""

    at: float
    took_s: float
    who: Who | None
    error: str


async def knock(address: Address) -> Knock:
    at = time.monotonic()
    try:
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await open_connection(address)
            writer.write(get("/", "Connection: close\r\n"))
            answer = await reader.read()
            writer.close()
            await writer.wait_closed()
    except OSError as error:
        return Knock(at, time.monotonic() - at, None, repr(error))
    took_s = time.monotonic() - at
    if not answer.startswith(b"HTTP/1.1 200 "):
        return Knock(at, took_s, None, repr(answer[:100]))
    return Knock(at, took_s, who(answer), "")


async def knocking(address: Address, seconds: float, every_s: float = 0.01) -> list[Knock]:
    """A new connection ``every_s``, whether the ones before were answered or not."""
    begun = time.monotonic()
    tasks = []
    for number in range(round(seconds / every_s)):
        await asyncio.sleep(max(0.0, begun + number * every_s - time.monotonic()))
        tasks.append(asyncio.create_task(knock(address)))
    return list(await asyncio.gather(*tasks))


class WebSocket(NamedTuple):
    """An open WebSocket, and the worker that has it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    who: Who


async def websockets(address: Address, count: int) -> list[WebSocket]:
    """Open so many in one burst."""
    return list(await asyncio.gather(*(_websocket(address) for _ in range(count))))


async def _websocket(address: Address) -> WebSocket:
    reader, writer = await open_connection(address)
    writer.write(HANDSHAKE)
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 "), head
    data = bytearray()
    while (found := next_frame(data)) is None:
        more = await reader.read(4096)
        assert more, "the WebSocket has ended"
        data += more
    return WebSocket(reader, writer, who(found[1]))


async def leave(some: list[WebSocket]) -> None:
    """Be gone without a word, as clients are."""
    for one in some:
        one.writer.transport.abort()
    await asyncio.sleep(0)


def shares(answers: list[Who]) -> Counter[int]:
    """How often each worker answered, by pid."""
    return Counter(one.pid for one in answers)
