"""What ``send()`` says of a message with something else in it than ASGI has: what, and what not."""

from __future__ import annotations

from typing import Any

import pytest

from asgi_worker.application import Message
from tests.specification.asking import START, piece, refusal
from tests.worker.conftest import Run

OPEN: Message = {"type": "websocket.accept"}
NO_STATUS = "http.response.start: 'status' is {}, no int from 200 to 999"
NO_PAIRS = "headers is an iterable of pairs, [(b'name', b'value')], not {}"
NO_PAIR = "headers is an iterable of pairs, [(b'name', b'value')]: {} is none"
NO_LINKS = "http.response.early_hint: 'links' must be an iterable of bytes, not {}"
NO_PATH = "http.response.pathsend: 'path' must be an absolute path in a str, not {}"


def start(status: object = 200, headers: object = ()) -> Message:
    return {"type": "http.response.start", "status": status, "headers": headers}


def accept(headers: object) -> Message:
    return {"type": "websocket.accept", "headers": headers}


def close(code: object) -> Message:
    return {"type": "websocket.close", "code": code}


def hint(links: object) -> Message:
    return {"type": "http.response.early_hint", "links": links}


def path(path: object) -> Message:
    return {"type": "http.response.pathsend", "path": path}


HTTP = [
    (start(200.0), NO_STATUS.format("200.0")),
    (start(200.0, [(b"x-unheard", b"of")]), NO_STATUS.format("200.0")),
    (start(299.0), NO_STATUS.format("299.0")),
    (start([200], []), NO_STATUS.format("[200]")),
    (start(True), NO_STATUS.format("True")),
    (start("200"), NO_STATUS.format("'200'")),
    (start(100), NO_STATUS.format("100")),
    (start(headers=5), NO_PAIRS.format("5")),
    (start(headers=None), NO_PAIRS.format("None")),
    (start(headers=[5]), NO_PAIR.format("5")),
    (start(headers=[(b"a",)]), NO_PAIR.format("(b'a',)")),
    (start(headers={b"name": b"value"}), NO_PAIR.format("b'name'")),
    (start(headers=[(b"a", [b"b"])]), "header b'a': the value must be bytes, not list"),
    (
        start(headers=[(b"content-length", b"9" * 19)]),
        f"content-length: {b'9' * 19!r} is not a number of bytes",
    ),
    (hint(5), NO_LINKS.format("5")),
    (hint(None), NO_LINKS.format("None")),
    (hint(b"</a>"), NO_LINKS.format("b'</a>'")),
    (hint("</a>"), NO_LINKS.format("'</a>'")),
    (hint(["</a>"]), "header b'link': the value must be bytes, not str"),
    ({"type": "http.response.early_hint"}, NO_LINKS.format("None")),
]
PATHS = [
    (path(b"/a"), NO_PATH.format("b'/a'")),
    (path("a"), NO_PATH.format("'a'")),
    (path("/a\0"), NO_PATH.format("'/a\\x00'")),
    ({"type": "http.response.pathsend"}, NO_PATH.format("None")),
]
TRAILERS = [
    (5, NO_PAIRS.format("5")),
    (None, NO_PAIRS.format("None")),
    ([5], NO_PAIR.format("5")),
    ([(b"a",)], NO_PAIR.format("(b'a',)")),
    ({b"name": b"value"}, NO_PAIR.format("b'name'")),
    ([("a", b"b")], "header 'a': the name must be bytes, not str"),
]
WEBSOCKET = [
    ((accept(5),), NO_PAIRS.format("5")),
    ((accept([5]),), NO_PAIR.format("5")),
    ((accept({b"name": b"value"}),), NO_PAIR.format("b'name'")),
    ((accept([(b"a", 5)]),), "header b'a': the value must be bytes, not int"),
    ((OPEN, close(1000.0)), "websocket.close: the code must be int, not 1000.0"),
    ((OPEN, close(1005.0)), "websocket.close: the code must be int, not 1005.0"),
    ((OPEN, close("1000")), "websocket.close: the code must be int, not '1000'"),
    ((OPEN, close(999)), "websocket.close: 999 is not a close code that may be sent"),
]


@pytest.mark.parametrize(("message", "said"), HTTP, ids=str)
def test_a_response_that_is_begun(run: Run, message: Message, said: str) -> None:
    error = refusal(run, message)
    assert (type(error), str(error)) == (RuntimeError, said)


@pytest.mark.parametrize(("message", "said"), PATHS, ids=str)
def test_a_path(run: Run, message: Message, said: str) -> None:
    error = refusal(run, START, message)
    assert (type(error), str(error)) == (RuntimeError, said)


@pytest.mark.parametrize(("headers", "said"), TRAILERS, ids=str)
def test_trailers(run: Run, headers: object, said: str) -> None:
    message = {"type": "http.response.trailers", "headers": headers}
    error = refusal(run, {**START, "trailers": True}, piece(b""), message)
    assert (type(error), str(error)) == (RuntimeError, said)


@pytest.mark.parametrize(("messages", "said"), WEBSOCKET, ids=str)
def test_a_websocket(run: Run, messages: tuple[Message, ...], said: str) -> None:
    error = refusal(run, *messages, websocket=True)
    assert (type(error), str(error)) == (RuntimeError, said)


def test_an_error_of_what_yields_the_headers_is_its_own(run: Run) -> None:
    class Failing:
        def __iter__(self) -> Any:
            yield (b"a", b"b")
            raise TypeError("the application's own")

    for messages, websocket in (((start(headers=Failing()),), False), ((accept(Failing()),), True)):
        error = refusal(run, *messages, websocket=websocket)
        assert (type(error), str(error)) == (TypeError, "the application's own")
