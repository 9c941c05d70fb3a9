"""What an HTTP/1.1 client gets for what an application sends: framing, legality, failures."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from asgi_worker.application import Message, Receive, Scope, Send
from asgi_worker.protocols.exchange import ClientDisconnected
from tests.worker.conftest import Run
from tests.worker.serving import Arena

GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
CLOSE = b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"


def sends(*messages: Message) -> Any:
    """An application that sends ``messages``, whatever the request."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    return app


def start(status: int = 200, *headers: tuple[bytes, bytes], **more: Any) -> Message:
    return {"type": "http.response.start", "status": status, "headers": list(headers), **more}


def body(data: bytes = b"", *, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


def split(response: bytes) -> tuple[bytes, list[bytes], bytes]:
    head, _, rest = response.partition(b"\r\n\r\n")
    line, *fields = head.split(b"\r\n")
    return line, [field for field in fields if not field.startswith((b"date:", b"server:"))], rest


LENGTH_5 = (b"content-length", b"5")

FRAMING = {
    "one piece gets a length": (
        CLOSE,
        (start(), body(b"hello")),
        (b"HTTP/1.1 200 OK", [b"content-length: 5", b"connection: close"], b"hello"),
    ),
    "its own length is kept": (
        CLOSE,
        (start(200, LENGTH_5), body(b"hello")),
        (b"HTTP/1.1 200 OK", [b"content-length: 5", b"connection: close"], b"hello"),
    ),
    "several pieces are chunked": (
        CLOSE,
        (start(), body(b"hello", more=True), body(b"", more=True), body(b" you")),
        (
            b"HTTP/1.1 200 OK",
            [b"transfer-encoding: chunked", b"connection: close"],
            b"5\r\nhello\r\n4\r\n you\r\n0\r\n\r\n",
        ),
    ),
    "several pieces with a length are not": (
        CLOSE,
        (start(200, LENGTH_5), body(b"hel", more=True), body(b"lo", more=True), body()),
        (b"HTTP/1.1 200 OK", [b"content-length: 5", b"connection: close"], b"hello"),
    ),
    "its own chunked is ours to say": (
        CLOSE,
        (start(200, (b"Transfer-Encoding", b"chunked")), body(b"hello")),
        (b"HTTP/1.1 200 OK", [b"content-length: 5", b"connection: close"], b"hello"),
    ),
    "HTTP/1.0 ends by closing": (
        b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        (start(), body(b"hel", more=True), body(b"lo")),
        (b"HTTP/1.1 200 OK", [b"connection: close"], b"hello"),
    ),
    "HEAD has the head only": (
        b"HEAD / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n",
        (start(), body(b"hello")),
        (b"HTTP/1.1 200 OK", [b"content-length: 5", b"connection: close"], b""),
    ),
    "HEAD with a length and no body is no error": (
        b"HEAD / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n",
        (start(200, LENGTH_5), body()),
        (b"HTTP/1.1 200 OK", [b"content-length: 5", b"connection: close"], b""),
    ),
    "204 has no length": (
        CLOSE,
        (start(204, (b"content-length", b"0")), body()),
        (b"HTTP/1.1 204 No Content", [b"connection: close"], b""),
    ),
    "304 may state one": (
        CLOSE,
        (start(304, LENGTH_5), body()),
        (b"HTTP/1.1 304 Not Modified", [b"content-length: 5", b"connection: close"], b""),
    ),
    "an empty body has length 0": (
        CLOSE,
        (start(404), body()),
        (b"HTTP/1.1 404 Not Found", [b"content-length: 0", b"connection: close"], b""),
    ),
    "a status nobody knows": (
        CLOSE,
        (start(599), body(b"x")),
        (b"HTTP/1.1 599 ", [b"content-length: 1", b"connection: close"], b"x"),
    ),
    "the application may close": (
        GET,
        (start(200, (b"Connection", b"Close")), body(b"x")),
        (b"HTTP/1.1 200 OK", [b"content-length: 1", b"connection: close"], b"x"),
    ),
    "messages may leave out what has a default": (
        CLOSE,
        (
            {"type": "http.response.start", "status": 200},
            {"type": "http.response.body"},
        ),
        (b"HTTP/1.1 200 OK", [b"content-length: 0", b"connection: close"], b""),
    ),
    "what follows a complete response is ignored": (
        CLOSE,
        (start(), body(b"x"), body(b"y"), start(500), body(b"z")),
        (b"HTTP/1.1 200 OK", [b"content-length: 1", b"connection: close"], b"x"),
    ),
    "early hints": (
        CLOSE,
        (
            {"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload"]},
            start(),
            body(b"x"),
        ),
        (
            b"HTTP/1.1 103 Early Hints",
            [b"link: </a.css>; rel=preload"],
            b"HTTP/1.1 200 OK\r\n",
        ),
    ),
}


@pytest.mark.parametrize("name", FRAMING)
def test_framing(run: Run, name: str) -> None:
    request, messages, (line, fields, rest) = FRAMING[name]

    async def test() -> None:
        async with Arena(sends(*messages)) as arena:
            got = split(await arena.exchange(request))
            assert got[0] == line
            assert got[1] == fields
            assert got[2].startswith(rest) if b"103" in line else got[2] == rest

    run(test())


def test_heads_that_recur_are_told_apart(run: Run) -> None:
    headers = [(b"x-mine", b"1"), LENGTH_5]
    ways: list[tuple[int, list[tuple[bytes, bytes]]]] = [
        (200, headers),
        (201, headers),
        (204, headers),
        (200, headers[::-1]),
        (200, headers[:1]),
        (200, [*headers, (b"connection", b"close")]),
    ]

    async def test() -> None:
        for _ in range(3):
            for status, given in ways:
                async with Arena(sends(start(status, *given), body(b"hello"))) as arena:
                    line, fields, _ = split(await arena.exchange(CLOSE))
                    ours = {200: [b"content-length: 5"] if len(given) == 1 else []}
                    theirs = [b"%b: %b" % one for one in given if one[0] != b"connection"]
                    if status == 204:
                        theirs.remove(b"content-length: 5")
                    assert line.startswith(b"HTTP/1.1 %d " % status)
                    assert fields == [*theirs, *ours.get(status, []), b"connection: close"]

    run(test())


def test_trailers_where_the_client_takes_them(run: Run) -> None:
    messages = (
        start(200, trailers=True),
        body(b"hello"),
        {"type": "http.response.trailers", "headers": [(b"a", b"1")], "more_trailers": True},
        {"type": "http.response.trailers", "headers": [[b"b", b"2"]]},  # pairs of any kind
    )
    asked = b"GET / HTTP/1.1\r\nHost: test\r\nTE: trailers\r\nConnection: close, TE\r\n\r\n"

    async def test() -> None:
        async with Arena(sends(*messages)) as arena:
            response = await arena.exchange(asked)
            assert response.endswith(b"\r\n\r\n5\r\nhello\r\n0\r\na: 1\r\nb: 2\r\n\r\n")
            response = await arena.exchange(CLOSE)  # did not ask: no trailers, and no harm
            assert response.endswith(b"content-length: 5\r\nconnection: close\r\n\r\nhello")

    run(test())


def test_own_date_and_server_replace_ours(run: Run) -> None:
    app = sends(start(200, (b"Date", b"today"), (b"server", b"me")), body())

    async def test() -> None:
        async with Arena(app, headers=(("x-all", "yes"),)) as arena:
            response = (await arena.exchange(CLOSE)).lower()
            assert response.count(b"date:") == 1
            assert b"date: today" in response
            assert response.count(b"server:") == 1
            assert b"server: me" in response
            assert b"x-all: yes" in response

    run(test())


@pytest.mark.parametrize("wanted", [True, False])
def test_default_headers_can_be_left_out(run: Run, wanted: bool) -> None:
    async def test() -> None:
        async with Arena(sends(start(), body()), server_header=wanted, date_header=wanted) as arena:
            response = await arena.exchange(CLOSE)
            assert (b"server: asgi-supervise" in response) is wanted
            assert (b"date: " in response) is wanted

    run(test())


BEFORE_HEAD = {
    "splitting value": (start(200, (b"x", b"a\r\nset-cookie: b")), body(b"secret")),
    "bare LF value": (start(200, (b"x", b"a\nb")), body(b"secret")),
    "NUL value": (start(200, (b"x", b"a\0b")), body(b"secret")),
    "splitting name": (start(200, (b"x\r\ny", b"a")), body(b"secret")),
    "empty name": (start(200, (b"", b"a")), body(b"secret")),
    "name with a colon": (start(200, (b"x:", b"a")), body(b"secret")),
    "str header": ({**start(), "headers": [("x", "y")]}, body(b"secret")),
    "status as text": ({**start(), "status": "200"}, body(b"secret")),
    "informational as final": (start(100), body(b"secret")),
    "length is no number": (start(200, (b"content-length", b"-1")), body(b"secret")),
    "two lengths": (start(200, LENGTH_5, LENGTH_5), body(b"hello")),
    "longer than stated, at once": (start(200, LENGTH_5), body(b"secrets")),
    "shorter than stated, at once": (start(200, LENGTH_5), body(b"secr")),
    "body before start": (body(b"secret"),),
    "start twice": (start(), start(), body(b"secret")),
    "unknown type": (start(), {"type": "http.response.nonsense"}),
    "debug is not offered": ({"type": "http.response.debug", "info": {}}, start(), body(b"secret")),
    "nothing": (),
    "start only": (start(),),
    "early hint that splits": (
        {"type": "http.response.early_hint", "links": [b"a\r\nb: c"]},
        start(),
        body(b"secret"),
    ),
}


@pytest.mark.parametrize("name", BEFORE_HEAD)
def test_what_must_not_be_sent_is_answered_500(
    run: Run, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with Arena(sends(*BEFORE_HEAD[name])) as arena:
            wire = await arena.connect()
            line, _, text = await wire.get()
            assert line == b"HTTP/1.1 500 Internal Server Error"
            assert text == b"Internal Server Error"
            assert (await wire.get())[0] == line  # the connection is none the worse

    run(test())
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 2
    assert "GET '/'" in errors[0].getMessage()
    assert b"secret" not in caplog.text.encode()


AFTER_HEAD = {
    "longer than stated": (start(200, LENGTH_5), body(b"hel", more=True), body(b"lo!")),
    "shorter than stated": (start(200, LENGTH_5), body(b"hel", more=True), body(b"l")),
    "unfinished": (start(), body(b"hel", more=True)),
    "start again": (start(), body(b"hel", more=True), start()),
}


@pytest.mark.parametrize("name", AFTER_HEAD)
def test_a_response_that_breaks_off_is_seen_to(
    run: Run, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with Arena(sends(*AFTER_HEAD[name])) as arena:
            response = await arena.exchange(GET)  # returns, so the connection was closed
            assert response.startswith(b"HTTP/1.1 200 OK")
            assert b"hel" in response
            assert not response.endswith((b"hello", b"0\r\n\r\n"))

    run(test())
    assert sum(record.levelno >= logging.ERROR for record in caplog.records) == 1


def test_an_exception_shows_the_application_and_the_request(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise ZeroDivisionError("the reason")

    async def test() -> None:
        async with Arena(app) as arena:
            wire = await arena.connect()
            assert (await wire.get("/a%20b?c=d"))[0].startswith(b"HTTP/1.1 500")

    run(test())
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.getMessage() == "GET '/a b': exception in the application"
    assert record.exc_info is not None
    text = caplog.text
    assert "ZeroDivisionError: the reason" in text
    assert "asgi_worker/protocols" not in text, "our own frames are nobody's business"


@pytest.mark.parametrize(
    "app", [lambda scope: None, lambda scope, receive, send: 1 / 0, lambda scope, receive, send: 42]
)
def test_what_is_no_application_is_answered_500(run: Run, app: Any) -> None:
    async def test() -> None:
        async with Arena(app) as arena:
            wire = await arena.connect()
            assert (await wire.get())[0].startswith(b"HTTP/1.1 500")

    run(test())


def test_send_after_the_client_has_gone_raises_oserror(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "http.request"
        seen.append(await receive())
        try:
            await send(start())
        except OSError as error:
            seen.append(error)
            raise

    async def test() -> None:
        async with Arena(app) as arena:
            wire = await arena.connect()
            await wire.write(GET)
            await arena.eventually(lambda: arena.server.tasks, "the application runs")
            wire.close()
            await arena.eventually(lambda: not arena.server.tasks, "the application ended")

    run(test())
    assert seen[0] == {"type": "http.disconnect"}
    assert isinstance(seen[1], ClientDisconnected)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_receive_after_the_response_says_disconnect(run: Run) -> None:
    seen: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await send(body(b"x"))
        seen.append(await receive())

    async def test() -> None:
        async with Arena(app) as arena:
            wire = await arena.connect()
            assert (await wire.get())[2] == b"x"
            assert (await wire.get())[2] == b"x"

    run(test())
    assert seen == [{"type": "http.disconnect"}] * 2


def test_no_request_sees_context_of_another(run: Run) -> None:
    import contextvars

    variable = contextvars.ContextVar("variable", default="clean")
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(variable.get())
        variable.set("dirty")
        while (await receive())["more_body"]:
            variable.set("dirtier")
        await send(start())
        await send(body(b"x"))

    async def test() -> None:
        async with Arena(app) as arena:
            wire = await arena.connect()
            await wire.get()
            await wire.write(GET * 3)
            for _ in range(3):
                await wire.read_response()
            await wire.write(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 300000\r\n\r\n")
            await wire.write(b"x" * 300000 + GET)
            await wire.read_response()
            await wire.read_response()

    run(test())
    assert seen == ["clean"] * 6
