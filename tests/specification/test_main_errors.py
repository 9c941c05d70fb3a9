"""ASGI specification 3.0: errors.

What holds for every protocol when something is wrong.
"""

from __future__ import annotations

import logging
from typing import Any

import pytest

from asgi_worker.application import Application, Message, Receive, Scope, Send
from tests.specification.asking import (
    START,
    acting,
    answer,
    hello,
    knock,
    left,
    listening,
    piece,
    refusal,
    request,
    sends,
    talk,
)
from tests.specification.test_main import whole_life
from tests.worker.conftest import Run
from tests.worker.frames_by_hand import CLOSE, FIN, TEXT
from tests.worker.lives import lifespan_of
from tests.worker.websocket_apps import Noted

# Error Handling

OPEN: Message = {"type": "websocket.accept"}
HTTP: list[tuple[Message, ...]] = [
    ({"type": "http.nonsense"},),
    ({"type": "http.request"},),
    ({"type": "websocket.send", "text": ""},),
    (START, {"type": "http.nonsense"}),
    (START, piece(b"", more=True), {"type": "http.nonsense"}),
]
WEBSOCKET: list[tuple[Message, ...]] = [
    ({"type": "websocket.nonsense"},),
    ({"type": "websocket.receive"},),
    (START,),
    (OPEN, {"type": "websocket.nonsense"}),
]


@pytest.mark.parametrize("messages", [*HTTP, *WEBSOCKET], ids=str)
def test_unknown_type(run: Run, messages: tuple[Message, ...]) -> None:
    """Error Handling: an event of unknown ``type`` raises an exception out of ``send()``.

    A ``RuntimeError`` that names the type and says what is expected here.
    """
    error = refusal(run, *messages, websocket=messages in WEBSOCKET)
    assert isinstance(error, RuntimeError)
    assert repr(messages[-1]["type"]) in str(error)
    assert "expected" in str(error)


@pytest.mark.parametrize(
    ("key", "messages"),
    [
        ("type", ({},)),
        ("status", ({"type": "http.response.start"},)),
        ("path", (START, {"type": "http.response.pathsend"})),
        ("links", ({"type": "http.response.early_hint"},)),
        ("type", (OPEN, {"text": "a"})),
        ("text", (OPEN, {"type": "websocket.send"})),
    ],
    ids=str,
)
def test_missing_key(run: Run, key: str, messages: tuple[Message, ...]) -> None:
    """Error Handling: … so does one that lacks a key it should have.

    The exception names the key.
    """
    assert key in str(refusal(run, *messages, websocket=OPEN in messages))


@pytest.mark.parametrize(
    "messages",
    [
        (None,),
        ({"type": b"http.response.start", "status": 200},),
        ({"type": "http.response.start", "status": "200"},),
        ({"type": "http.response.start", "status": None},),
        ({"type": "http.response.start", "status": 200, "headers": [("a", "b")]},),
        ({"type": "http.response.start", "status": 200, "headers": [(b"a", "b")]},),
        ({"type": "http.response.start", "status": 200, "headers": [(b"a", None)]},),
        ({"type": "http.response.start", "status": 200, "headers": None},),
        (START, {"type": "http.response.body", "body": "text"}),
        (START, {"type": "http.response.body", "body": "text", "more_body": True}),
        (START, {"type": "http.response.body", "body": None}),
        (START, piece(b"a", more=True), {"type": "http.response.body", "body": "text"}),
        (START, piece(b"", more=True), piece("text", more=True)),  # type: ignore[arg-type]
        ({**START, "headers": [(b"content-length", b"9")]}, piece("text", more=True)),  # type: ignore[arg-type]
        (
            {**START, "headers": [(b"content-length", b"9")]},
            piece(b"a", more=True),
            piece("text", more=True),  # type: ignore[arg-type]
        ),
        ({"type": "http.response.early_hint", "links": ["text"]},),
        (START, {"type": "http.response.pathsend", "path": b"/tmp"}),
        ({**OPEN, "headers": [("a", "b")]},),
        ({**OPEN, "subprotocol": b"chat"},),
        (OPEN, {"type": "websocket.send", "text": b"bytes"}),
        (OPEN, {"type": "websocket.send", "bytes": "text"}),
        (OPEN, {"type": "websocket.close", "code": "1000"}),
        (OPEN, {"type": "websocket.close", "reason": b"bytes"}),
    ],
    ids=str,
)
def test_wrong_type(run: Run, messages: tuple[Any, ...]) -> None:
    """Error Handling: … or a value of a wrong type, as unicode strings for headers.

    Judged when the message is sent: the error is raised where it was made, nothing of the message
    is sent, and another message may take its place.
    """
    websocket = any(str((one or {}).get("type", "")).startswith("websocket") for one in messages)
    error = refusal(run, *messages, websocket=websocket)
    assert isinstance(error, RuntimeError)


def test_a_wrong_message_changes_nothing(run: Run) -> None:
    """Error Handling: an invalid event is an error of that event only.

    The application may catch it and go on with a right one.
    """

    async def act(receive: Receive, send: Send) -> None:
        wrong: list[Any] = [piece(b"early"), {**START, "headers": [("a", "b")]}, {"type": "no"}]
        for one in wrong:
            with pytest.raises((RuntimeError, TypeError)):
                await send(one)
        await send({**START, "status": 203})
        wrong = [piece("text"), START, piece("text", more=True)]  # type: ignore[arg-type]
        for one in wrong:
            with pytest.raises((RuntimeError, TypeError)):
                await send(one)
        await send(piece(b"one ", more=True))
        for one in wrong:
            with pytest.raises((RuntimeError, TypeError)):
                await send(one)
        await send(piece(b"two"))

    got = answer(run, acting(act))
    assert got.startswith(b"HTTP/1.1 203 ")
    assert got.endswith(b"4\r\none \r\n3\r\ntwo\r\n0\r\n\r\n")


def test_additional_keys_http(run: Run) -> None:
    """Error Handling: additional keys in an event raise no exception.

    Keys that are not known are not looked at, in every protocol.
    """
    got = answer(run, sends({**START, "new": 1}, {**piece(b"hello"), "new": object()}))
    assert got.endswith(b"hello")
    app = listening({"type": "websocket.send", "text": "a", "new": 1}, {**CLOSED, "new": 2})
    assert talk(run, app)[0] == (FIN | TEXT, b"a")
    assert app.error is None
    assert knock(run, sends({**CLOSED, "new": 1})).startswith(b"HTTP/1.1 403 ")

    async def lives(receive: Receive, send: Send) -> None:
        for _ in range(2):
            await send({"type": (await receive())["type"] + ".complete", "new": 1})

    run(whole_life(lifespan_of(acting(lives), "on")))


CLOSED: Message = {"type": "websocket.close"}


async def fails(scope: Scope, receive: Receive, send: Send) -> None:
    raise ValueError("of the application")


async def fails_late(scope: Scope, receive: Receive, send: Send) -> None:
    await send({**START, "headers": [(b"content-length", b"9")]})
    await send(piece(b"hello", more=True))
    await fails(scope, receive, send)


def test_errors_end_the_connection(run: Run) -> None:
    """Error Handling: an error of the application ends its call and the associated connection.

    A request that was not answered is answered 500, a response that was begun is cut, a WebSocket
    closed with 1011; none of it touches other connections.
    """
    assert answer(run, fails).startswith(b"HTTP/1.1 500 ")
    assert answer(run, fails_late).endswith(b"\r\n\r\nhello")
    assert knock(run, fails).startswith(b"HTTP/1.1 500 ")

    async def act(receive: Receive, send: Send) -> None:
        await send(OPEN)
        raise ValueError("of the application")

    assert talk(run, Noted(act))[0] == (FIN | CLOSE, b"\x03\xf3")


@pytest.mark.parametrize("app", [fails, fails_late])
def test_errors_are_logged(run: Run, app: Application, caplog: pytest.LogCaptureFixture) -> None:
    """Error Handling: how errors of the application surface is up to the server.

    One log line at level ERROR, with the request and the application's traceback.
    """
    answer(run, app, request("/here"))
    (record,) = [one for one in caplog.records if one.levelno >= logging.WARNING]
    assert record.getMessage() == "GET '/here': exception in the application"
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ValueError)


def test_after_the_end(run: Run) -> None:
    """Error Handling: what is sent after the end is no error unless a protocol says so.

    After a complete response everything is ignored. After a client has gone, HTTP and WebSocket 2.4
    say that ``send()`` raises; so it does.
    """
    app = sends(START, piece(b"hello"), START, piece(b"more"), {"type": "http.nonsense"})
    assert answer(run, app).endswith(b"hello")


def test_our_errors_are_no_errors_of_ours(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """Error Handling: what ``send()`` raises must not make the server itself fail.

    When the application lets it through, the call has ended like any other.
    """

    async def act(receive: Receive, send: Send) -> None:
        await receive()
        await receive()
        await send(START)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await (hello if scope["path"] == "/2" else acting(act))(scope, receive, send)

    async def test() -> None:
        async with left(app, request()) as (arena, wire):
            wire.close()
            await arena.eventually(lambda: not arena.server.tasks, "it has not ended")
            assert (await (await arena.connect()).get("/2"))[2] == b"hello"

    run(test())
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]
