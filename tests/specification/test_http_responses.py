"""HTTP & WebSocket specification 2.5: HTTP responses.

How they are delimited is RFC 9112's business and ours.
"""

from __future__ import annotations

import asyncio
import http
import logging

import pytest

from asgi_worker.application import Message, Receive, Send
from tests.specification.asking import (
    START,
    Told,
    acting,
    answer,
    content,
    fields,
    left,
    piece,
    refusal,
    request,
    sends,
)
from tests.worker.conftest import Run
from tests.worker.serving import Arena


def test_needs_a_body(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """Response Start: needs to be followed by at least one response content message.

    An application that returns before is answered for with 500, and logged.
    """
    assert answer(run, sends(START)).startswith(b"HTTP/1.1 500 ")
    assert "returned without completing its response" in caplog.text


def test_the_head_waits(run: Run) -> None:
    """Response Start: need not be flushed until the first *Response Body*.

    The head is kept until then, so that an error in between can be answered with 500.
    """

    async def act(receive: Receive, send: Send) -> None:
        await send(START)
        raise ValueError("in between")

    assert answer(run, acting(act)).startswith(b"HTTP/1.1 500 ")


def test_transfer_encoding(run: Run) -> None:
    """Response Start: a ``Transfer-Encoding`` header must be ignored.

    Left out, whatever it says, as is ``Connection`` (but ``close`` is obeyed): both are about the
    connection, not the response.
    """
    headers = [(b"transfer-encoding", b"chunked"), (b"Transfer-Encoding", b"gzip"), (b"x", b"y")]
    got = answer(run, sends({**START, "headers": headers}, piece(b"hello")))
    assert fields(got) == [b"x: y", b"content-length: 5"]
    assert content(got) == b"hello"


def test_chunked(run: Run) -> None:
    """Response Start: a response without ``Content-Length`` may be sent in chunks.

    In HTTP/1.1, unless it is complete in its first message, which then gives the length.
    """
    parts = piece(b"one ", more=True), piece(b"two")
    assert b"content-length: 3\r\n" in answer(run, sends(START, piece(b"one")))
    got = answer(run, sends(START, *parts))
    assert fields(got) == [b"transfer-encoding: chunked"]
    assert content(got) == b"4\r\none \r\n3\r\ntwo\r\n0\r\n\r\n"
    old = answer(run, sends(START, *parts), b"GET / HTTP/1.0\r\n\r\n")
    assert (fields(old), content(old)) == ([], b"one two")


def test_content_encoding(run: Run) -> None:
    """Response Start: the application controls ``Content-Encoding``.

    No body is compressed or looked into.
    """
    asked = request("/", "Accept-Encoding: gzip, br")
    start = {**START, "headers": [(b"content-encoding", b"gzip")]}
    got = answer(run, sends(start, piece(b"as it is")), asked)
    assert fields(got) == [b"content-encoding: gzip", b"content-length: 8"]
    assert content(got) == b"as it is"
    assert b"encoding" not in answer(run, sends(START, piece(b"plain" * 1000)), asked)


@pytest.mark.parametrize("status", [200, 201, 404, 418, 500, 599, http.HTTPStatus.ACCEPTED])
def test_status(run: Run, status: int) -> None:
    """Response Start: ``status`` is the HTTP status code.

    Any final one, from 200 to 999; the reason phrase is that of the registry.
    """
    got = answer(run, sends({**START, "status": status}, piece()))
    assert got.startswith(b"HTTP/1.1 %d " % status)
    assert "199" in str(refusal(run, {**START, "status": 199}))


def test_order_of_headers(run: Run) -> None:
    """Response Start: the order of ``headers`` must be preserved.

    They are the first of the response, as they were given; ours follow.
    """
    headers = [(b"x-b", b"1"), (b"x-a", b"2"), (b"x-b", b"3"), (b"x-a", b"\xe9")]
    got = answer(run, sends({**START, "headers": headers}, piece()))
    assert fields(got)[:4] == [b"x-b: 1", b"x-a: 2", b"x-b: 3", b"x-a: \xe9"]


def test_set_cookie(run: Run) -> None:
    """HTTP: ``Set-Cookie`` may appear repeatedly and cannot be joined.

    No header of a response is ever joined with another.
    """
    headers = [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]
    got = answer(run, sends({**START, "headers": headers}, piece()))
    assert fields(got)[:2] == [b"set-cookie: a=1", b"set-cookie: b=2"]


@pytest.mark.parametrize("kind", [list, tuple, iter])
def test_headers_are_iterable(run: Run, kind: type) -> None:
    """Response Start: ``headers`` is an iterable of two-item iterables.

    Any iterable, read once; pairs may be lists or tuples. Names go out as they were given.
    """
    start = {**START, "headers": kind([[b"x-list", b"1"], (b"X-Tuple", b"2")])}
    assert fields(answer(run, sends(start, piece())))[0:1] == [b"x-list: 1"]


def test_headers_are_optional(run: Run) -> None:
    """Response Start: ``headers`` is optional.

    Without them there are only ours: ``date``, ``server`` (see ``--no-date-header``,
    ``--no-server-header``) and those that delimit the response.
    """
    start = {"type": "http.response.start", "status": 200}
    assert fields(answer(run, sends(start, piece(b"hello")))) == [b"content-length: 5"]


def test_pseudo_headers(run: Run) -> None:
    """Response Start: pseudo headers must not be present.

    A name that is no token is an error of the message.
    """
    assert "is not a token" in str(refusal(run, {**START, "headers": [(b":status", b"200")]}))


TRAILERS: Message = {"type": "http.response.trailers", "headers": [(b"x-sum", b"1")]}


def test_trailers_are_waited_for(run: Run) -> None:
    """Response Start: if ``trailers`` is true, the server must wait for them after the body.

    Whether the client takes them or not: before, the response is not complete.
    """

    async def act(receive: Receive, send: Send) -> None:
        await send({**START, "trailers": True})
        await send(piece(b"hello"))
        watch = asyncio.ensure_future(receive())
        await asyncio.sleep(0.02)
        assert watch.done() is False
        await send(TRAILERS)
        assert (await watch)["type"] == "http.disconnect"

    async def reads(receive: Receive, send: Send) -> None:
        await receive()
        await act(receive, send)

    app = Told(reads)
    for lines in ((), ("TE: trailers",)):
        got = answer(run, app, request("/", *lines))
        assert app.error is None
        assert (b"x-sum: 1" in got) is bool(lines)


def test_trailers_are_not_expected(run: Run) -> None:
    """Response Start: ``trailers`` is optional and defaults to false.

    Then the last *Response Body* completes the response.
    """
    got = answer(run, sends(START, piece(b"hello"), TRAILERS), request("/", "TE: trailers"))
    assert content(got) == b"hello"


# Response Body


def test_flush(run: Run) -> None:
    """Response Body: data must be flushed into the send buffer before ``send()`` returns.

    Pieces up to 16 KiB leave together in one write at the end of the turn of the loop, larger ones
    at once; nothing waits for more data or a timer.
    """

    async def test() -> None:
        small, large = asyncio.Event(), asyncio.Event()

        async def act(receive: Receive, send: Send) -> None:
            await send(START)
            await send(piece(b"first", more=True))
            await small.wait()
            await send(piece(bytes(20_000), more=True))
            await large.wait()
            await send(piece())

        async with Arena(acting(act)) as arena:
            wire = await arena.connect()
            await wire.write(request())
            await wire.read_until(b"5\r\nfirst\r\n")
            small.set()
            await wire.read_until(b"4e20\r\n")
            await wire.read_exactly(20_000)
            large.set()
            await wire.read_to_end()

    run(test())


def test_completes(run: Run) -> None:
    """Response Body: a false ``more_body`` completes the response.

    The last chunk is written or the length reached, and the next request served, even while the
    application goes on.
    """

    async def act(receive: Receive, send: Send) -> None:
        await send(START)
        await send(piece(b"done"))
        await asyncio.sleep(0.05)

    async def test() -> None:
        async with Arena(acting(act)) as arena:
            wire = await arena.connect()
            assert (await wire.get())[2] == b"done"
            assert arena.server.tasks
            assert (await wire.get())[2] == b"done"
            assert len(arena.server.tasks) > 0

    run(test())


def test_concatenated(run: Run) -> None:
    """Response Body: the parts of a body are concatenated.

    In the order of the calls, whatever their sizes; bytes are neither changed nor added.
    """
    parts = [bytes([number]) * (number * 999) for number in range(60)]
    whole = b"".join(parts)
    start = {**START, "headers": [(b"content-length", b"%d" % len(whole))]}
    messages = [piece(part, more=True) for part in parts]
    assert content(answer(run, sends(start, *messages, piece()))) == whole


@pytest.mark.parametrize("message", [{}, {"body": b""}, {"more_body": False}], ids=str)
def test_defaults(run: Run, message: Message) -> None:
    """Response Body: ``body`` is optional and empty, ``more_body`` optional and false.

    ``{"type": "http.response.body"}`` completes a response.
    """
    app = sends(START, piece(b"hello", more=True), {"type": "http.response.body", **message})
    assert content(answer(run, app)) == b"5\r\nhello\r\n0\r\n\r\n"


def test_ignored(run: Run) -> None:
    """Response Body: further messages on a complete response are ignored.

    All of them, without an error.
    """
    app = sends(START, piece(b"hello"), piece(b"more"), START, {"type": "http.response.no"})
    assert content(answer(run, app)) == b"hello"


# Disconnected Client - send exception


async def waits_and_sends(receive: Receive, send: Send) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    await send(START)


def test_oserror(run: Run) -> None:
    """Disconnected Client: ``send()`` on a closed connection should raise a kind of ``OSError``.

    ``ClientDisconnected``, a subclass of our own, for every message but those after a complete
    response.
    """
    app = Told(waits_and_sends)

    async def test() -> None:
        async with left(app, request(close=False)) as (_, wire):
            wire.close()
        assert isinstance(app.error, OSError)
        assert type(app.error) is not OSError

    run(test())


@pytest.mark.parametrize("how", ["lets it through", "catches it", "raises from it", "in a group"])
def test_it_is_not_logged(run: Run, how: str, caplog: pytest.LogCaptureFixture) -> None:
    """Disconnected Client: servers catch this exception and should not log it as an error.

    However the application passes it on: as it is, as the cause of another, in a group, or by
    returning without having answered.
    """

    async def act(receive: Receive, send: Send) -> None:
        try:
            await waits_and_sends(receive, send)
        except OSError as error:
            if how == "lets it through":
                raise
            if how == "raises from it":
                raise RuntimeError("of a framework") from error
            if how == "in a group":
                raise ExceptionGroup("of tasks", [error]) from None

    async def test() -> None:
        async with left(Told(act), request(close=False)) as (_, wire):
            wire.close()

    run(test())
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]
