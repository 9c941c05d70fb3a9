"""HTTP & WebSocket specification 2.5: WebSocket connections.

RFC 6455 with permessage-deflate (RFC 7692).
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from asgi_worker.application import Receive, Send
from tests.specification.asking import listening, talk, websocket_scope
from tests.worker.conftest import Run
from tests.worker.frames_by_hand import (
    BINARY,
    CLOSE,
    CONTINUATION,
    FIN,
    PING,
    PONG,
    TEXT,
    close,
    frame,
    open_websocket,
    text,
)
from tests.worker.serving import Arena
from tests.worker.websocket_apps import ACCEPT, Noted, disconnect


def test_type(run: Run) -> None:
    """WebSocket: a WebSocket is signified by the ``type`` ``"websocket"``.

    For a GET that asks for an upgrade to it; anything else is ``"http"``.
    """
    assert websocket_scope(run)["type"] == "websocket"


def test_ping_and_pong(run: Run) -> None:
    """WebSocket: servers should handle PING and PONG themselves.

    Pings are answered, pongs noted; the application sees neither.
    """
    app = listening()
    frames = talk(run, app, frame(FIN | PING, b"?"), frame(FIN | PONG, b"!"), close(1000))
    assert frames[0] == (FIN | PONG, b"?")
    assert [one["type"] for one in app.got] == ["websocket.connect", "websocket.disconnect"]


def test_pings(run: Run) -> None:
    """WebSocket: … and send PING as necessary to ensure the connection is alive.

    ``--ws-ping-interval`` and ``--ws-ping-timeout``; one that is not answered ends the connection
    with 1011, unless its client was heard or seen to read since.
    """
    app = Noted()

    async def test() -> None:
        async with Arena(app, ws_ping_interval_s=0.1, ws_ping_timeout_s=0.1) as arena:
            client = await open_websocket(arena)
            first, payload = await client.frame()
            assert first == FIN | PING
            await client.send(frame(FIN | PONG, payload))
            assert (await client.frame()).first == FIN | PING
            assert (await client.closed()).code == 1011  # that one was not answered

    run(test())


def test_fragments(run: Run) -> None:
    """WebSocket: servers should handle fragmentation and deliver complete messages.

    Control frames may come between the fragments. ``--ws-max-size`` limits the whole message.
    """
    app = listening()
    parts = frame(TEXT, b"one "), frame(FIN | PING), frame(CONTINUATION, b"tw"), frame(FIN, b"o")
    talk(run, app, *parts, close(1000))
    assert app.got[1] == {"type": "websocket.receive", "text": "one two"}


def test_the_application_dies(run: Run) -> None:
    """Websocket Connection Scope: if the application dies the socket should be closed.

    With 1011 if it raised, with 1000 if it returned.
    """

    async def act(receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        raise ValueError("of the application")

    assert talk(run, Noted(act)) == [(FIN | CLOSE, b"\x03\xf3")]

    async def returns(receive: Receive, send: Send) -> None:
        await send(ACCEPT)

    assert talk(run, Noted(returns)) == [(FIN | CLOSE, b"\x03\xe8")]


def test_the_socket_dies(run: Run) -> None:
    """Websocket Connection Scope: … and vice versa.

    The application is told; it is not cancelled, for it may have to clean up.
    """
    app = listening()

    async def test() -> None:
        async with Arena(app) as arena:
            client = await open_websocket(arena)
            client.wire.writer.transport.abort()
            await arena.eventually(lambda: not arena.server.tasks, "it was not told")
        assert app.got[-1] == disconnect(1006)
        assert app.error is None

    run(test())


def test_keys_that_http_has(run: Run) -> None:
    """Websocket Connection Scope: path, query, headers, addresses are as for HTTP.

    Made by the same code from the same request.
    """
    app = Noted()

    async def test() -> None:
        async with Arena(app, root_path="/api") as arena:
            client = await open_websocket(
                arena, "/a%20%E2%82%AC?b=%20", "X-B: 1", "x-a: 2", "X-B: 3"
            )
            await client.send(close())
            await client.end()
            assert app.scope["client"] == client.wire.writer.get_extra_info("sockname")
            assert app.scope["server"] == ("127.0.0.1", arena.port)

    run(test())
    scope = app.scope
    assert scope["path"] == "/api/a €"
    assert scope["raw_path"] == b"/api/a%20%E2%82%AC"
    assert scope["query_string"] == b"b=%20"
    assert scope["root_path"] == "/api"
    assert scope["headers"][-3:] == [(b"x-b", b"1"), (b"x-a", b"2"), (b"x-b", b"3")]


def test_http_version(run: Run) -> None:
    """Websocket Connection Scope: ``http_version`` is ``"1.1"`` or newer. Optional.

    ``"1.1"``.
    """
    assert websocket_scope(run)["http_version"] == "1.1"


def test_no_method(run: Run) -> None:
    """Websocket Connection Scope: its keys are those listed, no ``method``.

    Nothing else is in it.
    """
    assert set(websocket_scope(run)) == {
        *("type", "asgi", "http_version", "scheme", "path", "raw_path", "query_string"),
        *("root_path", "headers", "client", "server", "subprotocols", "state", "extensions"),
    }


@pytest.mark.parametrize(("forwarded", "scheme"), [("", "ws"), ("https", "wss"), ("wss", "wss")])
def test_scheme(run: Run, forwarded: str, scheme: str) -> None:
    """Websocket Connection Scope: ``scheme`` is ``"ws"`` or ``"wss"``, never empty.

    ``"wss"`` when a trusted proxy says that the client came by TLS.
    """
    lines = (f"X-Forwarded-Proto: {forwarded}",) if forwarded else ()
    assert websocket_scope(run, "/", *lines)["scheme"] == scheme


def test_subprotocols(run: Run) -> None:
    """Websocket Connection Scope: ``subprotocols`` are those the client advertised.

    A list of strings in the client's order; empty if it offers none.
    """
    lines = "Sec-WebSocket-Protocol: chat.v2, chat.v1", "Sec-WebSocket-Protocol: plain"
    assert websocket_scope(run, "/", *lines)["subprotocols"] == ["chat.v2", "chat.v1", "plain"]
    assert websocket_scope(run)["subprotocols"] == []


def test_state(run: Run) -> None:
    """Websocket Connection Scope: ``state`` is a copy of the namespace of the lifespan.

    A shallow copy for each WebSocket.
    """
    app = Noted()
    states: list[dict[str, Any]] = []

    async def test() -> None:
        async with Arena(app) as arena:
            arena.server._base_scope["state"]["pool"] = pool = object()
            for _ in range(2):
                client = await open_websocket(arena)
                await client.send(close())
                await client.end()
                states.append(app.scope["state"])
                assert states[-1] == {"pool": pool}
        assert states[0] is not states[1]

    run(test())


# Receive - receive event


def test_text(run: Run) -> None:
    """Receive: ``text`` is the content of a message in text mode.

    Exactly one of the keys is there; the other would be ``None``.
    """
    app = listening()
    talk(run, app, text(""), text("é🚲"), close(1000))
    assert app.got[1:3] == [
        {"type": "websocket.receive", "text": ""},
        {"type": "websocket.receive", "text": "é🚲"},
    ]


def test_bytes(run: Run) -> None:
    """Receive: ``bytes`` is the content of a message in binary mode.

    Exactly one of ``bytes`` and ``text`` is not ``None``, of an empty message too.
    """
    app = listening()
    talk(run, app, frame(FIN | BINARY), frame(FIN | BINARY, b"\xff\x00"), close(1000))
    assert app.got[1:3] == [
        {"type": "websocket.receive", "bytes": b""},
        {"type": "websocket.receive", "bytes": b"\xff\x00"},
    ]


# Send - send event


@pytest.mark.parametrize(
    ("message", "sent"),
    [
        ({"text": "é"}, (FIN | TEXT, "é".encode())),
        ({"text": ""}, (FIN | TEXT, b"")),
        ({"bytes": b"\xff"}, (FIN | BINARY, b"\xff")),
        ({"bytes": b""}, (FIN | BINARY, b"")),
        ({"text": "a", "bytes": None}, (FIN | TEXT, b"a")),
        ({"text": None, "bytes": b"a"}, (FIN | BINARY, b"a")),
    ],
    ids=str,
)
def test_send(run: Run, message: dict[str, Any], sent: Any) -> None:
    """Send: one of ``bytes`` or ``text`` is not ``None``; both keys may be present.

    It becomes one message, of binary or of text mode.
    """
    app = listening({"type": "websocket.send", **message}, {"type": "websocket.close"})
    assert talk(run, app)[0] == sent


@pytest.mark.parametrize(
    "message", [{}, {"text": None, "bytes": None}, {"text": "", "bytes": b""}], ids=str
)
def test_send_one(run: Run, message: dict[str, Any]) -> None:
    """Send: … and exactly one.

    Else a ``RuntimeError``, and nothing is sent.
    """
    app = listening({"type": "websocket.send", **message})
    assert talk(run, app) == [(FIN | CLOSE, b"\x03\xf3")]
    assert "exactly one of 'text' and 'bytes'" in str(app.error)


# Disconnect - receive event


@pytest.mark.parametrize(
    ("frame_", "code", "reason"),
    [(close(1000, "bye"), 1000, "bye"), (close(4001), 4001, ""), (close(3000, "é"), 3000, "é")],
)
def test_disconnect(run: Run, frame_: bytes, code: int, reason: str) -> None:
    """Disconnect: when the client closes, ``code`` and ``reason`` are those of its close frame.

    Both keys are always there, and the event is given every time it is asked for.
    """
    app = listening()
    talk(run, app, frame_)
    assert app.got[-1] == disconnect(code, reason)


def test_no_code(run: Run) -> None:
    """Disconnect: if no code was received in the frame, it is 1005.

    The reason is empty.
    """
    app = listening()
    talk(run, app, close())
    assert app.got[-1] == disconnect(1005)


def test_loss(run: Run) -> None:
    """Disconnect: it is sent on loss of the socket, too.

    ``code`` is 1006 then, without a close frame of the client.
    """
    app = listening()

    async def test() -> None:
        async with Arena(app) as arena:
            client = await open_websocket(arena)
            client.wire.close()
            await arena.eventually(lambda: not arena.server.tasks, "it was not told")
        assert app.got[-1] == disconnect(1006)

    run(test())


def test_the_server_closes(run: Run) -> None:
    """Disconnect: … and when the server closes the connection.

    Because the worker stops (1001), is replaced (1012), or the client broke the protocol (1002,
    1007, 1009); or because the application has said so itself.
    """
    app = listening()

    async def test() -> None:
        async with Arena(app) as arena:
            client = await open_websocket(arena)
            task = asyncio.ensure_future(arena.server.drain(5, successor=True))
            assert (await client.closed()).code == 1012
            await client.send(close(1012))
            await task
        assert app.got[-1] == disconnect(1012)

    run(test())
    talk(run, app, frame(FIN | 0x3))
    assert app.got[-1]["code"] == 1002

    async def act(receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        await send({"type": "websocket.close", "code": 4000, "reason": "done"})
        assert await receive() == disconnect(4000, "done")

    app = Noted(act)
    talk(run, app)
    assert app.error is None


def test_messages_come_first(run: Run) -> None:
    """Disconnect: what was received before is given before.

    However late the application asks.
    """

    async def act(receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        await send({"type": "websocket.send", "text": "go"})
        await asyncio.sleep(0.05)
        for _ in range(3):
            await receive()

    app = Noted(act)

    async def test() -> None:
        app.got.clear()
        async with Arena(app) as arena:
            client = await open_websocket(arena)
            await client.text()
            await client.send(text("a"), text("b"), close(1000))
            await client.end()
        assert [one.get("text") for one in app.got[1:]] == ["a", "b", None]

    run(test())


# Disconnected Client - send exception


def test_oserror(run: Run) -> None:
    """Disconnected Client: ``send()`` on a closed connection should raise a kind of ``OSError``.

    ``ClientDisconnected``, the same as for HTTP.
    """

    async def act(receive: Receive, send: Send) -> None:
        await listening().listen(receive, send)
        await send({"type": "websocket.send", "text": "too late"})

    app = Noted(act)
    talk(run, app, close(1000))
    assert isinstance(app.error, OSError)


def test_it_is_not_logged(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """Disconnected Client: servers catch this exception and should not log it as an error.

    Nor the return of an application that has caught it.
    """

    async def act(receive: Receive, send: Send) -> None:
        await listening().listen(receive, send)
        await send({"type": "websocket.send", "text": "too late"})

    async def catches(receive: Receive, send: Send) -> None:
        with contextlib.suppress(OSError):
            await act(receive, send)

    talk(run, Noted(act), close(1000))
    talk(run, Noted(catches), close(1000))
    assert not [one for one in caplog.records if one.levelname in {"WARNING", "ERROR"}]


# Close - send event


def test_close(run: Run) -> None:
    """Close: after acceptance the socket must be closed with the ``code`` of the message.

    ``reason`` goes along, cut to the 123 bytes that a close frame can hold.
    """
    message = {"type": "websocket.close", "code": 4242, "reason": "é" * 100}
    assert talk(run, listening(message)) == [(FIN | CLOSE, b"\x10\x92" + "é".encode() * 61)]


@pytest.mark.parametrize("message", [{}, {"reason": None}, {"reason": ""}], ids=str)
def test_close_defaults(run: Run, message: dict[str, Any]) -> None:
    """Close: ``code`` is optional and 1000, ``reason`` optional and empty.

    ``None`` is taken for either.
    """
    message = {"type": "websocket.close", **message}
    assert talk(run, listening(message)) == [(FIN | CLOSE, b"\x03\xe8")]
