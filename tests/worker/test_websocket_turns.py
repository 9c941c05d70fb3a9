"""One connection among many: it takes neither loop nor memory, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import struct
import threading
import time
import zlib
from typing import Any

import pytest

from asgi_worker.access_log import AccessLog
from asgi_worker.application import Message, Receive, Scope, Send
from asgi_worker.protocols.deflate import Deflate
from asgi_worker.protocols.exchange import ClientDisconnected
from asgi_worker.protocols.websocket import WebSocketConnection
from tests.worker.conftest import Run
from tests.worker.frames_by_hand import (
    BINARY,
    DEFLATE,
    FIN,
    PING,
    PONG,
    RSV1,
    TEXT,
    close,
    frame,
    handshake,
    open_websocket,
    text,
)
from tests.worker.serving import Arena
from tests.worker.websocket_apps import ACCEPT, Noted, disconnect, echo, sends

MEBIBYTE = 1024 * 1024


class Turns:
    """Counts the turns of the loop."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.count = 0
        self._handle = self.loop.call_soon(self._turn)

    def _turn(self) -> None:
        self.count += 1
        self._handle = self.loop.call_soon(self._turn)

    def stop(self) -> None:
        self._handle.cancel()


def reads_all_then_resets(port: int, enough_bytes: int) -> None:
    """A client in a thread of its own, which reads as fast as it can."""
    client = socket.create_connection(("127.0.0.1", port))
    client.sendall(handshake())
    got = 0
    while got < enough_bytes and (piece := client.recv(MEBIBYTE)):
        got += len(piece)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


@pytest.mark.parametrize("size", [100, 1000, 20_000, 100_000])
def test_an_application_that_only_sends(size: int, run: Run) -> None:
    """It leaves turns to others, and learns that its client has gone."""
    sent = 0

    async def act(receive: Receive, send: Send) -> None:
        nonlocal sent
        await receive()
        await send(ACCEPT)
        message = {"type": "websocket.send", "bytes": bytes(size)}
        end = time.monotonic() + 15
        while time.monotonic() < end:  # or for ever, once
            await send(message)
            sent += size

    app = Noted(act)

    async def scenario() -> None:
        async with Arena(app) as arena:
            turns = Turns()
            client = threading.Thread(
                target=reads_all_then_resets, args=(arena.port, 10 * MEBIBYTE)
            )
            client.start()
            await arena.eventually(lambda: app.ended, "the application was not told")
            await asyncio.to_thread(client.join)
            turns.stop()
            assert turns.count > sent / (256 * 1024 + 2 * size)

    run(scenario())
    assert isinstance(app.error, ClientDisconnected)


@pytest.mark.parametrize("kind", ["many", "large"])
def test_a_flood_is_taken_turn_by_turn(kind: str, run: Run) -> None:
    """However much comes at once, and though the application never waits for anything else."""
    deflater = zlib.compressobj(wbits=-15)
    data = (deflater.compress(bytes(4 * MEBIBYTE)) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]
    flood = text("x") * 3000 if kind == "many" else frame(FIN | RSV1 | BINARY, data) * 10
    number, per_turn = (3000, 33) if kind == "many" else (10, 2)
    taken_at: list[int] = []
    turns: Turns

    async def act(receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        while (await receive())["type"] == "websocket.receive":
            taken_at.append(turns.count)

    async def scenario() -> None:
        nonlocal turns
        async with Arena(Noted(act)) as arena:
            client = await open_websocket(arena, "/", f"{DEFLATE}; client_no_context_takeover")
            turns = Turns()
            await client.send(flood)
            await arena.eventually(lambda: len(taken_at) == number, "not all came")
            turns.stop()
            await client.send(close())
            await client.closed()

    run(scenario())
    assert max(taken_at.count(turn) for turn in set(taken_at)) <= per_turn


def test_pongs_keep_their_place(run: Run) -> None:
    """They leave with what is sent in the same turn, in order."""

    async def scenario() -> None:
        async with Arena(echo) as arena:
            client = await open_websocket(arena)
            ping = frame(FIN | PING, b"p")
            await client.send((ping + text("m")) * 500 + ping * 5000 + text("end"))
            pongs = 0
            while (got := await client.frame()) != (FIN | TEXT, b"end"):
                assert got in {(FIN | PONG, b"p"), (FIN | TEXT, b"m")}
                pongs += got == (FIN | PONG, b"p")
            assert pongs == 5500
            await client.send(ping, close())
            assert await client.frame() == (FIN | PONG, b"p")
            assert (await client.closed()).code is None

    run(scenario())


def test_a_response_that_is_not_read_holds_the_websocket_after_it_back(run: Run) -> None:
    sent = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": bytes(16 * MEBIBYTE)})
            return
        await receive()
        await send(ACCEPT)
        for _ in range(64):
            await send({"type": "websocket.send", "bytes": bytes(MEBIBYTE)})
            sent += 1
            await asyncio.sleep(0)

    async def scenario() -> None:
        async with Arena(app) as arena:
            wire = await arena.connect()
            wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await wire.write(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            await arena.eventually(lambda: arena.server.requests == 1, "no response")
            await wire.write(handshake())
            await arena.eventually(lambda: arena.server.websockets == 1, "no WebSocket")
            (connection,) = arena.server.connections
            await arena.eventually(
                lambda: sent > 2 or connection._output.waiters,  # type: ignore[attr-defined]
                "it neither sends nor waits",
            )
            assert sent == 0
            wire.writer.transport.resume_reading()  # type: ignore[attr-defined]
            _, _, body = await wire.read_response()
            assert len(body) == 16 * MEBIBYTE
            await wire.read_until(b"\r\n\r\n")
            for _ in range(64):
                await wire.read_exactly(10 + MEBIBYTE)
            assert await wire.read_exactly(4) == b"\x88\x02\x03\xe8"
            await wire.write(close(1000))
            assert await wire.read_to_end() == b""

    run(scenario())


@pytest.mark.parametrize("how", ["close", "reset", "violation"])
def test_nothing_is_left_for_the_garbage_collector(how: str, run: Run) -> None:
    """It comes late to what has lived long, and a compressor is large."""
    message = zlib.compress(b"message", wbits=-12)

    async def scenario() -> None:
        async with Arena(echo) as arena:
            client = await open_websocket(arena, "/", DEFLATE)
            await client.send(frame(FIN | RSV1 | TEXT, message))
            await client.frame()
            if how == "reset":
                client.wire.writer.transport.abort()
            else:
                await client.send(close() if how == "close" else frame(FIN | 0x3))
                await client.end()
                client.wire.close()
            await arena.eventually(
                lambda: not (arena.server.connections or arena.server.tasks), "still there"
            )
            for _ in range(5):
                await asyncio.sleep(0)
            left = [one for one in gc.get_objects() if type(one) in {WebSocketConnection, Deflate}]
            assert not left

    gc.collect()
    gc.disable()
    try:
        run(scenario())
    finally:
        gc.enable()


def test_an_application_that_lingers_keeps_no_compressor(run: Run) -> None:
    async def scenario() -> None:
        gate = asyncio.Event()

        async def act(receive: Receive, send: Send) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            await send({**await receive(), "type": "websocket.send"})
            assert (await receive())["type"] == "websocket.disconnect"
            await gate.wait()

        app = Noted(act)
        async with Arena(app) as arena:
            client = await open_websocket(arena, "/", DEFLATE)
            await client.send(frame(FIN | RSV1 | TEXT, zlib.compress(b"message", wbits=-12)))
            await client.frame()
            await client.send(close())
            await client.end()
            await arena.eventually(lambda: not arena.server.connections, "still connected")
            gc.collect()
            assert not [one for one in gc.get_objects() if type(one) is Deflate]
            gate.set()
        assert app.error is None

    run(scenario())


def test_a_scope_that_the_application_has_changed(run: Run, tmp_path: Any) -> None:
    """Whatever it did to its scope, the connection is counted out."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["raw_path"] = None
        await echo(scope, receive, send)

    async def scenario() -> None:
        with (tmp_path / "access.log").open("wb") as file:
            async with Arena(app) as arena:
                arena.server.access_log = AccessLog(asyncio.get_running_loop(), file.fileno())
                client = await open_websocket(arena)
                await client.send(close())
                await client.end()
                await arena.eventually(lambda: not arena.server.connections, "still there")
                assert arena.server.websockets == 0
                arena.server.access_log.flush()

    run(scenario())


def test_an_exception_after_the_end_is_counted(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def act(receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        await receive()
        raise LookupError("nothing there")

    async def scenario() -> None:
        async with Arena(Noted(act)) as arena:
            client = await open_websocket(arena)
            await client.send(close())
            await client.end()
            await arena.eventually(lambda: not arena.server.tasks, "still there")
            assert arena.server.errors == 1

    with caplog.at_level(logging.ERROR, "asgi_worker"):
        run(scenario())
    assert len(caplog.records) == 1


MESSAGES: list[Message] = [
    {"type": "websocket.close", "reason": b"bytes"},
    {"type": "websocket.close", "code": 1000, "reason": 5},
]


@pytest.mark.parametrize("message", MESSAGES, ids=["bytes", "int"])
def test_a_reason_that_is_no_text(message: Message, run: Run) -> None:
    async def act(receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        with pytest.raises(RuntimeError, match=r"websocket.close: the reason must be str, not "):
            await send(message)

    app = Noted(act)

    async def scenario() -> None:
        async with Arena(app) as arena:
            client = await open_websocket(arena)
            assert await client.closed() == (1000, "")
            await client.send(close(1000))
            await client.end()

    run(scenario())
    assert app.error is None


def test_a_violation_and_a_reset_at_once(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """Of a client that is about to be told that it was closed."""

    async def scenario() -> None:
        async with Arena(sends(ACCEPT)) as arena:
            client = await open_websocket(arena)
            assert (await client.closed()).code == 1000
            connected = client.wire.writer.get_extra_info("socket")
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await client.send(frame(FIN | 0x3))
            client.wire.writer.transport.abort()
            await arena.eventually(lambda: not arena.server.connections, "still there")

    with caplog.at_level(logging.WARNING):
        run(scenario())
    assert not caplog.records


def test_the_end_of_a_client_that_sent_too_early_is_seen(run: Run) -> None:
    """What it sent has filled all there is for it, but its WebSocket is refused anyway."""
    app = Noted()

    async def act(receive: Receive, send: Send) -> None:
        await receive()
        await gate.wait()
        await send({"type": "websocket.http.response.start", "status": 401})
        await receive()

    app.act = act
    gate = asyncio.Event()

    async def scenario() -> None:
        async with Arena(app) as arena:
            wire = await arena.connect()
            await wire.write(handshake())
            await arena.eventually(lambda: app.got, "the application was not called")
            sending = asyncio.create_task(wire.write(bytes(MEBIBYTE)))
            (connection,) = arena.server.connections
            incoming = connection._incoming  # type: ignore[attr-defined]
            await arena.eventually(lambda: incoming.paused, "reading did not stop")
            gate.set()
            await sending
            wire.writer.transport.abort()
            await arena.eventually(lambda: app.ended, "the application was not told")

    run(scenario())
    assert app.got[1:] == [disconnect(1006)]


def test_what_the_application_does_to_the_offers_changes_nothing(run: Run) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["subprotocols"].append("a\r\nb: c")
        with pytest.raises(RuntimeError, match="is not one of those the client offered"):
            await send({**ACCEPT, "subprotocol": "a\r\nb: c"})
        await send(ACCEPT)

    async def scenario() -> None:
        async with Arena(app) as arena:
            client = await open_websocket(arena)
            assert (await client.closed()).code == 1000
            await client.send(close(1000))
            await client.end()

    run(scenario())


def test_large_messages_to_a_client_that_has_gone(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """Gathered in one turn, while the loop has not yet seen that nobody is there: no warnings."""
    go = asyncio.Event()

    async def act(receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        await receive()
        await send({"type": "websocket.send", "text": "begun"})
        await go.wait()
        for _ in range(20):
            await send({"type": "websocket.send", "bytes": bytes(3000)})
        await receive()

    app = Noted(act)

    async def scenario() -> None:
        async with Arena(app) as arena:
            client = socket.create_connection(("127.0.0.1", arena.port))
            client.sendall(handshake())
            await arena.eventually(lambda: arena.server.websockets, "not accepted")
            client.sendall(text("go"))
            await arena.eventually(lambda: len(app.got) == 2, "the message did not come")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            go.set()
            client.close()  # noticed in the turn in which the messages are sent
            await arena.eventually(lambda: app.ended, "the application was not told")

    with caplog.at_level(logging.WARNING):
        run(scenario())
    assert not caplog.records
