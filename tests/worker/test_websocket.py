"""WebSockets as people use them: shaking hands, talking, through a library's client and by hand."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
import websockets

from asgi_worker.access_log import AccessLog
from asgi_worker.application import Receive, Send
from tests.worker.conftest import Run
from tests.worker.frames_by_hand import (
    BINARY,
    DEFLATE,
    FIN,
    KEY,
    PING,
    PONG,
    close,
    frame,
    handshake,
    open_websocket,
    text,
)
from tests.worker.serving import Arena
from tests.worker.websocket_apps import ACCEPT, Noted, disconnect, echo, sends

MESSAGES: list[str | bytes] = [
    "",
    b"",
    "hi",
    b"\x00\xff",
    "é" * 1000,
    b"x" * 70_000,
    "🚲" * 300_000,
    b"y" * 3_000_000,
]


@pytest.mark.parametrize("compression", ["deflate", None])
def test_echo_through_a_library(compression: Any, run: Run) -> None:
    async def scenario() -> None:
        async with (
            Arena(echo) as arena,
            websockets.connect(
                f"ws://127.0.0.1:{arena.port}/", compression=compression, max_size=None
            ) as client,
        ):
            negotiated = client.response.headers.get("Sec-WebSocket-Extensions", "")  # type: ignore[union-attr]
            assert ("permessage-deflate" in negotiated) is (compression is not None)
            for message in MESSAGES:
                await client.send(message)
                assert await client.recv() == message
            await client.send(["one ", "two ", "three"])
            assert await client.recv() == "one two three"
            await (await client.ping())
            for message in MESSAGES:  # in flight together
                await client.send(message)
            assert [await client.recv() for _ in MESSAGES] == MESSAGES

    run(scenario())


@pytest.mark.parametrize("cut", [1, 3, 1000])
def test_echo_however_the_octets_come(cut: int, run: Run) -> None:
    stream = text("one") + frame(0x2, b"t") + frame(FIN | PING, b"?") + frame(FIN, b"wo") + close()

    async def scenario() -> None:
        async with Arena(echo) as arena:
            client = await open_websocket(arena)
            for at in range(0, len(stream), cut):
                await client.send(stream[at : at + cut])
                await asyncio.sleep(0)
            got = {await client.frame() for _ in range(3)}
            assert got == {(FIN | 0x1, b"one"), (FIN | PONG, b"?"), (FIN | BINARY, b"two")}
            assert await client.closed() == (None, "")
            assert await client.end() == b""

    run(scenario())


def test_scope(run: Run) -> None:
    app = Noted()

    async def scenario() -> None:
        async with Arena(app, root_path="/api") as arena:
            client = await open_websocket(
                arena, "/a%20b?c=d", "Sec-WebSocket-Protocol: one, two", "Sec-WebSocket-Protocol: 3"
            )
            await client.send(close())
            await client.end()
            scope = app.scope
            assert scope["client"] == client.wire.writer.get_extra_info("sockname")
            assert scope["server"] == ("127.0.0.1", arena.port)

    run(scenario())
    scope = app.scope
    headers = dict(scope.pop("headers"))
    assert headers[b"host"] == b"test"
    assert headers[b"sec-websocket-version"] == b"13"
    assert scope["asgi"] == {"version": "3.0", "spec_version": "2.5"}
    assert scope["extensions"]["websocket.http.response"] == {}
    expected = {
        "type": "websocket",
        "http_version": "1.1",
        "scheme": "ws",
        "path": "/api/a b",
        "raw_path": b"/api/a%20b",
        "query_string": b"c=d",
        "root_path": "/api",
        "state": {},
        "subprotocols": ["one", "two", "3"],
    }
    assert {key: scope[key] for key in expected} == expected
    assert set(scope) == {*expected, "asgi", "client", "server", "extensions"}


def test_what_comes_with_the_handshake_waits_for_accept(run: Run) -> None:
    accept = asyncio.Event()

    async def act(receive: Receive, send: Send) -> None:
        await receive()
        await accept.wait()
        await send(ACCEPT)
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"] * 2})

    async def scenario() -> None:
        async with Arena(Noted(act)) as arena:
            wire = await arena.connect()
            await wire.write(handshake() + text("early") + text("late")[:-1])
            await wire.write(text("late")[-1:] + close())
            accept.set()
            await wire.read_until(b"\r\n\r\n")
            assert await wire.read_to_end() == b"\x81\x0aearlyearly\x81\x08latelate\x88\x00"

    run(scenario())


def test_the_answer_to_a_handshake(run: Run) -> None:
    app = sends(
        {
            "type": "websocket.accept",
            "subprotocol": "two",
            "headers": [(b"x-one", b"1"), (b"x-one", b"2"), (b"server", b"mine")],
        },
        {"type": "websocket.close"},
    )

    async def scenario() -> None:
        async with Arena(app, headers=(("x-all", "3"),)) as arena:
            client = await open_websocket(arena, "/", "Sec-WebSocket-Protocol: one, two")
            lines = client.head.decode().lower().split("\r\n")[1:-2]
            assert [
                line for line in lines if not line.startswith(("date:", "sec-websocket-acc"))
            ] == [
                "upgrade: websocket",
                "connection: upgrade",
                "sec-websocket-protocol: two",
                "x-one: 1",
                "x-one: 2",
                "server: mine",
                "x-all: 3",
            ]
            await client.send(close())
            await client.end()

    run(scenario())


OFFERS: dict[str, tuple[str, bytes]] = {
    "none": ("X: y", b""),
    "plain": (DEFLATE, b"permessage-deflate; server_max_window_bits=12"),
    "a browser's": (
        f"{DEFLATE}; client_max_window_bits",
        b"permessage-deflate; server_max_window_bits=12; client_max_window_bits=12",
    ),
    "no context": (
        f"{DEFLATE}; server_no_context_takeover; client_no_context_takeover",
        b"permessage-deflate; server_no_context_takeover; client_no_context_takeover; "
        b"server_max_window_bits=12",
    ),
    "smaller window": (
        f"{DEFLATE}; server_max_window_bits=10",
        b"permessage-deflate; server_max_window_bits=10",
    ),
    "impossible": (f"{DEFLATE}; server_max_window_bits=8", b""),
    "wrong, then right": (
        f"{DEFLATE}; client_max_window_bits=7, permessage-deflate",
        b"permessage-deflate; server_max_window_bits=12",
    ),
    "another extension": ("Sec-WebSocket-Extensions: bbf-usp-protocol", b""),
}


@pytest.mark.parametrize(("offer", "answer"), OFFERS.values(), ids=OFFERS.keys())
def test_extensions(offer: str, answer: bytes, run: Run) -> None:
    async def scenario() -> None:
        async with Arena(echo) as arena:
            client = await open_websocket(arena, "/", offer)
            line = b"\r\nSec-WebSocket-Extensions: " + answer + b"\r\n"
            assert (line in client.head) is bool(answer)
            assert (b"permessage-deflate" in client.head) is bool(answer)
            await client.send(close())
            await client.end()

    run(scenario())


def test_no_compression_when_it_is_turned_off(run: Run) -> None:
    async def scenario() -> None:
        async with Arena(echo, ws_per_message_deflate=False) as arena:
            client = await open_websocket(arena, "/", DEFLATE)
            assert b"xtensions" not in client.head
            await client.send(frame(FIN | 0x40 | 0x1, b"x"))
            assert (await client.closed()).code == 1002
            await client.end()

    run(scenario())


UPGRADE = b"426 Upgrade Required"
SPOKEN = [b"sec-websocket-version: 13", b"upgrade: websocket"]

REFUSED: dict[str, tuple[bytes, bytes, list[bytes]]] = {
    "version 8": (handshake(version="8"), UPGRADE, SPOKEN),
    "no version": (
        handshake(version=None),
        UPGRADE,
        SPOKEN,
    ),
    "two versions": (
        handshake("/", "Sec-WebSocket-Version: 13"),
        UPGRADE,
        SPOKEN,
    ),
    "no key": (handshake(key=None), b"400 Bad Request", []),
    "a key that is not Base64": (handshake(key="!" * 24), b"400 Bad Request", []),
    "a short key": (handshake(key="c2hvcnQ="), b"400 Bad Request", []),
    "two keys": (handshake("/", f"Sec-WebSocket-Key: {KEY}"), b"400 Bad Request", []),
    "bad extensions": (handshake("/", "Sec-WebSocket-Extensions: ;"), b"400 Bad Request", []),
    "bad subprotocols": (handshake("/", "Sec-WebSocket-Protocol: a b"), b"400 Bad Request", []),
}


@pytest.mark.parametrize(("request_", "status", "lines"), REFUSED.values(), ids=REFUSED.keys())
def test_a_bad_handshake_never_reaches_the_application(
    request_: bytes, status: bytes, lines: list[bytes], run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    app = Noted()

    async def scenario() -> None:
        async with Arena(app) as arena:
            response = await arena.exchange(request_)
            head, _, body = response.partition(b"\r\n\r\n")
            first, *fields = head.split(b"\r\n")
            assert first == b"HTTP/1.1 " + status
            assert b"connection: close" in fields
            assert f"content-length: {len(body)}".encode() in fields
            assert set(lines) <= set(fields)
            assert body

    with caplog.at_level(logging.INFO, "asgi_worker"):
        run(scenario())
    assert app.got == []
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "WebSocket '/' refused: " in caplog.text


def test_more_connections_than_the_limit_are_refused(run: Run) -> None:
    async def scenario() -> None:
        async with Arena(echo, limit_concurrency=1) as arena:
            client = await open_websocket(arena)
            response = await arena.exchange(handshake())
            assert response.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
            await client.send(close())
            await client.end()

    run(scenario())


def test_both_kinds_of_bytes_and_their_likes(run: Run) -> None:
    payload = b"some bytes" * 3000
    app = sends(
        ACCEPT,
        {"type": "websocket.send", "bytes": payload},
        {"type": "websocket.send", "bytes": bytearray(payload), "text": None},
        {"type": "websocket.send", "bytes": memoryview(payload)[10:]},
        {"type": "websocket.send", "text": "text", "bytes": None},
        {"type": "websocket.close"},
    )

    async def scenario() -> None:
        async with Arena(app) as arena:
            client = await open_websocket(arena)
            assert await client.frame() == (FIN | BINARY, payload)
            assert await client.frame() == (FIN | BINARY, payload)
            assert await client.frame() == (FIN | BINARY, payload[10:])
            assert await client.text() == "text"
            assert await client.closed() == (1000, "")
            await client.send(close(1000))
            assert await client.end() == b""

    run(scenario())


def test_pongs_nobody_asked_for_are_ignored(run: Run) -> None:
    app = Noted()

    async def scenario() -> None:
        async with Arena(app) as arena:
            client = await open_websocket(arena)
            await client.send(frame(FIN | PONG, b"!"), frame(FIN | PING, b"?"), close(1000))
            assert await client.frame() == (FIN | PONG, b"?")
            assert await client.closed() == (1000, "")
            assert await client.end() == b""

    run(scenario())
    assert app.got == [{"type": "websocket.connect"}, disconnect(1000)]


def test_counters(run: Run) -> None:
    async def scenario() -> None:
        async with Arena(echo) as arena:
            server = arena.server
            clients = [await open_websocket(arena) for _ in range(3)]
            assert (server.websockets, server.requests, len(server.tasks)) == (3, 3, 3)
            for client in clients:
                await client.send(close())
                await client.end()
            await arena.eventually(lambda: not server.connections, "connections are still there")
            assert (server.websockets, server.requests, server.errors) == (0, 3, 0)
            assert server.young.ended == 3

    run(scenario())


def test_access_log(run: Run, tmp_path: Any) -> None:
    path = tmp_path / "access.log"

    async def scenario() -> None:
        with path.open("wb") as file:
            log = AccessLog(asyncio.get_running_loop(), file.fileno())
            async with Arena(echo) as arena:
                arena.server.access_log = log
                client = await open_websocket(arena, "/chat?room=1")
                port = client.wire.writer.get_extra_info("sockname")[1]
                await client.send(close())
                await client.end()
                await arena.exchange(handshake("/old", version="8"))
            log.flush()
            first, second = path.read_text().splitlines()
            assert first.startswith(f'127.0.0.1:{port} - "GET /chat?room=1 HTTP/1.1" 101 0B ')
            assert first.endswith("ms")
            assert '"GET /old HTTP/1.1" 426 ' in second

    run(scenario())
