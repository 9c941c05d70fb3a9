"""Before a WebSocket is open: refusing it, answering it by HTTP, and getting that wrong."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from asgi_worker.application import Message, Receive, Scope, Send
from asgi_worker.protocols.exchange import ClientDisconnected
from tests.worker.conftest import Run
from tests.worker.frames_by_hand import close, handshake, open_websocket
from tests.worker.serving import Arena
from tests.worker.websocket_apps import ACCEPT, Noted, disconnect, echo, sends


def start(status: int = 401, *headers: tuple[bytes, bytes]) -> Message:
    return {"type": "websocket.http.response.start", "status": status, "headers": list(headers)}


def body(data: bytes = b"", *, more: bool = False) -> Message:
    return {"type": "websocket.http.response.body", "body": data, "more_body": more}


def shown(response: bytes) -> tuple[bytes, list[bytes], bytes]:
    head, _, rest = response.partition(b"\r\n\r\n")
    first, *fields = head.split(b"\r\n")
    return first, [one for one in fields if not one.startswith((b"date:", b"server:"))], rest


CLOSE = b"connection: close"

DENIALS: dict[str, tuple[tuple[Message, ...], tuple[bytes, list[bytes], bytes]]] = {
    "a plain close": (
        ({"type": "websocket.close", "code": 4000, "reason": "never seen"},),
        (
            b"HTTP/1.1 403 Forbidden",
            [b"content-type: text/plain; charset=utf-8", b"content-length: 9", CLOSE],
            b"Forbidden",
        ),
    ),
    "a response": (
        (start(401, (b"www-authenticate", b"Basic")), body(b"who?")),
        (
            b"HTTP/1.1 401 Unauthorized",
            [b"www-authenticate: Basic", b"content-length: 4", CLOSE],
            b"who?",
        ),
    ),
    "a response without a body": (
        (start(404), body()),
        (b"HTTP/1.1 404 Not Found", [b"content-length: 0", CLOSE], b""),
    ),
    "a response in pieces": (
        (start(400), body(b"one", more=True), body(b"", more=True), body(b"two")),
        (
            b"HTTP/1.1 400 Bad Request",
            [b"transfer-encoding: chunked", CLOSE],
            b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n",
        ),
    ),
    "a response in pieces with a length": (
        (start(400, (b"content-length", b"6")), body(b"one", more=True), body(b"two")),
        (b"HTTP/1.1 400 Bad Request", [b"content-length: 6", CLOSE], b"onetwo"),
    ),
    "a redirection": (
        (start(307, (b"location", b"/there")), body()),
        (
            b"HTTP/1.1 307 Temporary Redirect",
            [b"location: /there", b"content-length: 0", CLOSE],
            b"",
        ),
    ),
}


@pytest.mark.parametrize(("messages", "expected"), DENIALS.values(), ids=DENIALS.keys())
def test_denials(
    messages: tuple[Message, ...],
    expected: Any,
    run: Run,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def act(receive: Receive, send: Send) -> None:
        await receive()
        for message in messages:
            await send(message)
        await receive()

    app = Noted(act)

    async def scenario() -> None:
        async with Arena(app) as arena:
            assert shown(await arena.exchange(handshake())) == expected
            assert (arena.server.websockets, arena.server.requests) == (0, 1)

    run(scenario())
    assert app.got == [{"type": "websocket.connect"}, disconnect(1006)]
    assert not caplog.records


INTERNAL = b"HTTP/1.1 500 Internal Server Error\r\n"

WRONG_BEFORE: dict[str, tuple[tuple[Message, ...], str]] = {
    "send": (
        ({"type": "websocket.send", "text": "x"},),
        "unexpected ASGI message 'websocket.send': expected 'websocket.accept'",
    ),
    "HTTP": (({"type": "http.response.start", "status": 200},), "unexpected ASGI message 'http."),
    "body first": ((body(),), "unexpected ASGI message 'websocket.http.response.body'"),
    "accept after a start": ((start(), ACCEPT), "expected 'websocket.http.response.body' here"),
    "two starts": ((start(), start()), "expected 'websocket.http.response.body' here"),
    "status": ((start(99), body()), "'status' is 99, "),
    "status 101": ((start(101), body()), "'status' is 101, "),
    "splitting": ((start(400, (b"x", b"a\r\nb: c")), body()), "holds CR, LF or NUL"),
    "accept splits": (
        ({"type": "websocket.accept", "headers": [(b"x", b"a\r\nb: c")]},),
        "holds CR, LF or NUL",
    ),
    "accept has a name that is none": (
        ({"type": "websocket.accept", "headers": [(b"x y", b"")]},),
        "header name b'x y' is not a token",
    ),
    "accept has a str": (
        ({"type": "websocket.accept", "headers": [("x", "y")]},),
        "header 'x': the name must be bytes, not str",
    ),
    "subprotocol not offered": (
        ({"type": "websocket.accept", "subprotocol": "mqtt"},),
        "subprotocol 'mqtt' is not one of those the client offered (chat, superchat)",
    ),
    "subprotocol as a header": (
        ({"type": "websocket.accept", "headers": [(b"Sec-WebSocket-Protocol", b"chat")]},),
        "use the key 'subprotocol'",
    ),
    "our own header": (
        ({"type": "websocket.accept", "headers": [(b"sec-websocket-accept", b"x")]},),
        "is the server's to send",
    ),
}


@pytest.mark.parametrize(("messages", "error"), WRONG_BEFORE.values(), ids=WRONG_BEFORE.keys())
def test_illegal_messages_before_accept(
    messages: tuple[Message, ...],
    error: str,
    run: Run,
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = Noted(lambda receive, send: sends(*messages)(None, receive, send))

    async def scenario() -> None:
        async with Arena(app) as arena:
            request = handshake("/x", "Sec-WebSocket-Protocol: chat, superchat")
            assert (await arena.exchange(request)).startswith(INTERNAL)
            assert (arena.server.websockets, arena.server.errors) == (0, 1)

    run(scenario())
    assert isinstance(app.error, RuntimeError)
    assert error in str(app.error)
    assert "WebSocket '/x': exception in the application" in caplog.text
    assert "Traceback" in caplog.text


WRONG_LATER: dict[str, tuple[Message, str]] = {
    "accept again": (ACCEPT, "expected 'websocket.send' or 'websocket.close' here"),
    "a denial": (start(), "expected 'websocket.send' or 'websocket.close' here"),
    "nothing to send": ({"type": "websocket.send"}, "exactly one of 'text' and 'bytes'"),
    "both": ({"type": "websocket.send", "text": "", "bytes": b""}, "exactly one of 'text'"),
    "bytes as text": ({"type": "websocket.send", "text": b"x"}, "'text' must be str, not bytes"),
    "text as bytes": ({"type": "websocket.send", "bytes": "x"}, "'bytes' must be bytes, not str"),
    "a number": ({"type": "websocket.send", "bytes": 5}, "'bytes' must be bytes, not int"),
    "close 1006": ({"type": "websocket.close", "code": 1006}, "1006 is not a close code"),
    "close 999": ({"type": "websocket.close", "code": 999}, "999 is not a close code"),
    "close as str": ({"type": "websocket.close", "code": "1000"}, "must be int, not '1000'"),
    "another type": ({"type": "websocket.ping"}, "unexpected ASGI message 'websocket.ping'"),
}


@pytest.mark.parametrize(("message", "error"), WRONG_LATER.values(), ids=WRONG_LATER.keys())
def test_illegal_messages_after_accept(
    message: Message, error: str, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    app = Noted(lambda receive, send: sends(ACCEPT, message)(None, receive, send))

    async def scenario() -> None:
        async with Arena(app) as arena:
            client = await open_websocket(arena)
            assert await client.closed() == (1011, "")
            await client.send(close(1011))
            assert await client.end() == b""
            assert arena.server.errors == 1

    run(scenario())
    assert isinstance(app.error, RuntimeError)
    assert error in str(app.error)
    assert "exception in the application" in caplog.text


@pytest.mark.parametrize(
    "message",
    [ACCEPT, {"type": "websocket.send", "text": "x"}, {"type": "websocket.close"}, start()],
    ids=lambda message: message["type"],
)
@pytest.mark.parametrize("accepted", [True, False], ids=["open", "denied"])
def test_nothing_may_follow_the_last_message(accepted: bool, message: Message, run: Run) -> None:
    before = [ACCEPT, {"type": "websocket.close"}] if accepted else [{"type": "websocket.close"}]
    app = Noted(lambda receive, send: sends(*before, message)(None, receive, send))

    async def scenario() -> None:
        async with Arena(app) as arena:
            if accepted:
                client = await open_websocket(arena)
                assert await client.closed() == (1000, "")
                await client.send(close(1000))
                assert await client.end() == b""
            else:
                assert b" 403 Forbidden\r\n" in await arena.exchange(handshake())

    run(scenario())
    assert isinstance(app.error, RuntimeError)
    assert f"unexpected ASGI message '{message['type']}' after" in str(app.error)


async def fails(scope: Scope, receive: Receive, send: Send) -> None:
    raise LookupError("nothing there")


async def returns(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()


def is_none(scope: Scope, receive: Receive, send: Send) -> Any:
    raise TypeError("not even a coroutine")


@pytest.mark.parametrize(
    ("app", "said"),
    [
        (fails, "LookupError: nothing there"),
        (is_none, "TypeError: not even a coroutine"),
        (returns, "the application returned without accepting or refusing"),
        (sends(start()), "the application returned without completing its response"),
    ],
    ids=["fails", "is none", "returns", "returns after a start"],
)
def test_an_application_that_does_not_answer_gets_500(
    app: Any, said: str, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with Arena(app) as arena:
            assert (await arena.exchange(handshake("/x"))).startswith(INTERNAL)
            assert arena.server.errors == 1

    run(scenario())
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "WebSocket '/x': " in caplog.text
    assert said in caplog.text


def test_a_denial_that_breaks_off_is_cut(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with Arena(sends(start(), body(b"begun", more=True))) as arena:
            response = await arena.exchange(handshake())
            assert response.startswith(b"HTTP/1.1 401 ")
            assert response.endswith(b"\r\n\r\n5\r\nbegun\r\n")  # and no last chunk

    run(scenario())
    assert "returned without completing its response" in caplog.text


def test_the_client_leaves_before_the_answer(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def act(receive: Receive, send: Send) -> None:
        await receive()
        await receive()
        await send({"type": "websocket.close"})  # what is so already is no error
        await send(ACCEPT)

    app = Noted(act)

    async def scenario() -> None:
        async with Arena(app) as arena:
            wire = await arena.connect()
            await wire.write(handshake())
            await arena.eventually(lambda: app.got, "the application was not called")
            wire.close()
            await arena.eventually(lambda: app.ended, "the application was not told")

    run(scenario())
    assert app.got[1:] == [disconnect(1006)]
    assert isinstance(app.error, ClientDisconnected)
    assert not caplog.records


def test_the_client_leaves_during_a_denial(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def act(receive: Receive, send: Send) -> None:
        await send(start())
        while True:
            await send(body(b"x" * 100_000, more=True))

    app = Noted(act)

    async def scenario() -> None:
        async with Arena(app) as arena:
            wire = await arena.connect()
            await wire.write(handshake())
            await wire.read_until(b"\r\n\r\n")
            wire.close()
            await arena.eventually(lambda: app.ended, "the application was not told")

    run(scenario())
    assert isinstance(app.error, ClientDisconnected)
    assert not caplog.records


def test_a_handshake_is_not_answered_twice(run: Run) -> None:
    """After a refusal the connection is closed: no second request is read from it."""

    async def scenario() -> None:
        async with Arena(echo) as arena:
            response = await arena.exchange(handshake(version="8") + handshake())
            assert response.count(b"HTTP/1.1") == 1

    run(scenario())
