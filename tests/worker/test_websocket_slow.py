"""Slow clients, slow applications and a loop that hangs: none of them is taken for gone."""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import struct
import time
from typing import Any

import pytest

from asgi_worker.access_log import AccessLog
from asgi_worker.application import Message, Receive, Scope, Send
from asgi_worker.protocols.websocket import CLOSE_TIMEOUT_S, DRAIN_TIMEOUT_S
from tests.worker.conftest import Run
from tests.worker.frames_by_hand import (
    BINARY,
    FIN,
    PING,
    Client,
    close,
    frame,
    handshake,
    open_websocket,
    text,
)
from tests.worker.serving import Arena, Wire
from tests.worker.websocket_apps import ACCEPT, Noted, disconnect, echo, sends

MEBIBYTE = 1024 * 1024
LARGE: Message = {"type": "websocket.send", "bytes": bytes(24 * MEBIBYTE)}
LARGE_FRAME_BYTES = 24 * MEBIBYTE + 10


def only(arena: Arena) -> Any:
    (connection,) = arena.server.connections
    return connection


def expire_all(arena: Arena) -> None:
    """What the sweep does, once the deadline of every connection has passed."""
    for connection in list(arena.server.connections):
        assert connection.deadline < math.inf, "nothing would ever happen to this connection"
        connection.expire(arena.server.now)


def reset(connected: Any) -> None:
    """Let the close of this socket be a reset."""
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def pinged(client: Client) -> None:
    first, payload = await client.frame()
    assert (first, len(payload)) == (FIN | PING, 4)


class Reluctant:
    """A client that reads only what it is told to; its socket holds little in advance."""

    def __init__(self, arena: Arena) -> None:
        self.loop = asyncio.get_running_loop()
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        self.socket.connect(("127.0.0.1", arena.port))
        self.socket.setblocking(False)
        self.taken = 0

    async def send(self, data: bytes) -> None:
        await self.loop.sock_sendall(self.socket, data)

    async def read(self, size: int) -> bytes:
        """So many bytes; fewer only at the end."""
        got = bytearray()
        async with asyncio.timeout(60):
            while len(got) < size:
                piece = await self.loop.sock_recv(self.socket, size - len(got))
                if not piece:
                    break
                got += piece
        self.taken += len(got)
        return bytes(got)

    async def shake_hands(self) -> None:
        await self.send(handshake())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += await self.read(1)
        self.taken = 0


async def pushes(scope: Scope, receive: Receive, send: Send) -> None:
    """Sends much, then listens."""
    await receive()
    await send(ACCEPT)
    await send(LARGE)
    while (await receive())["type"] != "websocket.disconnect":
        pass


async def some_is_read(arena: Arena, client: Reluctant) -> None:
    """Let the client read so much that the worker can write some more."""
    transport = only(arena)._transport
    before = transport.get_write_buffer_size()
    assert before
    while transport.get_write_buffer_size() == before:
        await client.read(MEBIBYTE // 2)
        await asyncio.sleep(0.005)


def test_messages_are_a_sign_of_life(run: Run) -> None:
    """A client that is busy sending has its pong behind what it sends."""

    async def scenario() -> None:
        async with Arena(Noted()) as arena:
            client = await open_websocket(arena)
            incoming = only(arena)._incoming
            expire_all(arena)
            await pinged(client)
            for _ in range(3):
                await client.send(text("still uploading"))
                await arena.eventually(lambda: incoming.heard, "the message did not come")
                expire_all(arena)
            expire_all(arena)  # but nothing has come since the last time
            assert (await client.closed()).code == 1011

    run(scenario())


def test_a_long_frame_on_its_way_is_a_sign_of_life(run: Run) -> None:
    async def scenario() -> None:
        async with Arena(echo) as arena:
            client = await open_websocket(arena)
            incoming = only(arena)._incoming
            stream = frame(FIN | BINARY, b"x" * 3000)
            for start in (0, 1000, 2000):
                await client.send(stream[start : start + 1000])
                await arena.eventually(lambda: incoming.heard, "the piece did not come")
                expire_all(arena)
            await pinged(client)
            expire_all(arena)
            assert (await client.closed()).code == 1011

    run(scenario())


def test_an_application_that_lags_behind_does_not_make_the_client_silent(run: Run) -> None:
    go = asyncio.Event()

    async def act(receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        await go.wait()
        while (await receive())["type"] != "websocket.disconnect":
            pass

    app = Noted(act)

    async def scenario() -> None:
        async with Arena(app, ws_max_queue=2) as arena:
            client = await open_websocket(arena)
            expire_all(arena)
            await pinged(client)
            await client.send(text("1"), text("2"), text("3"))
            incoming = only(arena)._incoming
            await arena.eventually(lambda: incoming.paused, "reading did not stop")
            for _ in range(3):
                expire_all(arena)
            go.set()
            await client.send(close(1000))
            assert (await client.closed()).code == 1000

    run(scenario())


def test_reading_is_a_sign_of_life(run: Run) -> None:
    """The ping is behind a long message that the client still reads."""

    async def scenario() -> None:
        async with Arena(pushes) as arena:
            client = Reluctant(arena)
            await client.shake_hands()
            await arena.eventually(lambda: only(arena)._output.write_paused, "not held back")
            expire_all(arena)
            for _ in range(3):
                await some_is_read(arena, client)
                expire_all(arena)
            assert arena.server.websockets == 1
            assert not only(arena)._incoming.ended
            expire_all(arena)  # it has read nothing since
            assert only(arena)._incoming.ended
            expire_all(arena)  # … and still not
            await arena.eventually(lambda: not arena.server.connections, "it was not cut")
            client.socket.close()

    run(scenario())


def test_who_sends_and_never_reads_is_cut(run: Run) -> None:
    """It waits for us to read, our application for it to read: nothing else would ever end that."""

    async def scenario() -> None:
        async with Arena(echo, ws_max_queue=2) as arena:
            client = Reluctant(arena)
            await client.shake_hands()
            connection = only(arena)

            async def floods() -> None:
                with contextlib.suppress(OSError):
                    while True:
                        await client.send(frame(FIN | BINARY, bytes(MEBIBYTE)))

            flood = asyncio.ensure_future(floods())
            await arena.eventually(
                lambda: connection._output.write_paused and connection._incoming.paused,
                "they do not wait for each other",
            )
            for _ in range(4):
                if not connection._incoming.ended:
                    expire_all(arena)
            assert connection._incoming.ended
            await arena.eventually(lambda: not arena.server.tasks, "the application was not told")
            expire_all(arena)
            await flood
            client.socket.close()

    run(scenario())


def test_adding_to_what_nobody_reads_is_no_sign_of_life(run: Run) -> None:
    go, more = asyncio.Event(), asyncio.Event()

    async def act(receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        await go.wait()
        transport = only(arena)._transport
        while transport.get_write_buffer_size() == 0:  # as much as the system takes
            await send({"type": "websocket.send", "bytes": bytes(20_000)})
            await asyncio.sleep(0)
        await more.wait()
        await send({"type": "websocket.send", "text": "news"})
        more.clear()
        await receive()

    arena = Arena(Noted(act))

    async def scenario() -> None:
        async with arena:
            client = Reluctant(arena)
            await client.shake_hands()
            go.set()
            connection = only(arena)
            await arena.eventually(connection._transport.get_write_buffer_size, "it was all taken")
            assert not connection._output.write_paused
            expire_all(arena)
            more.set()
            await arena.eventually(lambda: not more.is_set(), "no news")
            expire_all(arena)
            assert connection._incoming.ended
            client.socket.close()

    run(scenario())


@pytest.mark.parametrize("how", ["returns", "closes", "drained"])
def test_what_was_sent_before_the_end_is_not_cut_while_it_is_read(how: str, run: Run) -> None:
    async def act(receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        await send(LARGE)
        if how == "closes":
            await send({"type": "websocket.close"})
        if how == "drained":
            await receive()

    app = Noted(act)

    async def scenario() -> None:
        async with Arena(app) as arena:
            client = Reluctant(arena)
            await client.shake_hands()
            await arena.eventually(only(arena)._transport.get_write_buffer_size, "nothing was sent")
            if how == "drained":
                only(arena).drain(successor=True)
            await arena.eventually(lambda: app.ended, "the application waits")
            for _ in range(3):
                await some_is_read(arena, client)
                expire_all(arena)
            left = await client.read(LARGE_FRAME_BYTES + 4 - client.taken)
            code = b"\x03\xf4" if how == "drained" else b"\x03\xe8"
            assert left.endswith(b"\x88\x02" + code)
            await client.send(close(1000))
            assert await client.read(1) == b""
            client.socket.close()

    run(scenario())


def test_a_client_that_stops_reading_is_cut(run: Run) -> None:
    async def scenario() -> None:
        async with Arena(sends(ACCEPT, LARGE)) as arena:
            client = Reluctant(arena)
            await client.shake_hands()
            await arena.eventually(lambda: only(arena)._incoming.ended, "the application runs")
            expire_all(arena)
            await arena.eventually(lambda: not arena.server.connections, "it was not cut")
            client.socket.close()

    run(scenario())


def test_the_time_an_application_held_the_loop_is_not_the_clients(run: Run) -> None:
    """The answer to a close frame has its whole time, however old the server's clock is."""
    moment = 0.0

    async def act(receive: Receive, send: Send) -> None:
        nonlocal moment
        await receive()
        await send(ACCEPT)
        await receive()
        time.sleep(0.4)  # noqa: ASYNC251 – what it should not do
        moment = time.monotonic()
        await send({"type": "websocket.close"})

    async def scenario() -> None:
        async with Arena(Noted(act)) as arena:
            client = await open_websocket(arena)
            await client.send(text("go"))
            assert (await client.closed()).code == 1000
            assert only(arena).deadline >= moment + CLOSE_TIMEOUT_S
            await client.send(close(1000))
            await client.end()

    run(scenario())


@pytest.mark.parametrize("ended_by", ["application", "violation"])
def test_a_worker_that_stops_does_not_wait_long_for_what_was_ending(
    ended_by: str, run: Run
) -> None:
    async def scenario() -> None:
        async with Arena(sends(ACCEPT) if ended_by == "application" else echo) as arena:
            client = await open_websocket(arena)
            if ended_by == "violation":
                await client.send(frame(FIN | 0x7))
            await client.closed()
            only(arena).drain(successor=False)
            assert only(arena).deadline <= time.monotonic() + DRAIN_TIMEOUT_S
            expire_all(arena)
            assert await client.end() == b""

    run(scenario())


def test_a_client_that_shuts_down_its_side_and_does_not_read(run: Run) -> None:
    """Its application is told at once, and it is not waited for without end."""
    app = Noted(lambda receive, send: pushes({}, receive, send))

    async def scenario() -> None:
        async with Arena(app, ws_ping_interval_s=None) as arena:
            client = Reluctant(arena)
            await client.shake_hands()
            await arena.eventually(only(arena)._transport.get_write_buffer_size, "nothing was sent")
            client.socket.shutdown(socket.SHUT_WR)
            await arena.eventually(lambda: app.ended, "the application was not told")
            assert app.got[-1] == disconnect(1006)
            assert arena.server.websockets == 1
            expire_all(arena)
            await arena.eventually(lambda: not arena.server.connections, "it was not cut")
            assert arena.server.websockets == 0
            client.socket.close()

    run(scenario())


def test_the_end_of_the_clients_side_does_not_overtake_its_close_frame(run: Run) -> None:
    app = Noted(lambda receive, send: echo({}, receive, send))

    async def scenario() -> None:
        async with Arena(app) as arena:
            for _ in range(20):
                wire = await arena.connect()
                await wire.write(handshake() + text("last") + close(4000))
                wire.writer.write_eof()
                with contextlib.suppress(ConnectionError):
                    await wire.read_to_end()
            await arena.eventually(lambda: not arena.server.tasks, "still there")

    run(scenario())
    assert app.got.count(disconnect(4000)) == 20


def denies_at(gate: asyncio.Event) -> Any:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.http.response.start", "status": 401})
        more: Message = {"type": "websocket.http.response.body", "body": b"x", "more_body": True}
        await send(more)
        await gate.wait()
        await send({**more, "more_body": False})

    return app


def test_a_client_that_shuts_down_its_side_gets_the_whole_denial(run: Run) -> None:
    gate = asyncio.Event()

    async def scenario() -> None:
        async with Arena(denies_at(gate)) as arena:
            wire: Wire = await arena.connect()
            await wire.write(handshake())
            await wire.read_until(b"1\r\nx\r\n")
            wire.writer.write_eof()
            await arena.eventually(lambda: only(arena)._incoming.ended, "it was not noticed")
            gate.set()
            assert await wire.read_to_end() == b"1\r\nx\r\n0\r\n\r\n"

    run(scenario())


def test_a_denial_that_broke_off_is_in_the_access_log(run: Run, tmp_path: Any) -> None:
    path = tmp_path / "access.log"
    gate = asyncio.Event()

    async def scenario() -> None:
        with path.open("wb") as file:
            log = AccessLog(asyncio.get_running_loop(), file.fileno())
            async with Arena(denies_at(gate)) as arena:
                arena.server.access_log = log
                wire = await arena.connect()
                await wire.write(handshake("/secret"))
                await wire.read_until(b"1\r\nx\r\n")
                reset(wire.writer.get_extra_info("socket"))
                wire.writer.transport.abort()
                await arena.eventually(lambda: not arena.server.connections, "still there")
                gate.set()
            log.flush()

    run(scenario())
    (line,) = path.read_text().splitlines()
    assert '"GET /secret HTTP/1.1" 401 1B ' in line
