"""Several real servers in this process that give each other connections, with a listener each.

The application tells in a response which of them served it. Seats without a server are the test's
own: it says in the scoreboard what it likes, and takes from their inboxes.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable
from typing import Any, Self

from asgi_worker.application import Application, Receive, Scope, Send
from asgi_worker.contract import WorkerSettings
from asgi_worker.inbox import VERSION, Handed, Inboxes, Kind
from asgi_worker.scoreboard import Reading, Scoreboard, State, Word
from asgi_worker.server import Server
from tests.worker.serving import PATIENCE_S, Wire

SEATS = 3


class Fleet:
    """``workers`` servers of ``app``, in the first seats, for the length of a ``async with``.

    ``balance`` is ``kernel`` unless told otherwise: then nothing moves but from who leaves.
    """

    def __init__(self, app: Application, *, workers: int = 2, **settings: Any) -> None:
        settings.setdefault("access_log", False)
        settings.setdefault("balance", "kernel")
        settings.setdefault("keep_alive_timeout_s", 60.0)
        self.settings = WorkerSettings(app="test:app", workers=SEATS, **settings)
        self.app = app
        self.workers = workers
        self.servers: dict[int, Server] = {}
        self.wires: list[Wire] = []

    async def __aenter__(self) -> Self:
        self.scoreboard = Scoreboard(SEATS)
        self.inboxes = Inboxes(SEATS)
        self.listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(SEATS)]
        for seat in range(self.workers):
            self.start(seat)
        return self

    async def __aexit__(self, *exc: object) -> None:
        for wire in self.wires:
            wire.close()
        for server in self.servers.values():
            await server.drain(5.0, successor=False)
            server.close()
            assert not server.tasks, "an application still runs"
            assert not server.connections, "a connection is still open"
        for listener in self.listeners:
            listener.close()
        self.inboxes.close()

    def start(self, seat: int, *, on_trial: bool = False) -> Server:
        """A worker with ``seat``, in the slot of that number."""
        self.servers[seat] = server = Server(
            self.app,
            self.settings,
            loop=asyncio.get_running_loop(),
            board=self.scoreboard.writer(seat),
            slot=seat,
        )
        server.join(self.scoreboard, self.inboxes, seat)
        server.listen([self.listeners[seat]], on_trial=on_trial)
        return server

    def pretend(self, seat: int, takes: int = VERSION) -> memoryview:
        """Let ``seat`` look as if somebody were there; what it is given is for the test."""
        board = self.scoreboard.writer(seat)
        board[Word.STATE] = State.READY
        board[Word.PROMISE_NS] = time.monotonic_ns() + 10**12
        board[Word.TAKES] = takes
        return board

    def take(self, seat: int) -> list[tuple[Handed, socket.socket]]:
        """All that waits for ``seat``."""
        taken = []
        while found := self.inboxes.take(seat):
            taken.append((found[0], socket.socket(fileno=found[1])))
        return taken

    def fill(self, seat: int) -> None:
        """Leave no room in the inbox of ``seat``."""
        with socket.socket() as some:
            while self.inboxes.give(seat, Handed(Kind.FRESH), some.fileno()):
                pass

    def reading(self, seat: int) -> Reading:
        return self.scoreboard.read(seat)

    async def connect(self, seat: int = 0) -> Wire:
        address = self.listeners[seat].getsockname()
        wire = Wire(*await asyncio.open_connection(*address))
        self.wires.append(wire)
        return wire

    async def eventually(self, condition: Callable[[], object], what: str) -> None:
        """Wait until ``condition()`` is true."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, what
            await asyncio.sleep(0.005)


async def whose(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the slot that serves the request, and with its body."""
    body = b"%d" % scope["extensions"]["asgi_supervise"]["slot"]
    while True:
        message = await receive()
        body += message["body"]
        if not message["more_body"]:
            break
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


async def served_by(wire: Wire) -> int:
    """Who answers the next request; it must not say that the connection is closed."""
    line, fields, body = await wire.get()
    assert line == b"HTTP/1.1 200 OK"
    assert b"connection" not in fields
    return int(body)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))
