"""Extensions.

The common ones that the specification lists. What is offered is offered to every request.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from asgi_worker.application import Message, Receive, Send
from tests.specification.asking import (
    START,
    acting,
    answer,
    content,
    fields,
    knock,
    piece,
    refusal,
    request,
    scope_of,
    scopes,
    sends,
    websocket_scope,
)
from tests.worker.conftest import Run
from tests.worker.websocket_apps import ACCEPT

HINT: Message = {"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload", b"</b>"]}
TRAILERS: Message = {"type": "http.response.trailers", "headers": [(b"x-sum", b"1")]}
DENIAL: Message = {**START, "type": "websocket.http.response.start", "status": 401}
DENIAL_BODY: Message = {"type": "websocket.http.response.body", "body": b"log in"}


def test_what_is_offered(run: Run) -> None:
    """Extensions: only what is supported is offered, in the same way to each request.

    ``http.response.pathsend``, ``http.response.early_hint``, ``http.response.trailers``,
    ``websocket.http.response`` and our own ``asgi_supervise``.
    """
    offered = {"http.response.pathsend", "http.response.early_hint", "http.response.trailers"}
    te = request("/", "TE: trailers", close=False)
    old = b"GET / HTTP/1.0\r\n\r\n"
    for scope in scopes(run, te, request(close=False), request(close=False), old):
        assert set(scope["extensions"]) == {*offered, "asgi_supervise"}
        assert all(scope["extensions"][name] == {} for name in offered)
    extensions = websocket_scope(run)["extensions"]
    assert set(extensions) == {"websocket.http.response", "asgi_supervise"}


# Websocket Denial Response


def test_denial_response(run: Run) -> None:
    """Websocket Denial Response: the application may send an HTTP response instead of accepting.

    Status, headers and body are the application's; the connection is closed behind it.
    """
    start = {**DENIAL, "headers": [(b"www-authenticate", b"Basic")]}
    got = knock(run, sends(start, DENIAL_BODY))
    assert got.startswith(b"HTTP/1.1 401 ")
    assert fields(got) == [b"www-authenticate: Basic", b"content-length: 6"]
    assert content(got) == b"log in"
    assert b"\r\nconnection: close\r\n" in got


def test_denial_response_in_parts(run: Run) -> None:
    """Websocket Denial Response: its messages are structured like those of HTTP.

    ``more_body`` and all defaults too, judged and delimited by the same code.
    """
    parts = {**DENIAL_BODY, "more_body": True}, {"type": "websocket.http.response.body"}
    start = {"type": "websocket.http.response.start", "status": 404}
    assert content(knock(run, sends(start, *parts))) == b"6\r\nlog in\r\n0\r\n\r\n"


def test_nothing_after_a_denial_response(run: Run) -> None:
    """Websocket Denial Response: they cannot be followed by other WebSocket messages.

    An error, before and after its body.
    """
    for message in (ACCEPT, {"type": "websocket.close"}, {"type": "websocket.send", "text": "a"}):
        assert "unexpected" in str(refusal(run, DENIAL, message, websocket=True))
        assert "unexpected" in str(refusal(run, DENIAL, DENIAL_BODY, message, websocket=True))


# HTTP/2 Server Push and others


@pytest.mark.parametrize(
    ("message", "before"),
    [
        ({"type": "http.response.push", "path": "/a", "headers": []}, True),
        ({"type": "http.response.debug", "info": {}}, False),
        ({"type": "http.response.zerocopysend", "file": 1}, True),
    ],
    ids=lambda one: one["type"] if isinstance(one, dict) else "",
)
def test_what_is_not_offered(run: Run, message: Message, before: bool) -> None:
    """Extensions: what is not supported is not offered, and its messages are errors.

    Not ``http.response.push``: HTTP/1.1 has none, and browsers gave it up. Not
    ``http.response.zerocopysend``: a file is sent without a copy by its path. Not
    ``http.response.debug``: servers should not.
    """
    assert message["type"] not in scope_of(run)["extensions"]
    messages = (START, message) if before else (message,)
    assert repr(message["type"]) in str(refusal(run, *messages))


# Path Send


def file_of(place: Path, data: bytes) -> Message:
    (place / "file").write_bytes(data)
    return {"type": "http.response.pathsend", "path": str(place / "file")}


@pytest.mark.parametrize("size", [0, 10, 3_000_000])
def test_path_send(run: Run, tmp_path: Path, size: int) -> None:
    """Path Send: the contents of the file at ``path`` are the body of the response.

    By ``sendfile(2)``, a turn of the loop for each 256 KiB; then the response is complete.
    """
    data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    message = file_of(tmp_path, data)
    got = answer(run, sends(START, message, piece(b"ignored")))
    assert fields(got) == [b"content-length: %d" % size]
    assert content(got) == data


def test_path_send_headers(run: Run, tmp_path: Path) -> None:
    """Path Send: the relevant headers are the application's responsibility.

    A ``content-length`` is added if it is missing, and an error if it is wrong.
    """
    message = file_of(tmp_path, b"hello")
    start = {**START, "headers": [(b"content-type", b"text/css"), (b"content-length", b"5")]}
    got = answer(run, sends(start, message))
    assert fields(got) == [b"content-type: text/css", b"content-length: 5"]
    wrong = {**START, "headers": [(b"content-length", b"4")]}
    assert "longer than content-length says" in str(refusal(run, wrong, message))
    for path in ("relative", b"/tmp", str(tmp_path), str(tmp_path / "none")):
        assert str(path) in str(refusal(run, START, {**message, "path": path}))


def test_path_send_is_not_mixed(run: Run, tmp_path: Path) -> None:
    """Path Send: it cannot be mixed with ``http.response.body`` and comes once.

    Another message while the file is being sent is an error, too.
    """
    message = file_of(tmp_path, bytes(3_000_000))
    assert "unexpected" in str(refusal(run, START, piece(b"a", more=True), message))

    async def act(receive: Receive, send: Send) -> None:
        await send(START)
        sending = asyncio.ensure_future(send(message))
        await asyncio.sleep(0)
        for other in (piece(), piece(b"a", more=True), message):
            with pytest.raises(RuntimeError, match="nothing but the file"):
                await send(other)
        await sending

    got = answer(run, acting(act))
    assert content(got) == bytes(3_000_000)


# Early Hints


def test_early_hint(run: Run) -> None:
    """Early Hints: the server sends an informational response with the links as ``Link`` headers.

    103, as often as asked for, after *Response Start* or, as frameworks do, before it.
    """
    got = answer(run, sends(HINT, START, HINT, piece(b"hello")))
    hint = b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\nlink: </b>\r\n\r\n"
    assert got.startswith(hint + hint + b"HTTP/1.1 200 OK\r\n")


def test_late_hint(run: Run) -> None:
    """Early Hints: it may come at any time before the final *Response Body*; it may be ignored.

    It is, behind the head of the response, where nothing can be hinted at any more, and for
    HTTP/1.0, which has no informational responses.
    """
    app = sends(START, piece(b"one", more=True), HINT, piece(b"two"))
    assert content(answer(run, app)) == b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"
    old = answer(run, sends(START, HINT, piece(b"hello")), b"GET / HTTP/1.0\r\n\r\n")
    assert old.startswith(b"HTTP/1.1 200 OK\r\n")


# HTTP Trailers


def test_trailers(run: Run) -> None:
    """HTTP Trailers: with ``trailers`` promised, trailing headers are sent behind the body.

    In chunked responses, which they make it be; ``more_trailers`` says that there are more.
    """
    more = {**TRAILERS, "headers": [(b"x-more", b"2")], "more_trailers": True}
    app = sends({**START, "trailers": True}, piece(b"hello"), more, TRAILERS)
    got = answer(run, app, request("/", "TE: trailers"))
    assert content(got) == b"5\r\nhello\r\n0\r\nx-more: 2\r\nx-sum: 1\r\n\r\n"


def test_trailers_must_be_wanted(run: Run, tmp_path: Path) -> None:
    """HTTP Trailers: they are sent only if the client has sent ``TE: trailers``.

    Else they are taken and dropped, as they are where the response has a length.
    """
    app = sends({**START, "trailers": True}, piece(b"hello"), TRAILERS)
    assert content(answer(run, app)) == b"hello"
    app = sends({**START, "trailers": True}, file_of(tmp_path, b"file"), TRAILERS)
    assert content(answer(run, app, request("/", "TE: trailers"))) == b"file"


def test_trailers_end_the_response(run: Run) -> None:
    """HTTP Trailers: without ``more_trailers`` the response is complete, what follows ignored.

    A body or a second start before them is an error, as are trailers that were not promised.
    """
    start = {**START, "trailers": True}
    app = sends(start, piece(b"hello"), TRAILERS, TRAILERS, piece(b"more"))
    assert content(answer(run, app)) == b"hello"
    assert "unexpected" in str(refusal(run, start, piece(b"hello"), piece(b"more")))
    assert "unexpected" in str(refusal(run, START, TRAILERS))


def test_trailers_are_fields(run: Run) -> None:
    """HTTP Trailers: pseudo headers must not be present.

    Names and values are checked like those of headers, when the message is sent.
    """
    start = {**START, "trailers": True}
    wrong = {**TRAILERS, "headers": [(b":status", b"1")], "more_trailers": True}
    assert "is not a token" in str(refusal(run, start, piece(), wrong))


def test_accepted_connections_have_no_response(run: Run) -> None:
    """Websocket Denial Response: it is possible after ``websocket.connect`` only.

    After acceptance its messages are errors.
    """
    assert "unexpected" in str(refusal(run, ACCEPT, DENIAL, websocket=True))
