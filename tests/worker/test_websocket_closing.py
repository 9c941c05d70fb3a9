"""How WebSockets end: every close code both ways, loss, silence, and a worker that stops."""

from __future__ import annotations

import asyncio
import logging
import math
import struct
from typing import Any

import pytest
import websockets
from websockets.exceptions import ConnectionClosed

from asgi_worker.application import Receive, Send
from asgi_worker.protocols.exchange import ClientDisconnected
from tests.worker.conftest import Run
from tests.worker.frames_by_hand import (
    BINARY,
    CLOSE,
    CONTINUATION,
    FIN,
    PING,
    PONG,
    TEXT,
    Client,
    close,
    frame,
    handshake,
    open_websocket,
    text,
)
from tests.worker.serving import Arena
from tests.worker.websocket_apps import ACCEPT, Noted, disconnect, echo, sends

CODES = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4999]


def expire_all(arena: Arena) -> None:
    """What the sweep does, once the deadline of every connection has passed."""
    for connection in list(arena.server.connections):
        assert connection.deadline < math.inf, "nothing would ever happen to this connection"
        connection.expire(arena.server.now)


@pytest.mark.parametrize("code", [*CODES, None])
def test_the_client_closes(code: int | None, run: Run) -> None:
    app = Noted()

    async def scenario() -> None:
        async with Arena(app) as arena:
            client = await open_websocket(arena)
            await client.send(close(code, "" if code is None else "gräßlich"))
            assert await client.closed() == (code, "")
            assert await client.end() == b""

    run(scenario())
    told = disconnect(1005) if code is None else disconnect(code, "gräßlich")
    assert app.got == [{"type": "websocket.connect"}, told]
    assert app.error is None


@pytest.mark.parametrize("code", [*CODES, None])
def test_the_application_closes(code: int | None, run: Run) -> None:
    async def act(receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        more = {} if code is None else {"code": code, "reason": "gräßlich"}
        await send({"type": "websocket.close", **more})
        await receive()
        await receive()

    app = Noted(act)

    async def scenario() -> None:
        async with Arena(app) as arena:
            client = await open_websocket(arena)
            expected = (1000, "") if code is None else (code, "gräßlich")
            assert await client.closed() == expected
            await client.send(text("crossing"), close(expected[0]))
            assert await client.end() == b""

    run(scenario())
    told = disconnect(1000) if code is None else disconnect(code, "gräßlich")
    assert app.got[1:] == [told, told]
    assert app.error is None


def test_the_application_closes_without_a_code(run: Run) -> None:
    async def scenario() -> None:
        async with Arena(sends(ACCEPT, {"type": "websocket.close", "code": 1005})) as arena:
            client = await open_websocket(arena)
            assert await client.closed() == (None, "")
            await client.send(close())
            assert await client.end() == b""

    run(scenario())


def test_a_library_and_we_agree_on_how_it_ended(run: Run) -> None:
    async def scenario() -> None:
        async with Arena(
            sends(ACCEPT, {"type": "websocket.close", "code": 4001, "reason": "no"})
        ) as arena:
            client = await websockets.connect(f"ws://127.0.0.1:{arena.port}/")
            with pytest.raises(ConnectionClosed):
                await client.recv()
            assert (client.close_code, client.close_reason) == (4001, "no")

    run(scenario())


VIOLATIONS: dict[str, tuple[bytes, int]] = {
    "not masked": (frame(FIN | TEXT, b"x", mask=None), 1002),
    "reserved bits": (frame(FIN | 0x20 | TEXT, b"x"), 1002),
    "unknown opcode": (frame(FIN | 0x3), 1002),
    "fragmented ping": (frame(PING), 1002),
    "continuation of nothing": (frame(FIN | CONTINUATION), 1002),
    "not UTF-8": (frame(FIN | TEXT, b"\xff"), 1007),
    "not UTF-8, not complete": (frame(TEXT, b"\xff"), 1007),
    "too big": (frame(FIN | BINARY, b"x" * 2000), 1009),
    "too big, only begun": (b"\x82\xff" + struct.pack("!Q", 1 << 60) + bytes(4), 1009),
    "fragments too big": (frame(BINARY, b"x" * 600) + frame(FIN, b"x" * 600), 1009),
    "a close code that must not be sent": (close(1006), 1002),
    "a close frame of one octet": (frame(FIN | CLOSE, b"x"), 1002),
}


@pytest.mark.parametrize(("stream", "code"), VIOLATIONS.values(), ids=VIOLATIONS.keys())
@pytest.mark.parametrize("trailing", [b"", bytes(300_000)], ids=["", "trailing data"])
def test_the_client_breaks_the_protocol(
    stream: bytes, code: int, trailing: bytes, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """Told by a close frame that is not lost to a reset, whatever the client still sends."""
    app = Noted()

    async def scenario() -> None:
        async with Arena(app, ws_max_bytes=1000) as arena:
            client = await open_websocket(arena)
            await client.send(stream, trailing)
            closed = await client.closed()
            assert closed.code == code
            assert closed.reason
            assert await client.end() == b""
            assert app.got == [{"type": "websocket.connect"}, disconnect(code, closed.reason)]

    with caplog.at_level(logging.INFO, "asgi_worker"):
        run(scenario())
    assert app.error is None
    assert [record.levelname for record in caplog.records] == ["INFO"]


def test_what_came_before_the_end_is_answered(run: Run) -> None:
    async def scenario() -> None:
        async with Arena(echo) as arena:
            for end, code in ((close(1001), 1001), (frame(FIN | 0x7), 1002)):
                client = await open_websocket(arena)
                await client.send(text("one"), text("two"), end)
                assert [await client.text(), await client.text()] == ["one", "two"]
                assert (await client.closed()).code == code
                assert await client.end() == b""

    run(scenario())


@pytest.mark.parametrize("how", ["end of file", "reset", "within a frame"])
def test_the_client_is_gone(how: str, run: Run) -> None:
    app = Noted()

    async def scenario() -> None:
        async with Arena(app) as arena:
            client = await open_websocket(arena)
            if how == "within a frame":
                await client.send(text("a message")[:-3])
            if how == "reset":
                client.wire.writer.transport.abort()
            else:
                client.wire.writer.write_eof()
                assert await client.end() == b""
            await arena.eventually(lambda: app.ended, "the application was not told")

    run(scenario())
    assert app.got == [{"type": "websocket.connect"}, disconnect(1006)]


def test_messages_come_before_the_disconnect(run: Run) -> None:
    go = asyncio.Event()

    async def act(receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        await go.wait()
        while (await receive())["type"] != "websocket.disconnect":
            pass

    app = Noted(act)

    async def scenario() -> None:
        async with Arena(app) as arena:
            client = await open_websocket(arena)
            await client.send(text("one"), text("two"), close(1000))
            assert (await client.closed()).code == 1000
            assert await client.end() == b""
            go.set()

    run(scenario())
    assert [message.get("text") for message in app.got[1:]] == ["one", "two", None]
    assert app.got[-1] == disconnect(1000)


def test_send_after_the_client_has_gone_is_an_oserror(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def act(receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        await receive()
        await send({"type": "websocket.close"})  # what is so already is no error
        await send({"type": "websocket.send", "text": "too late"})

    app = Noted(act)

    async def scenario() -> None:
        async with Arena(app) as arena:
            client = await open_websocket(arena)
            await client.send(close())
            await client.end()

    run(scenario())
    assert isinstance(app.error, ClientDisconnected)
    assert isinstance(app.error, OSError)
    assert not caplog.records


def test_a_send_that_waits_for_a_client_that_goes(run: Run) -> None:
    async def act(receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        while True:
            await send({"type": "websocket.send", "bytes": bytes(100_000)})

    app = Noted(act)

    async def scenario() -> None:
        async with Arena(app) as arena:
            client = await open_websocket(arena)
            (connection,) = arena.server.connections
            await arena.eventually(
                lambda: connection._output.waiters,  # type: ignore[attr-defined]
                "the application never had to wait",
            )
            client.wire.writer.transport.abort()
            await arena.eventually(lambda: app.ended, "the application waits for ever")

    run(scenario())
    assert isinstance(app.error, ClientDisconnected)


async def fails(receive: Receive, send: Send) -> None:
    await receive()
    await send(ACCEPT)
    await receive()
    raise LookupError("nothing there")


def test_an_exception_closes_with_1011(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with Arena(Noted(fails)) as arena:
            client = await open_websocket(arena, "/x")
            await client.send(text("go"))
            assert await client.closed() == (1011, "")
            await client.send(close(1011))
            assert await client.end() == b""
            assert arena.server.errors == 1

    run(scenario())
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "WebSocket '/x': exception in the application" in caplog.text
    assert "LookupError: nothing there" in caplog.text


def test_an_exception_after_the_end_is_logged_too(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with Arena(Noted(fails)) as arena:
            client = await open_websocket(arena)
            await client.send(close())
            await client.end()

    run(scenario())
    assert "LookupError: nothing there" in caplog.text


def test_returning_closes_with_1000(run: Run) -> None:
    async def scenario() -> None:
        async with Arena(sends(ACCEPT)) as arena:
            client = await open_websocket(arena)
            assert await client.closed() == (1000, "")
            await client.send(close(1000))
            assert await client.end() == b""

    run(scenario())


def test_a_client_that_does_not_answer_a_close_is_cut(run: Run) -> None:
    async def scenario() -> None:
        async with Arena(sends(ACCEPT)) as arena:
            client = await open_websocket(arena)
            assert (await client.closed()).code == 1000
            (connection,) = arena.server.connections
            assert 9 < connection.deadline - arena.server.now <= 10.5
            expire_all(arena)
            assert await client.end() == b""

    run(scenario())


def test_a_client_that_does_not_leave_after_a_violation_is_cut(run: Run) -> None:
    async def scenario() -> None:
        async with Arena(echo) as arena:
            client = await open_websocket(arena)
            await client.send(frame(FIN | 0x7))
            assert (await client.closed()).code == 1002
            await client.send(bytes(100))
            expire_all(arena)
            await arena.eventually(lambda: not arena.server.connections, "still connected")

    run(scenario())


async def ping_of(client: Client) -> bytes:
    first, payload = await client.frame()
    assert (first, len(payload)) == (FIN | PING, 4)
    return payload


def test_silence_is_ended_by_1011(run: Run) -> None:
    app = Noted()

    async def scenario() -> None:
        async with Arena(app, ws_ping_interval_s=7.0, ws_ping_timeout_s=3.0) as arena:
            client = await open_websocket(arena)
            (connection,) = arena.server.connections
            for _ in range(2):
                assert 6.5 < connection.deadline - arena.server.now <= 7
                expire_all(arena)
                payload = await ping_of(client)
                assert 2.5 < connection.deadline - arena.server.now <= 3
                await client.send(frame(FIN | PONG, b"not " + payload), frame(FIN | PONG, payload))
                await client.send(frame(FIN | PING))
                assert await client.frame() == (FIN | PONG, b"")
            expire_all(arena)
            await ping_of(client)
            expire_all(arena)
            closed = await client.closed()
            assert closed == (1011, "keepalive ping timeout")
            expire_all(arena)
            assert await client.end() == b""

    run(scenario())
    assert app.got[1:] == [disconnect(1011, "keepalive ping timeout")]


def test_without_a_time_out_pings_go_on_unanswered(run: Run) -> None:
    async def scenario() -> None:
        async with Arena(echo, ws_ping_timeout_s=None) as arena:
            client = await open_websocket(arena)
            for _ in range(3):
                expire_all(arena)
                await ping_of(client)
            await client.send(close())
            assert await client.closed() == (None, "")

    run(scenario())


def test_pings_can_be_turned_off(run: Run) -> None:
    async def scenario() -> None:
        async with Arena(echo, ws_ping_interval_s=None) as arena:
            client = await open_websocket(arena)
            (connection,) = arena.server.connections
            assert connection.deadline == math.inf
            await client.send(close())
            await client.end()

    run(scenario())


@pytest.mark.parametrize("successor", [True, False], ids=["reload", "stop"])
def test_a_worker_that_stops(successor: bool, run: Run) -> None:
    code = 1012 if successor else 1001
    app = Noted()

    async def scenario() -> None:
        async with Arena(app) as arena:
            client = await open_websocket(arena)
            draining = asyncio.create_task(arena.server.drain(5.0, successor=successor))
            assert await client.closed() == (code, "")
            await client.send(text("crossing"), close(code))
            assert await client.end() == b""
            await draining

    run(scenario())
    assert app.got[1:] == [disconnect(code)]
    assert app.error is None


@pytest.mark.parametrize("successor", [True, False], ids=["reload", "stop"])
def test_who_comes_while_a_worker_stops_is_told_why(successor: bool, run: Run) -> None:
    async def scenario() -> None:
        async with Arena(echo) as arena:
            wire = await arena.connect()
            await arena.eventually(lambda: arena.server.connections, "it is connected")
            draining = asyncio.create_task(arena.server.drain(5.0, successor=successor))
            await arena.eventually(lambda: arena.server.draining, "it drains")
            await wire.write(handshake())
            client = Client(wire, await wire.read_until(b"\r\n\r\n"))
            assert await client.closed() == (1012 if successor else 1001, "")
            await client.send(close(1012))
            await client.end()
            await draining

    run(scenario())


def test_a_worker_that_stops_does_not_wait_long_for_the_silent(run: Run) -> None:
    async def scenario() -> None:
        async with Arena(echo) as arena:
            client = await open_websocket(arena)
            (connection,) = arena.server.connections
            connection.drain(successor=True)
            assert (await client.closed()).code == 1012
            assert connection.deadline - arena.server.loop.time() <= 2.001
            expire_all(arena)
            assert await client.end() == b""

    run(scenario())


def test_a_handshake_while_the_worker_stops_is_told_by_a_close_frame(run: Run) -> None:
    accept = asyncio.Event()

    async def act(receive: Receive, send: Send) -> None:
        await receive()
        await accept.wait()
        await send(ACCEPT)
        assert await receive() == disconnect(1012)
        await send({"type": "websocket.send", "text": "x"})

    app = Noted(act)

    async def scenario() -> None:
        async with Arena(app) as arena:
            wire = await arena.connect()
            await wire.write(handshake())
            await arena.eventually(lambda: app.got, "the application was not called")
            (connection,) = arena.server.connections
            connection.drain(successor=True)
            accept.set()
            client = Client(wire, await wire.read_until(b"\r\n\r\n"))
            assert (await client.closed()).code == 1012
            await client.send(close(1012))
            assert await client.end() == b""

    run(scenario())
    assert isinstance(app.error, ClientDisconnected)


def test_late_in_the_budget_undecided_handshakes_are_answered_503(run: Run) -> None:
    async def act(receive: Receive, send: Send) -> None:
        await receive()
        assert await receive() == disconnect(1012)  # why, not only that it ended
        await send(ACCEPT)

    app = Noted(act)

    async def scenario() -> None:
        async with Arena(app) as arena:
            wire = await arena.connect()
            await wire.write(handshake())
            await arena.eventually(lambda: app.got, "the application was not called")
            for connection in list(arena.server.connections):
                connection.drain(successor=True)
                connection.disconnect()
            assert (await wire.read_to_end()).startswith(b"HTTP/1.1 503 Service Unavailable\r\n")

    run(scenario())
    assert isinstance(app.error, ClientDisconnected)


def test_an_application_that_is_cancelled(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with Arena(echo) as arena:
            client = await open_websocket(arena)
            (task,) = arena.server.tasks
            task.cancel()
            assert (await client.closed()).code == 1011
            await client.send(close(1011))
            assert await client.end() == b""

    run(scenario())
    assert "the application was cancelled" in caplog.text


def test_abort(run: Run) -> None:
    app = Noted()

    async def scenario() -> None:
        async with Arena(app) as arena:
            client = await open_websocket(arena)
            for connection in list(arena.server.connections):
                connection.abort()
            assert await client.end() == b""

    run(scenario())
    assert app.got[1:] == [disconnect(1006)]


def test_many_at_once(run: Run) -> None:
    """Nothing is left behind by connections that end in different ways at the same time."""

    async def one(arena: Arena, how: Any) -> None:
        client = await open_websocket(arena)
        await client.send(text("hello"))
        assert await client.text() == "hello"
        if how is None:
            client.wire.writer.transport.abort()
        else:
            await client.send(how)
            await client.end()
            client.wire.close()

    async def scenario() -> None:
        async with Arena(echo) as arena:
            ways = [None, close(), close(1001), frame(0x3), frame(FIN | TEXT, b"\xff")]
            await asyncio.gather(*(one(arena, how) for how in ways * 10))
            await arena.eventually(lambda: not arena.server.connections, "some are still there")
            assert arena.server.websockets == 0

    run(scenario())
