"""What a WSGI application is told of a request: ``environ`` and ``wsgi.input`` (PEP 3333)."""

from __future__ import annotations

import asyncio
import io
import json
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from asgi_worker.wsgi import asgi3
from tests.worker.conftest import Run
from tests.worker.http1_requests import MIB, chunked, post
from tests.worker.serving import PATIENCE_S
from tests.worker.wsgi_apps import TEXT, Environ, Start, ask, environ_for, facts, lines, serve


def test_environ(run: Run) -> None:
    fields = ("Content-Type: text/x", "X-One: 1", "X-One: 2", "Accept: */*", "X-Latin: \xe9")
    got = environ_for(run, lines(*fields, first="GET /a%20b/caf%C3%A9%2Fx?q=%C3%A9&q HTTP/1.1"))
    wanted = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/a b/cafÃ©/x",  # bytes as latin-1
        "QUERY_STRING": "q=%C3%A9&q",
        "REQUEST_URI": "/a%20b/caf%C3%A9%2Fx?q=%C3%A9&q",
        "RAW_URI": "/a%20b/caf%C3%A9%2Fx?q=%C3%A9&q",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "CONTENT_TYPE": "text/x",
        "HTTP_HOST": "shop.example:81",
        "HTTP_X_ONE": "1,2",
        "HTTP_X_LATIN": "\xe9",
        "wsgi.url_scheme": "http",
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
    }
    assert {name: got.get(name) for name in wanted} == wanted
    assert int(got["SERVER_PORT"]) > 0
    assert "HTTP_CONTENT_TYPE" not in got


def test_streams_of_the_environ(run: Run) -> None:
    seen: Environ = {}

    def application(environ: Environ, start_response: Start) -> list[bytes]:
        seen.update(environ)
        start_response("204 No Content", [])
        return []

    ask(run, application)
    assert seen["wsgi.version"] == (1, 0)
    assert seen["wsgi.errors"] is sys.stderr
    assert type(seen) is dict


def test_a_path_that_is_no_utf_8(run: Run) -> None:
    assert environ_for(run, lines(first="GET /%FF%e9 HTTP/1.1"))["PATH_INFO"] == "/\xff\xe9"


def test_mounted_under_a_path(run: Run) -> None:
    got = environ_for(run, lines(first="GET /shop/x HTTP/1.1"), root_path="/shop")
    assert (got["SCRIPT_NAME"], got["PATH_INFO"]) == ("/shop", "/shop/x")  # the proxy cut it off
    assert environ_for(run, lines(), root_path="/é")["SCRIPT_NAME"] == "/Ã©"


def test_the_environment_of_the_process_mounts_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRIPT_NAME", "/elsewhere")
    assert environ_for(run, lines())["SCRIPT_NAME"] == ""


def test_behind_a_proxy(run: Run) -> None:
    fields = ("X-Forwarded-For: 203.0.113.9", "X-Forwarded-Proto: https")
    got = environ_for(run, lines(*fields))
    assert (got["REMOTE_ADDR"], got["wsgi.url_scheme"]) == ("203.0.113.9", "https")


@pytest.mark.parametrize(("scheme", "port"), [("http", "80"), ("https", "443")])
def test_over_a_unix_socket(scheme: str, port: str) -> None:
    """There is neither a port nor an address, and PEP 3333 wants something."""
    body = b""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def send(message: dict[str, Any]) -> None:
        nonlocal body
        body += message.get("body", b"")

    scope: dict[str, Any] = {
        "type": "http",
        "http_version": "1.1",
        "scheme": scheme,
        "method": "GET",
        "path": "/",
        "raw_path": b"/",
        "root_path": "",
        "query_string": b"",
        "headers": [],
        "server": ("/run/shop.sock", None),
        "client": None,
    }

    async def call() -> None:
        await asgi3(facts, threads=1)(scope, receive, send)

    asyncio.run(call())
    got = json.loads(body)
    assert (got["SERVER_NAME"], got["SERVER_PORT"]) == ("localhost", port)
    assert got["REMOTE_ADDR"] == ""


def test_fields_that_would_look_like_others_are_left_out(run: Run) -> None:
    got = environ_for(run, lines("X_Forwarded_For: 10.0.0.1", "X-User: a", "X_User: root"))
    assert got["HTTP_X_USER"] == "a"
    assert "HTTP_X_FORWARDED_FOR" not in got


def test_cookies_in_several_fields_are_one(run: Run) -> None:
    assert environ_for(run, lines("Cookie: a=1", "Cookie: b=2"))["HTTP_COOKIE"] == "a=1; b=2"


@pytest.mark.parametrize("size", [0, 1, 65_536, 3 * MIB + 1])
@pytest.mark.parametrize("request_of", [post, chunked], ids=["length", "chunked"])
def test_bodies_arrive_whole(run: Run, size: int, request_of: Callable[[bytes], bytes]) -> None:
    data = bytes(range(251)) * (size // 251 + 1)
    data = data[:size]

    def application(environ: Environ, start_response: Start) -> list[bytes]:
        start_response("200 OK", TEXT)
        return [environ["wsgi.input"].read()]

    assert ask(run, application, request_of(data) if size else post(b""))[2] == data


@pytest.mark.parametrize(
    "read",
    [
        lambda body: [body.readline(), body.readline(3), body.read(2), body.readline(), *body],
        list,
        lambda body: body.readlines(),
        lambda body: [body.read(5), body.read(0), body.read(-1)],
        lambda body: list(iter(lambda: body.read(4), b"")),
        lambda body: list(iter(lambda: body.readline(1000), b"")),
        lambda body: body.readlines(9) + body.readlines(),
    ],
)
def test_input_is_read_as_a_file(run: Run, read: Callable[[Any], list[bytes]]) -> None:
    """However it arrives: with every byte in a chunk of its own too."""
    data = b"one\ntwo two\n\nthree\nlast"

    def application(environ: Environ, start_response: Start) -> list[bytes]:
        start_response("200 OK", TEXT)
        return [repr([bytes(piece) for piece in read(environ["wsgi.input"])]).encode()]

    wanted = repr([bytes(piece) for piece in read(io.BufferedReader(io.BytesIO(data)))]).encode()

    async def test() -> None:
        async with serve(application) as arena:
            wire = await arena.connect()
            await wire.write(chunked(*(data[at : at + 1] for at in range(len(data)))))
            assert (await wire.read_response())[2] == wanted

    run(test())


def test_a_large_upload_is_not_held_in_memory(run: Run) -> None:
    """The client is slowed down to what the application reads."""
    go_on = threading.Event()

    def application(environ: Environ, start_response: Start) -> list[bytes]:
        assert go_on.wait(PATIENCE_S)
        size = sum(len(piece) for piece in iter(lambda: environ["wsgi.input"].read(65_536), b""))
        start_response("200 OK", TEXT)
        return [b"%d" % size]

    async def test() -> None:
        async with serve(application) as arena:
            wire = await arena.connect()
            send = asyncio.ensure_future(wire.write(post(bytes(50 * MIB))))
            await arena.eventually(
                lambda: any(one.read_paused for one in arena.server.connections),  # type: ignore[attr-defined]
                "reading pauses",
            )
            assert not send.done()
            go_on.set()
            assert (await wire.read_response())[2] == b"%d" % (50 * MIB)
            await send

    run(test())


def test_an_upload_that_breaks_off_is_an_error_to_the_application(run: Run) -> None:
    seen: list[BaseException] = []
    reads = threading.Event()

    def application(environ: Environ, start_response: Start) -> list[bytes]:
        environ["wsgi.input"].read(3)
        reads.set()
        try:
            environ["wsgi.input"].read()
        except OSError as error:
            seen.append(error)
            raise
        raise AssertionError

    async def test() -> None:
        async with serve(application) as arena:
            wire = await arena.connect()
            await wire.write(
                b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 1000\r\n\r\nhalf of it"
            )
            await asyncio.to_thread(reads.wait, PATIENCE_S)
            wire.close()
            await arena.eventually(lambda: seen, "the application is told")

    run(test())
    assert "before its request was complete" in str(seen[0])
