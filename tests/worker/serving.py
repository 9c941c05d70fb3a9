"""A real :class:`~asgi_worker.server.Server` in this process, on a real loop and a real socket.

A test is a coroutine that the ``run`` fixture (``conftest``) runs on both loops.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Literal, Self

from asgi_worker.application import Application
from asgi_worker.contract import WorkerSettings
from asgi_worker.loops import new_loop
from asgi_worker.scoreboard import Scoreboard
from asgi_worker.server import Server

LoopKind = Literal["uvloop", "asyncio"]
PATIENCE_S = 60.0
"""A generous end to every wait of a test."""


def in_time(seconds: float, attempt: Callable[[], float]) -> None:
    """What ``attempt`` does takes less than ``seconds``; it says how long it took.

    A machine that is busy with the other tests makes anything late now and then. Who waits too
    long by itself is late each time.
    """
    took: list[float] = []
    while not took or took[-1] >= seconds:
        assert len(took) < 12, f"not once within {seconds} s: {took}"
        took.append(attempt())


class Wire:
    """A raw client connection: bytes out, bytes in."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def read_to_end(self) -> bytes:
        """All until the server closes; a reset counts as an end after what had arrived."""
        received = b""
        try:
            while piece := await asyncio.wait_for(self.reader.read(65536), PATIENCE_S):
                received += piece
        except ConnectionError:
            pass
        return received

    async def read_until(self, mark: bytes) -> bytes:
        return await asyncio.wait_for(self.reader.readuntil(mark), PATIENCE_S)

    async def read_exactly(self, size: int) -> bytes:
        return await asyncio.wait_for(self.reader.readexactly(size), PATIENCE_S)

    async def read_response(self) -> tuple[bytes, dict[bytes, bytes], bytes]:
        """One response: status line, fields (names lower-case), body by length or chunks."""
        head = await self.read_until(b"\r\n\r\n")
        first, *lines = head[:-4].split(b"\r\n")
        fields = {}
        for line in lines:
            name, value = line.split(b": ", 1)
            fields[name.lower()] = value
        body = b""
        if b"content-length" in fields:
            body = await self.read_exactly(int(fields[b"content-length"]))
        elif fields.get(b"transfer-encoding") == b"chunked":
            while size := int(await self.read_until(b"\r\n"), 16):
                body += (await self.read_exactly(size + 2))[:-2]
            while await self.read_until(b"\r\n") != b"\r\n":
                pass
        return first, fields, body

    async def get(self, path: str = "/", *lines: str) -> tuple[bytes, dict[bytes, bytes], bytes]:
        request = "\r\n".join((f"GET {path} HTTP/1.1", "Host: test", *lines, "", ""))
        await self.write(request.encode())
        return await self.read_response()

    def close(self) -> None:
        self.writer.close()


class Arena:
    """One server and its clients, for the length of a ``async with``."""

    def __init__(self, app: Application, **settings: Any) -> None:
        settings.setdefault("access_log", False)
        self.settings = WorkerSettings(app="test:app", **settings)
        self.app = app
        self.board = Scoreboard(1)
        self.wires: list[Wire] = []

    async def __aenter__(self) -> Self:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.server = Server(
            self.app,
            self.settings,
            loop=asyncio.get_running_loop(),
            board=self.board.writer(0),
        )
        self.server.listen([self.listener])
        return self

    async def __aexit__(self, *exc: object) -> None:
        for wire in self.wires:
            wire.close()
        await self.server.drain(5.0, successor=False)
        self.server.close()
        self.listener.close()
        assert not self.server.tasks, "an application still runs"
        assert not self.server.connections, "a connection is still open"

    async def connect(self) -> Wire:
        wire = Wire(*await asyncio.open_connection("127.0.0.1", self.port))
        self.wires.append(wire)
        return wire

    async def exchange(self, data: bytes) -> bytes:
        """Send ``data`` on a new connection; everything the server says until it closes."""
        wire = await self.connect()
        await wire.write(data)
        return await wire.read_to_end()

    async def eventually(self, condition: Callable[[], object], what: str) -> None:
        """Wait until ``condition()`` is true."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition():  # noqa: ASYNC110 – there is no event for what it looks at
                await asyncio.sleep(0.005)
        assert condition(), what


def run_on(kind: LoopKind, coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a test to its end; nothing may be left on the loop."""
    settings = WorkerSettings(app="test:app", loop=kind)
    with asyncio.Runner(loop_factory=lambda: new_loop(settings)) as runner:
        runner.run(_checked(coroutine))


async def _checked(coroutine: Awaitable[None]) -> None:
    unhandled: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: unhandled.append(context))
    await coroutine
    for _ in range(5):
        await asyncio.sleep(0)
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, f"tasks left: {left}"
    assert not unhandled, f"unhandled: {unhandled}"
