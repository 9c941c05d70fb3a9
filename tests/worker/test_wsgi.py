"""A WSGI application behind a real server: its answers, its errors, its threads (PEP 3333)."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import io
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from tests.worker.conftest import Run
from tests.worker.http1_requests import GET, MIB
from tests.worker.serving import PATIENCE_S, Wire
from tests.worker.wsgi_apps import TEXT, Environ, Start, ask, errors, facts, lines, serve


def test_a_stream_is_sent_piece_by_piece(run: Run) -> None:
    asked = threading.Semaphore(0)

    def application(environ: Environ, start_response: Start) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        for number in range(3):
            yield b"%d" % number
            assert asked.acquire(timeout=PATIENCE_S)

    async def test() -> None:
        async with serve(application) as arena:
            wire = await arena.connect()
            await wire.write(GET)
            head = await wire.read_until(b"\r\n\r\n")
            assert b"transfer-encoding: chunked" in head
            for number in range(3):
                assert await wire.read_until(b"%d\r\n" % number)
                asked.release()
            assert await wire.read_exactly(5) == b"\r\n0\r\n"[2:] + b"\r\n"

    run(test())


@pytest.mark.parametrize(
    ("body", "length"),
    [([b"hello"], b"5"), ((b"hello",), b"5"), ([b"hel", b"lo"], None), ([], b"0"), ([b""], b"0")],
)
def test_a_body_in_one_piece_has_a_length(
    run: Run, body: Iterable[bytes], length: bytes | None
) -> None:
    def application(environ: Environ, start_response: Start) -> Iterable[bytes]:
        start_response("200 OK", TEXT)
        return body

    _, fields, got = ask(run, application)
    assert (got, fields.get(b"content-length")) == (b"".join(body), length)


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_answers_without_a_body(run: Run, status: str) -> None:
    def application(environ: Environ, start_response: Start) -> list[bytes]:
        start_response(status, [("ETag", '"x"')])
        return [b"left out"]

    async def test() -> None:
        async with serve(application) as arena:
            wire = await arena.connect()
            for _ in range(2):
                await wire.write(GET)
                head = await wire.read_until(b"\r\n\r\n")
                assert head.startswith(f"HTTP/1.1 {status}".encode())
                assert b"content-length" not in head

    run(test())


def test_head(run: Run) -> None:
    async def test() -> None:
        async with serve(facts) as arena:
            wire = await arena.connect()
            for _ in range(2):
                await wire.write(b"HEAD / HTTP/1.1\r\nHost: t\r\n\r\n")
                head = await wire.read_until(b"\r\n\r\n")
                assert b"content-length: " in head

    run(test())


def test_repeated_fields_and_a_status_of_ones_own(run: Run) -> None:
    def application(environ: Environ, start_response: Start) -> list[bytes]:
        start_response("299 Fine", [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")])
        return [b"x"]

    async def test() -> None:
        async with serve(application) as arena:
            wire = await arena.connect()
            await wire.write(GET)
            head = await wire.read_until(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 299 ")
            assert b"set-cookie: a=1\r\nset-cookie: b=2\r\n" in head

    run(test())


class Body:
    """An iterable that knows whether it was closed."""

    def __init__(self, *pieces: bytes | Exception) -> None:
        self.pieces = pieces
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        for piece in self.pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize(
    "pieces", [(b"a", b"b"), (), (b"a", ZeroDivisionError()), (ZeroDivisionError(),)]
)
def test_close_is_called_once(run: Run, pieces: tuple[bytes | Exception, ...]) -> None:
    bodies: list[Body] = []

    def application(environ: Environ, start_response: Start) -> Body:
        start_response("200 OK", TEXT)
        bodies.append(Body(*pieces))
        return bodies[-1]

    async def test() -> None:
        async with serve(application) as arena:
            await arena.exchange(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))

    run(test())
    assert [body.closed for body in bodies] == [1]


def test_close_comes_after_the_response(run: Run) -> None:
    """What frameworks do there, clients do not wait for."""
    go_on = threading.Event()

    class Late(Body):
        def close(self) -> None:
            assert go_on.wait(PATIENCE_S)

    def application(environ: Environ, start_response: Start) -> Body:
        start_response("200 OK", TEXT)
        return Late(b"a", b"b")

    async def test() -> None:
        async with serve(application) as arena:
            wire = await arena.connect()
            assert (await wire.get())[2] == b"ab"
            go_on.set()

    run(test())


def test_an_exception_is_500_and_one_traceback(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    def application(environ: Environ, start_response: Start) -> list[bytes]:
        raise ZeroDivisionError("in the application")

    assert ask(run, application)[0] == b"HTTP/1.1 500 Internal Server Error"
    assert errors(caplog) == ["in the application"]


def test_an_exception_before_the_first_piece_is_500(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    def application(environ: Environ, start_response: Start) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        yield b""
        raise ZeroDivisionError("in the body")

    assert ask(run, application)[0] == b"HTTP/1.1 500 Internal Server Error"
    assert errors(caplog) == ["in the body"]


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), StopIteration("x")])
def test_what_would_stop_the_loop_does_not(
    run: Run, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    def application(environ: Environ, start_response: Start) -> list[bytes]:
        raise error

    assert ask(run, application)[0] == b"HTTP/1.1 500 Internal Server Error"
    assert len(errors(caplog)) == 1


def test_exc_info_replaces_a_head_that_is_not_sent(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    def application(environ: Environ, start_response: Start) -> Iterator[bytes]:
        start_response("200 OK", [("X-Kept", "no")])
        try:
            raise ZeroDivisionError
        except ZeroDivisionError:
            start_response("503 Sorry", TEXT, sys.exc_info())
        yield b"an apology"

    first, fields, body = ask(run, application)
    assert (first, body) == (b"HTTP/1.1 503 Service Unavailable", b"an apology")
    assert b"x-kept" not in fields
    assert errors(caplog) == []


def test_exc_info_is_raised_once_the_head_is_sent(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    def application(environ: Environ, start_response: Start) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        yield b"a"
        try:
            raise ZeroDivisionError("too late")
        except ZeroDivisionError:
            start_response("500 Sorry", TEXT, exc_info=sys.exc_info())
        yield b"never"

    async def test() -> None:
        async with serve(application) as arena:
            assert (await arena.exchange(GET)).endswith(b"\r\n1\r\na\r\n")  # cut off

    run(test())
    assert errors(caplog) == ["too late"]


def test_write(run: Run) -> None:
    def application(environ: Environ, start_response: Start) -> list[bytes]:
        write = start_response("200 OK", TEXT)
        write(b"one, ")
        write(b"")
        write(b"two, ")
        return [b"three"]

    assert ask(run, application)[2] == b"one, two, three"


def wrong(what: str) -> Any:
    def application(environ: Environ, start_response: Start) -> Any:
        match what:
            case "no start":
                return [b"x"]
            case "no body":
                start_response("200 OK", TEXT)
            case "bytes":
                start_response("200 OK", TEXT)
                return b"hello"
            case "text":
                start_response("200 OK", TEXT)
                return ["hello"]
            case "twice":
                start_response("200 OK", TEXT)
                start_response("200 OK", TEXT)
            case "status":
                start_response(200, TEXT)
            case _:
                start_response("200 OK", [(b"a", b"b")])
        return None

    return application


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("no start", "the application did not call start_response() before its body"),
        ("no body", "the application returned NoneType, not an iterable of bytes; is it ASGI?"),
        ("bytes", "the application returned bytes, not an iterable of bytes; return a list: "),
        ("text", "the application sent str, not bytes; encode it"),
        ("twice", "start_response() was called before; only exc_info allows it again"),
        ("status", "start_response(): the status is '200 OK' or alike, not 200"),
        ("fields", "start_response(): names and values are str, not (b'a', b'b')"),
    ],
)
def test_what_is_wrong_is_said(
    run: Run, caplog: pytest.LogCaptureFixture, what: str, said: str
) -> None:
    assert ask(run, wrong(what))[0] == b"HTTP/1.1 500 Internal Server Error"
    (message,) = errors(caplog)
    assert message.startswith(said)


def test_what_the_server_refuses_is_said_once(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    def application(environ: Environ, start_response: Start) -> Iterator[bytes]:
        start_response("200 OK", [("X-A", "split\r\nX-B: b")])
        for _ in range(100):  # more than fits between thread and loop
            yield b"x"

    assert ask(run, application)[0] == b"HTTP/1.1 500 Internal Server Error"
    (message,) = errors(caplog)
    assert "holds CR, LF or NUL" in message


def test_a_client_that_goes_frees_the_thread(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    bodies: list[Body] = []

    class Endless(Body):
        def __iter__(self) -> Iterator[bytes]:
            while True:
                yield bytes(65_536)

    def application(environ: Environ, start_response: Start) -> Any:
        start_response("200 OK", TEXT)
        if environ["PATH_INFO"] == "/":
            return [b"well"]
        bodies.append(Endless())
        return bodies[-1]

    def are_closed(count: int) -> bool:
        return [body.closed for body in bodies] == [1] * count

    async def test() -> None:
        async with serve(application, threads=1) as arena:
            for number in range(3):
                wire = await arena.connect()
                await wire.write(b"GET /endless HTTP/1.1\r\nHost: t\r\n\r\n")
                await wire.read_exactly(100_000)
                wire.close()
                await arena.eventually(
                    functools.partial(are_closed, number + 1), "the iterables are closed"
                )
            wire = await arena.connect()
            assert (await wire.get())[2] == b"well"

    run(test())
    assert errors(caplog) == []


def test_so_many_threads_and_no_more(run: Run) -> None:
    together = threading.Barrier(3)

    def application(environ: Environ, start_response: Start) -> list[bytes]:
        together.wait(PATIENCE_S)
        start_response("200 OK", TEXT)
        return [threading.current_thread().name.encode()]

    async def test() -> None:
        async with serve(application, threads=3) as arena:
            wires = [await arena.connect() for _ in range(6)]
            answers = await asyncio.gather(*(wire.get() for wire in wires))
            assert len({answer[2] for answer in answers}) <= 3

    run(test())


def test_a_drain_waits_for_the_thread(run: Run) -> None:
    running, go_on = threading.Event(), threading.Event()

    def application(environ: Environ, start_response: Start) -> list[bytes]:
        running.set()
        assert go_on.wait(PATIENCE_S)
        start_response("200 OK", TEXT)
        return [b"finished"]

    async def test() -> None:
        async with serve(application) as arena:
            wire = await arena.connect()
            await wire.write(GET)
            await asyncio.to_thread(running.wait, PATIENCE_S)
            drain = asyncio.ensure_future(arena.server.drain(10.0, successor=False))
            await arena.eventually(lambda: arena.server.draining, "it drains")
            go_on.set()
            assert (await wire.read_response())[2] == b"finished"
            await drain

    run(test())


def test_a_drain_does_not_wait_for_ever(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """A stream without end is stopped when the budget is spent; its thread ends, too."""
    bodies: list[Body] = []

    class Endless(Body):
        def __iter__(self) -> Iterator[bytes]:
            while True:
                yield b"x" * 1000

    def application(environ: Environ, start_response: Start) -> Body:
        start_response("200 OK", TEXT)
        bodies.append(Endless())
        return bodies[-1]

    async def read(wire: Wire) -> None:
        await wire.read_to_end()

    async def test() -> None:
        async with serve(application) as arena:
            wire = await arena.connect()
            await wire.write(GET)
            reader = asyncio.ensure_future(read(wire))
            await arena.eventually(lambda: bodies, "it streams")
            await arena.server.drain(0.5, successor=False)
            await reader
            await arena.eventually(lambda: bodies[0].closed, "the thread ends")

    run(test())


def test_a_file_is_read_in_large_pieces(run: Run) -> None:
    sizes: list[int] = []

    class File(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            sizes.append(size or 0)
            return super().read(size)

    file = File(bytes(MIB))

    def application(environ: Environ, start_response: Start) -> Any:
        start_response("200 OK", TEXT)
        return environ["wsgi.file_wrapper"](file, 4096)

    assert len(ask(run, application)[2]) == MIB
    assert min(sizes) >= 65_536
    assert file.closed


def test_a_websocket_is_refused(run: Run) -> None:
    request = lines(
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    )
    assert ask(run, facts, request)[0] == b"HTTP/1.1 403 Forbidden"


@pytest.mark.parametrize("kind", [concurrent.futures.CancelledError, asyncio.CancelledError])
def test_a_cancelled_future_of_the_application_is_its_own_error(
    run: Run, kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """Between threads it would look as if the request had been cancelled."""

    def application(environ: Environ, start_response: Start) -> list[bytes]:
        raise kind("of mine")

    assert b" 500 " in ask(run, application)[0]
    assert errors(caplog) == ["the application raised CancelledError('of mine')"]
    assert "of mine" in caplog.text.partition("Traceback")[2]
