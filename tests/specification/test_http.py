"""HTTP & WebSocket specification 2.5: HTTP requests.

HTTP/1.0 and HTTP/1.1.
"""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from asgi_worker.application import Receive, Scope, Send
from tests.specification.asking import (
    DISCONNECT,
    START,
    Told,
    acting,
    answer,
    hello,
    left,
    piece,
    request,
    scope_of,
    scopes,
)
from tests.worker.conftest import Run
from tests.worker.serving import Arena, Wire


def test_another_version(run: Run) -> None:
    """HTTP: the format covers HTTP/1.0, HTTP/1.1, HTTP/2 and HTTP/3.

    HTTP/1.0 and 1.1 are spoken. HTTP/2 without TLS is refused with 505.
    """
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    assert answer(run, hello, preface).startswith(b"HTTP/1.1 505 ")
    assert answer(run, hello, b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200 ")


def test_repeated_headers(run: Run) -> None:
    """HTTP: header fields are transported exactly as they were provided, as pairs in a list.

    Those that come several times are not joined, ``Cookie`` neither.
    """
    lines = "Cookie: a=1", "Accept: text/html", "Cookie: b=2; c=3", "Accept: */*"
    headers = scope_of(run, request("/", *lines))["headers"]
    assert headers[1:5] == [
        (b"cookie", b"a=1"),
        (b"accept", b"text/html"),
        (b"cookie", b"b=2; c=3"),
        (b"accept", b"*/*"),
    ]


def test_type(run: Run) -> None:
    """HTTP Connection Scope: ``type`` is ``"http"``.

    Also for a request that asks for an upgrade which is not granted.
    """
    upgrade = request("/", "Upgrade: h2c", "Connection: Upgrade", close=False)
    assert [one["type"] for one in scopes(run, upgrade, request())] == ["http", "http"]


def test_lives_as_long_as_the_request(run: Run) -> None:
    """HTTP Connection Scope: it lasts for one request, even if the connection stays open.

    The next request of the connection is another call with another scope.
    """
    first, second = scopes(run, request("/1", close=False), request("/2"))
    assert (first["path"], second["path"]) == ("/1", "/2")
    assert first is not second
    assert first["client"] == second["client"]  # one connection


def test_persists_while_the_response_is_open(run: Run) -> None:
    """HTTP Connection Scope: it persists until the response is closed from either side.

    No limit is set to how long an application takes.
    """

    async def test() -> None:
        opened = asyncio.Event()

        async def act(receive: Receive, send: Send) -> None:
            await send(START)
            await send(piece(b"first ", more=True))
            await opened.wait()
            await send(piece(b"last"))

        async with Arena(acting(act), keep_alive_timeout_s=0.05) as arena:
            wire = await arena.connect()
            await wire.write(request())
            await wire.read_until(b"first ")
            await asyncio.sleep(0.3)
            opened.set()
            assert b"last" in await wire.read_to_end()

    run(test())


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_http_version(run: Run, version: str) -> None:
    """HTTP Connection Scope: ``http_version`` is one of ``"1.0"``, ``"1.1"``, ``"2"``, ``"3"``.

    ``"1.0"`` or ``"1.1"``.
    """
    asked = request().replace(b"HTTP/1.1", f"HTTP/{version}".encode())
    assert scope_of(run, asked)["http_version"] == version


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
def test_method(run: Run, method: str) -> None:
    """HTTP Connection Scope: ``method`` is the name of the method, uppercased.

    As it was sent: methods are case-sensitive, and one in lower-case letters is none that is known.
    """
    assert scope_of(run, request(method=method))["method"] == method
    assert answer(run, hello, request(method=method.lower())).startswith(b"HTTP/1.1 501 ")


def test_scheme(run: Run) -> None:
    """HTTP Connection Scope: ``scheme`` must not be empty.

    ``"http"``, or what a trusted proxy says in ``Forwarded`` or ``X-Forwarded-Proto``.
    """
    assert scope_of(run)["scheme"] == "http"
    asked = request("/", "X-Forwarded-Proto: https")
    assert scope_of(run, asked)["scheme"] == "https"  # the loopback address is trusted
    assert scope_of(run, asked, proxy_headers=False)["scheme"] == "http"
    assert scope_of(run, request("/", "X-Forwarded-Proto: "))["scheme"] == "http"


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/", "/"),
        ("/a/b", "/a/b"),
        ("/a%20b", "/a b"),
        ("/%E2%82%AC", "/€"),
        ("/a%2Fb", "/a/b"),
        ("/a+b", "/a+b"),
        ("/a?b=%20", "/a"),
        ("/?", "/"),
        ("//a//", "//a//"),
        ("/%41?%41", "/A"),
        ("http://test/a%20b?c", "/a b"),
        ("http://test", "/"),
        ("/..%2f./a", "/.././a"),
    ],
)
def test_path(run: Run, target: str, path: str) -> None:
    """HTTP Connection Scope: ``path`` is the target without query, decoded.

    Percent-encoding and UTF-8 once, and nothing else: no slashes are joined, no dots resolved.
    Octets that are no UTF-8 become U+FFFD.
    """
    assert scope_of(run, request(target))["path"] == path


def test_path_that_is_no_utf8(run: Run) -> None:
    """HTTP Connection Scope: … of UTF-8 byte sequences.

    Only percent-encoded ones: an octet beyond ASCII in a target is refused with 400, as RFC 9112
    says, for two parties could read it in two ways.
    """
    assert scope_of(run, request("/%ff-%c3%a9"))["path"] == "/\ufffd-é"
    asked = b"GET /\xc3\xa9 HTTP/1.1\r\nHost: test\r\n\r\n"
    assert answer(run, hello, asked).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("target", ["/", "/a%20b", "/a%2Fb?c", "/%e2%82%ac", "//"])
def test_raw_path(run: Run, target: str) -> None:
    """HTTP Connection Scope: ``raw_path`` is the path as it was received, without query. Optional.

    Byte for byte. ``--root-path`` is put before it, as before ``path``: it is what a proxy in front
    has taken away.
    """
    expected = target.partition("?")[0].encode()
    assert scope_of(run, request(target))["raw_path"] == expected
    assert scope_of(run, request(target), root_path="/api")["raw_path"] == b"/api" + expected


@pytest.mark.parametrize(
    ("target", "query"),
    [("/", b""), ("/?", b""), ("/?a=%20b", b"a=%20b"), ("/?a=b?c", b"a=b?c"), ("/%3f?x+y", b"x+y")],
)
def test_query_string(run: Run, target: str, query: bytes) -> None:
    """HTTP Connection Scope: ``query_string`` is what follows the ``?``, percent-encoded.

    Bytes; empty when there is none.
    """
    assert scope_of(run, request(target))["query_string"] == query


def test_root_path(run: Run) -> None:
    """HTTP Connection Scope: ``root_path`` is where the application is mounted. Optional.

    The setting ``--root-path``, else ``""``. ``path`` begins with it, so that what WSGI calls
    ``PATH_INFO`` is found by stripping it (WSGI Compatibility).
    """
    assert scope_of(run)["root_path"] == ""
    scope = scope_of(run, request("/a%20b"), root_path="/api")
    assert (scope["root_path"], scope["path"]) == ("/api", "/api/a b")


def test_order_of_headers(run: Run) -> None:
    """HTTP Connection Scope: the order of header values is preserved, duplicates too.

    ``headers`` is a list of tuples in the order of arrival.
    """
    lines = [f"X-{number % 3}: {number}" for number in range(30)]
    headers = scope_of(run, request("/", *lines))["headers"]
    assert [value for name, value in headers if name.startswith(b"x-")] == [
        b"%d" % number for number in range(30)
    ]


def test_names_of_headers(run: Run) -> None:
    """HTTP Connection Scope: header names should be lowercased, or else their case preserved.

    They are lowercased, always: most applications compare them so.
    """
    headers = scope_of(run, request("/", "X-MixedCase: Kept As It Is", "etag: 1"))["headers"]
    assert (b"x-mixedcase", b"Kept As It Is") in headers
    assert (b"etag", b"1") in headers


@pytest.mark.parametrize("value", [b"", b"a  b", b"\xe9\xff", "é".encode(), b'"a, b"', b"a\tb"])
def test_values_of_headers(run: Run, value: bytes) -> None:
    """WSGI encoding differences: headers are the exact bytes that the client has sent.

    Only the white space around a value, which is no part of it, is left out.
    """
    asked = b"GET / HTTP/1.1\r\nHost: test\r\nX-Value: \t%b  \r\n\r\n" % value
    assert (b"x-value", value) in scope_of(run, asked)["headers"]


def test_pseudo_headers(run: Run) -> None:
    """HTTP Connection Scope: pseudo headers must be removed, ``:authority`` become ``host``.

    HTTP/1.1 has none: a name with a colon is refused with 400. An authority in the request target
    replaces ``host`` and comes first.
    """
    asked = b"GET / HTTP/1.1\r\nHost: test\r\n:authority: other\r\n\r\n"
    assert answer(run, hello, asked).startswith(b"HTTP/1.1 400 ")
    headers = scope_of(run, request("http://other:81/", "X: y"))["headers"]
    assert headers[:2] == [(b"host", b"other:81"), (b"x", b"y")]


def test_client_and_server(run: Run) -> None:
    """HTTP Connection Scope: ``client`` and ``server`` are host and port of both ends. Optional.

    Tuples; behind a trusted proxy ``client`` is whom it says it forwards for.
    """
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)
        await hello(scope, receive, send)

    async def test() -> None:
        seen.clear()
        async with Arena(app) as arena:
            wire = await arena.connect()
            await wire.get()
            assert seen[0]["client"] == wire.writer.get_extra_info("sockname")
            assert seen[0]["server"] == ("127.0.0.1", arena.port)
            await wire.get("/", "X-Forwarded-For: 2001:db8::1")
            assert seen[1]["client"][0] == "2001:db8::1"
        assert [type(part) for part in seen[0]["client"]] == [str, int]

    run(test())


def test_unix_sockets(run: Run, tmp_path: Path) -> None:
    """HTTP Connection Scope: ``server`` is ``[path, None]`` for a unix socket.

    ``client`` is ``None`` then: there is no address.
    """
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)
        await hello(scope, receive, send)

    async def test() -> None:
        path = str(tmp_path / f"{len(seen)}.sock")
        async with Arena(app) as arena:
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(path)
                listener.listen()
                arena.server._listen([listener], (), ())
                wire = Wire(*await asyncio.open_unix_connection(path))
                await wire.get("/", "Connection: close")
                wire.close()
                assert seen[-1]["server"] == (path, None)
                assert seen[-1]["client"] is None
                await arena.server.drain(5, successor=False)

    run(test())


def test_state(run: Run) -> None:
    """HTTP Connection Scope: ``state`` is a copy of the namespace of the lifespan.

    A shallow copy for each request; empty where the application has no lifespan.
    """
    first, second = scopes(run, request(close=False), request())
    assert first["state"] == {}
    assert first["state"] is not second["state"]


@pytest.mark.parametrize("cut", [1, 7, 1000])
def test_chunked_requests(run: Run, cut: int) -> None:
    """HTTP Connection Scope: servers handle chunked bodies of requests.

    The application gets the decoded contents, no sizes, no extensions, no trailers.
    """
    bodies: list[bytes] = []

    async def act(receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
        bodies.append(body)
        await hello({}, receive, send)

    chunks = b"3;a=b\r\none\r\n4\r\n two\r\n0\r\nX-Trailer: 1\r\n\r\n"
    asked = request("/", "Transfer-Encoding: chunked", method="POST") + chunks

    async def test() -> None:
        async with Arena(acting(act)) as arena:
            wire = await arena.connect()
            for at in range(0, len(asked), cut):
                await wire.write(asked[at : at + cut])
                await asyncio.sleep(0)
            assert (await wire.read_response())[2] == b"hello"
        assert bodies.pop() == b"one two"

    run(test())


# Request - receive event


def test_not_before_a_request(run: Run) -> None:
    """Request: a connection alone does not call the application.

    The call follows the head of a request.
    """
    calls: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        calls.append(scope)
        await hello(scope, receive, send)

    async def test() -> None:
        calls.clear()
        async with Arena(app) as arena:
            wire = await arena.connect()
            await wire.write(request()[:-2])
            await arena.eventually(lambda: arena.server.connections, "it is not connected")
            await (await arena.connect()).get()
            assert len(calls) == 1
            await wire.write(b"\r\n")
            await wire.read_response()
            assert len(calls) == 2

    run(test())


async def reads_all(receive: Receive, send: Send) -> None:
    while (await receive())["more_body"]:
        pass
    await hello({}, receive, send)
    assert await receive() == DISCONNECT


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_request_without_body(run: Run, method: str) -> None:
    """Request: without a body there is one ``http.request``, of an empty body.

    All keys are always there.
    """
    app = Told(reads_all)
    answer(run, app, request(method=method))
    assert app.got == [{"type": "http.request", "body": b"", "more_body": False}, DISCONNECT]


def test_a_request_with_a_body(run: Run) -> None:
    """Request: ``body`` is the body; ``more_body`` is false in the last part of it.

    One event if all of it is there when the application asks.
    """
    app = Told(reads_all)
    answer(run, app, request(method="POST", body=b"hello"))
    assert app.got == [{"type": "http.request", "body": b"hello", "more_body": False}, DISCONNECT]


def test_a_long_body(run: Run) -> None:
    """Request: … else ``more_body`` is true and further parts follow, to be joined.

    As many as pieces arrive; not more than 64 KiB is read ahead of the application.
    """
    body = bytes(range(256)) * 8000
    app = Told(reads_all)
    answer(run, app, request(method="POST", body=body))
    parts = app.got[:-1]
    assert b"".join(one["body"] for one in parts) == body
    assert [one["more_body"] for one in parts] == [True] * (len(parts) - 1) + [False]
    assert len(parts) > 2


def test_no_event_after_the_body(run: Run) -> None:
    """Request: when the body is complete, the next event is the disconnect.

    ``receive()`` waits for it, so that an application may watch its client while it works.
    """

    async def act(receive: Receive, send: Send) -> None:
        assert (await receive())["more_body"] is False
        watch = asyncio.ensure_future(receive())
        for _ in range(10):
            await asyncio.sleep(0)
        assert not watch.done()
        await hello({}, receive, send)
        assert await watch == DISCONNECT

    app = Told(act)
    assert answer(run, app, request(method="POST", body=b"hello")).endswith(b"hello")
    assert app.error is None


# Disconnect - receive event


def test_disconnect_after_the_response(run: Run) -> None:
    """Disconnect: ``http.disconnect`` is what ``receive()`` gives after the response.

    Every time it is called, whether the connection stays open or not.
    """

    async def act(receive: Receive, send: Send) -> None:
        await hello({}, receive, send)
        for _ in range(3):
            await receive()

    app = Told(act)
    answer(run, app, request(method="POST", body=b"not read"))
    assert app.got == [DISCONNECT] * 3


def test_disconnect_when_the_client_leaves(run: Run) -> None:
    """Disconnect: … and after the connection has been closed.

    A wait in ``receive()`` ends at once.
    """

    async def act(receive: Receive, send: Send) -> None:
        for _ in range(3):
            await receive()

    app = Told(act)

    async def test() -> None:
        app.got.clear()
        async with left(app, request(close=False)) as (_, wire):
            wire.close()
        assert [one["type"] for one in app.got] == ["http.request", *["http.disconnect"] * 2]

    run(test())


def test_send_raises_after_the_disconnect(run: Run) -> None:
    """Disconnect: once it was received, ``send()`` is to raise.

    Also when the client has only closed its sending side: who was told is told for good.
    """

    async def act(receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        await hello({}, receive, send)

    app = Told(act)

    async def test() -> None:
        async with left(app, request(close=False)) as (_, wire):
            wire.writer.write_eof()
        assert isinstance(app.error, OSError)

    run(test())
