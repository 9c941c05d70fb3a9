"""HTTP & WebSocket specification 2.5: the WebSocket handshake.

And its denial.
"""

from __future__ import annotations

import asyncio

import pytest

from asgi_worker.application import Message, Receive, Send
from tests.specification.asking import (
    acting,
    fields,
    knock,
    listening,
    refusal,
    sends,
    talk,
)
from tests.worker.conftest import Run
from tests.worker.frames_by_hand import CLOSE, FIN, close, handshake, open_websocket, text
from tests.worker.serving import Arena
from tests.worker.websocket_apps import ACCEPT, Noted

CLOSED: Message = {"type": "websocket.close"}
OFFER = "Sec-WebSocket-Protocol: chat, plain"


def test_connect_comes_first(run: Run) -> None:
    """Connect: ``websocket.connect`` is sent when the client opens the connection.

    The first event, once; the application may answer without having asked for it.
    """
    app = listening()
    talk(run, app, close(1000))
    assert [one["type"] for one in app.got] == ["websocket.connect", "websocket.disconnect"]
    assert talk(run, sends(ACCEPT, CLOSED)) == [(FIN | CLOSE, b"\x03\xe8")]


def test_nothing_before_the_answer(run: Run) -> None:
    """Connect: it must be answered before the socket will pass ``websocket.receive``.

    What a client sends too early waits, up to 64 KiB.
    """

    async def act(receive: Receive, send: Send) -> None:
        await receive()
        early = asyncio.ensure_future(receive())
        await asyncio.sleep(0.02)
        assert not early.done()
        await send(ACCEPT)
        assert (await early)["text"] == "early"

    app = Noted(act)

    async def test() -> None:
        async with Arena(app) as arena:
            wire = await arena.connect()
            await wire.write(handshake() + text("early"))
            await wire.read_until(b"\r\n\r\n")
            await wire.write(close())
            await wire.read_to_end()
        assert app.error is None

    run(test())


def test_the_handshake_waits(run: Run) -> None:
    """Connect: the handshake must not be completed before the reply.

    Not a byte is sent until the application has answered.
    """

    async def test() -> None:
        gate = asyncio.Event()

        async def act(receive: Receive, send: Send) -> None:
            await receive()
            await gate.wait()
            await send(ACCEPT)

        async with Arena(acting(act)) as arena:
            wire = await arena.connect()
            await wire.write(handshake())
            reading = asyncio.ensure_future(wire.read_until(b"\r\n\r\n"))
            await arena.eventually(lambda: arena.server.tasks, "it does not run")
            await asyncio.sleep(0.05)
            assert not reading.done()
            gate.set()
            assert (await reading).startswith(b"HTTP/1.1 101 ")
            await wire.write(close())
            await wire.read_to_end()

    run(test())


@pytest.mark.parametrize("code", [None, 1000, 4001])
def test_denied(run: Run, code: int | None) -> None:
    """Connect: HTTP status 403 if the connection is denied.

    Whatever the code of the ``websocket.close``: there is no close frame it could be in.
    """
    message = CLOSED if code is None else {**CLOSED, "code": code, "reason": "no"}
    assert knock(run, sends(message)).startswith(b"HTTP/1.1 403 Forbidden\r\n")


def test_subprotocol(run: Run) -> None:
    """Accept: ``subprotocol`` is the one the server wishes to accept.

    One that the client has offered; it would have to fail the connection on any other.
    """
    accept = {**ACCEPT, "subprotocol": "plain"}

    async def test() -> None:
        async with Arena(sends(accept, CLOSED)) as arena:
            client = await open_websocket(arena, "/", OFFER)
            assert b"\r\nSec-WebSocket-Protocol: plain\r\n" in client.head
            await client.closed()
            await client.send(close())

    run(test())
    assert "is not one of those" in str(refusal(run, accept, websocket=True))


@pytest.mark.parametrize("accept", [ACCEPT, {**ACCEPT, "subprotocol": None}], ids=str)
def test_no_subprotocol(run: Run, accept: Message) -> None:
    """Accept: ``subprotocol`` is optional and defaults to ``None``.

    None is accepted then, even if the client offers some.
    """

    async def test() -> None:
        async with Arena(sends(accept, CLOSED)) as arena:
            client = await open_websocket(arena, "/", OFFER)
            assert b"sec-websocket-protocol" not in client.head.lower()
            await client.closed()
            await client.send(close())

    run(test())


def test_headers(run: Run) -> None:
    """Accept: ``headers`` are in the response, their order preserved. Optional.

    Behind those of the handshake.
    """
    headers = [(b"x-b", b"1"), (b"set-cookie", b"a=1"), (b"x-b", b"2"), (b"set-cookie", b"b=2")]

    async def test() -> None:
        async with Arena(sends({**ACCEPT, "headers": headers}, CLOSED)) as arena:
            client = await open_websocket(arena)
            lines = [line for line in fields(client.head) if line[:2] in (b"x-", b"se")]
            assert lines == [b"x-b: 1", b"set-cookie: a=1", b"x-b: 2", b"set-cookie: b=2"]
            await client.closed()
            await client.send(close())

    run(test())


def test_no_header_for_the_subprotocol(run: Run) -> None:
    """Accept: ``headers`` must not include ``sec-websocket-protocol``.

    An error that says which key to use, as for the other headers of the handshake.
    """
    for name in (b"sec-websocket-protocol", b"Sec-WebSocket-Accept", b"upgrade"):
        error = refusal(run, {**ACCEPT, "headers": [(name, b"chat")]}, websocket=True)
        assert "is the server's to send" in str(error)


def test_closed_before_accepted(run: Run) -> None:
    """Close: before acceptance the handshake is answered 403 and not completed.

    The connection is closed behind the response.
    """
    got = knock(run, sends(CLOSED))
    assert got.startswith(b"HTTP/1.1 403 ")
    assert b"\r\nconnection: close\r\n" in got
    assert b"sec-websocket" not in got.lower()


def test_nothing_after_the_denial(run: Run) -> None:
    """Close: it ends the connection.

    Any message of the application after it is an error.
    """
    for messages in ((CLOSED,), (ACCEPT, CLOSED)):
        for message in (ACCEPT, {"type": "websocket.send", "text": "a"}, CLOSED):
            assert "unexpected" in str(refusal(run, *messages, message, websocket=True))
