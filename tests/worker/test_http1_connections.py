"""One connection: limits, time-outs, repeated heads, upgrades, files, its end, its scope."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from asgi_worker.application import Receive, Scope, Send
from tests.worker.conftest import Run
from tests.worker.http1_requests import GET, MIB, chunked, echo, post, read_body, respond, tell
from tests.worker.serving import Arena


def test_limit_on_concurrency(run: Run) -> None:
    gate = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await gate.wait()
        await respond(send, b"x")

    async def test() -> None:
        async with Arena(app, limit_concurrency=2) as arena:
            wires = [await arena.connect() for _ in range(2)]
            for wire in wires:
                await wire.write(GET)
            await arena.eventually(lambda: len(arena.server.tasks) == 2, "both run")
            assert (await arena.exchange(GET)).startswith(b"HTTP/1.1 503 ")
            gate.set()
            for wire in wires:
                assert (await wire.read_response())[2] == b"x"

    run(test())


def test_time_limits(run: Run) -> None:
    limits = {"head_timeout_s": 0.5, "body_timeout_s": 0.5, "keep_alive_timeout_s": 0.5}
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "POST":
            while (message := await receive())["type"] == "http.request":
                assert message["more_body"]
            seen.append(message["type"])
            return
        await respond(send, b"x")

    async def test() -> None:
        async with Arena(app, **limits) as arena:
            silent, half, idle, stalled, late = [await arena.connect() for _ in range(5)]
            await half.write(GET[:-3])
            await idle.get()
            await stalled.write(post(b"hello")[:-2])
            await late.get()
            await late.write(GET[:5])
            assert await silent.read_to_end() == b""
            assert (await half.read_to_end()).startswith(b"HTTP/1.1 408 ")
            assert await idle.read_to_end() == b""
            assert (await stalled.read_to_end()).startswith(b"HTTP/1.1 408 ")
            assert (await late.read_to_end()).startswith(b"HTTP/1.1 408 ")

    run(test())
    assert seen == ["http.disconnect"]


def test_no_limit_is_one_on_the_application(run: Run) -> None:
    limits = {"head_timeout_s": 0.5, "body_timeout_s": 0.5, "keep_alive_timeout_s": 0.5}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if (b"expect", b"100-continue") in scope["headers"]:
            await asyncio.sleep(2.5)
        data = await read_body(receive)
        await asyncio.sleep(2.5)
        await respond(send, data)

    async def test() -> None:
        async with Arena(app, **limits) as arena:
            patient = await arena.connect()
            await patient.write(post(b"hello", "Expect: 100-continue")[:-5])
            requests = (GET, post(b"hello"), chunked(b"hello"), post(bytes(100_000)))
            wires = [await arena.connect() for _ in requests]
            for wire, request in zip(wires, requests, strict=True):
                await wire.write(request[:-1])
                await asyncio.sleep(0.01)
                await wire.write(request[-1:])
            for wire, request in zip(wires, requests, strict=True):
                line, _, data = await wire.read_response()
                assert line == b"HTTP/1.1 200 OK"
                assert request.endswith(data) or data == b"hello"
            assert await patient.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            await patient.write(b"hello")
            assert (await patient.read_response())[2] == b"hello"

    run(test())


def test_dripping_does_not_extend_the_time_for_a_head(run: Run) -> None:
    async def test() -> None:
        async with Arena(echo, head_timeout_s=0.5) as arena:
            wire = await arena.connect()

            async def drip() -> None:
                await wire.write(b"GET / HTTP/1.1\r\nX: ")
                while True:
                    await wire.write(b"x")
                    await asyncio.sleep(0.05)

            dripping = asyncio.ensure_future(drip())
            assert (await wire.read_until(b"\r\n")).startswith(b"HTTP/1.1 408 ")
            dripping.cancel()
            await asyncio.wait([dripping])

    run(test())


SAME = b"Host: test\r\nUser-Agent: x\r\nAccept: */*\r\n\r\n"


def test_repeated_heads_are_read_as_the_first_was(run: Run) -> None:
    """The short cut for repeated fields must not be told from the parser by anything but speed."""
    lines = [
        b"GET /a HTTP/1.1",
        b"GET /b?c=%20d HTTP/1.1",
        b"HEAD /a HTTP/1.1",
        b"GET /%C3%A9?x HTTP/1.1",
        b"GET http://other/x HTTP/1.1",
        b"DELETE /a HTTP/1.1",
        b"GET /a HTTP/1.0",
        b"GET /a#b HTTP/1.1",
        b"GET /\xe9 HTTP/1.1",
        b"GET  /a HTTP/1.1",
        b"GET a HTTP/1.1",
        b"GET * HTTP/1.1",
        b"NO /a HTTP/1.1",
        b"GET /a HTTP/2.0",
        b"GET /a HTTP/1.1\r\nX: y",
        b"GET /a HTTP/1.1\r\n",
        b"GET /a HTTP/1.1 ",
        b"GET /a\tHTTP/1.1",
        b"",
    ]

    async def test() -> None:
        async with Arena(tell, root_path="/root", date_header=False) as arena:
            for line in lines:
                first = await arena.connect()
                await first.write(line + b"\r\n" + SAME)
                tail = b"GET /end HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
                warm = await arena.connect()
                for path in (b"/1", b"/2", b"/3"):
                    await warm.write(b"GET %b HTTP/1.1\r\n" % path + SAME)
                    assert b"/root" + path in (await warm.read_response())[2]
                await warm.write(line + b"\r\n" + SAME)
                await first.write(tail)
                await warm.write(tail)
                expected, got = await first.read_to_end(), await warm.read_to_end()
                assert got == expected, line

    run(test())


def test_a_repeated_head_within_a_body_is_body(run: Run) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["headers"].append((b"x", b"polluted"))
        scope["state"]["x"] = scope["extensions"]["x"] = {}
        assert scope["headers"].count((b"x", b"polluted")) == 1
        await respond(send, scope["path"].encode() + await read_body(receive))

    head = b"GET /a HTTP/1.1\r\n" + SAME

    async def test() -> None:
        async with Arena(app) as arena:
            wire = await arena.connect()
            for _ in range(4):
                await wire.write(head)
                assert (await wire.read_response())[2] == b"/a"
            await wire.write(post(head + head)[: -2 * len(head)])
            await arena.eventually(lambda: arena.server.tasks, "the upload runs")
            await wire.write(head)
            await asyncio.sleep(0.01)
            await wire.write(head)
            assert (await wire.read_response())[2] == b"/" + head + head
            await wire.write(head[:20])
            await asyncio.sleep(0.01)
            await wire.write(head[20:] + head)
            assert (await wire.read_response())[2] == b"/a"
            assert (await wire.read_response())[2] == b"/a"

    run(test())


def test_an_upgrade_that_is_not_ours_is_ignored(run: Run) -> None:
    """RFC 9110 §7.8; the body must not become the next request."""
    smuggled = b"GET /smuggled HTTP/1.1\r\nHost: t\r\n\r\n"

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, scope["path"].encode() + await read_body(receive))

    async def test() -> None:
        async with Arena(app) as arena:
            wire = await arena.connect()
            asks = ("Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: x")
            assert (await wire.get("/a", *asks))[2] == b"/a"
            await wire.write(post(smuggled, *asks) + GET)
            assert (await wire.read_response())[2] == b"/" + smuggled
            assert (await wire.read_response())[2] == b"/"
            upgrade = b"Upgrade: h2c\r\nConnection: Upgrade\r\nTransfer-Encoding"
            await wire.write(chunked(smuggled).replace(b"Transfer-Encoding", upgrade) + GET)
            assert (await wire.read_response())[2] == b"/" + smuggled
            assert (await wire.read_response())[2] == b"/"

    run(test())


def test_files_are_sent_by_path(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(os.urandom(5 * MIB + 3))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert "http.response.pathsend" in scope["extensions"]
        path = str(tmp_path / scope["path"][1:])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.pathsend", "path": path})

    async def test() -> None:
        async with Arena(app) as arena:
            wire = await arena.connect()
            for _ in range(2):
                line, fields, data = await wire.get("/file")
                assert line == b"HTTP/1.1 200 OK"
                assert fields[b"content-length"] == b"%d" % (5 * MIB + 3)
                assert data == file.read_bytes()
            assert (await wire.get("/missing"))[0].startswith(b"HTTP/1.1 500")
            await wire.write(b"HEAD /file HTTP/1.1\r\nHost: t\r\n\r\n")
            assert b"content-length: 5242883" in await wire.read_until(b"\r\n\r\n")
            assert (await wire.get("/file"))[2] == file.read_bytes()
            gone = await arena.connect()
            await gone.write(b"GET /file HTTP/1.1\r\nHost: t\r\n\r\n")
            await gone.read_exactly(1000)
            gone.writer.transport.abort()

    run(test())


def test_a_client_that_shuts_down_its_side_is_answered(run: Run) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        data = await read_body(receive)
        await asyncio.sleep(0.05)
        await respond(send, scope["path"].encode() + data)

    async def test() -> None:
        async with Arena(app) as arena:
            for request in (GET, post(b"body"), GET + GET):
                wire = await arena.connect()
                await wire.write(request)
                wire.writer.write_eof()
                answers = await wire.read_to_end()
                assert answers.count(b"HTTP/1.1 200 OK") == (2 if request == GET + GET else 1)
                assert answers.count(b"connection: close") == 1
            cut = await arena.connect()
            await cut.write(post(b"body")[:-1])
            cut.writer.write_eof()
            assert await cut.read_to_end() == b""

    async def ends(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    async def end() -> None:
        async with Arena(ends) as arena:
            wire = await arena.connect()
            await wire.write(GET)
            wire.writer.write_eof()
            assert await wire.read_to_end() == b""

    run(test())
    run(end())


def test_refusals_are_logged_once(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def test() -> None:
        async with Arena(echo) as arena:
            bad = b"GET / HTTP/1.1\r\nHost : test\r\n\r\n"
            response = await arena.exchange(GET + bad + GET)
            assert response.count(b"HTTP/1.1 200 OK") == 1
            assert response.count(b"HTTP/1.1 400 Bad Request") == 1
            assert response.index(b"200 OK") < response.index(b"400 Bad")

    run(test())
    (record,) = [record for record in caplog.records if "refused" in record.getMessage()]
    assert "(400)" in record.getMessage()
    assert "127.0.0.1:" in record.getMessage()


def test_the_scope_is_what_asgi_says(run: Run) -> None:
    scopes: list[dict[str, Any]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await respond(send, b"")

    async def test() -> None:
        async with Arena(app) as arena:
            wire = await arena.connect()
            await wire.get("/a%2Fb/%E2%82%AC?q=%20", "X-Two: 1", "x-two: 2")
            sock = wire.writer.get_extra_info("sockname")
            scope = scopes[0]
            assert scope["type"] == "http"
            assert scope["asgi"] == {"version": "3.0", "spec_version": "2.5"}
            assert scope["http_version"] == "1.1"
            assert scope["method"] == "GET"
            assert scope["scheme"] == "http"
            assert scope["path"] == "/a/b/€"
            assert scope["raw_path"] == b"/a%2Fb/%E2%82%AC"
            assert scope["query_string"] == b"q=%20"
            assert scope["root_path"] == ""
            assert scope["headers"] == [(b"host", b"test"), (b"x-two", b"1"), (b"x-two", b"2")]
            assert tuple(scope["client"]) == sock
            assert tuple(scope["server"]) == ("127.0.0.1", arena.port)
            assert scope["extensions"]["asgi_supervise"] == {
                "slot": 0,
                "generation": 1,
                "workers": 1,
            }

    run(test())
