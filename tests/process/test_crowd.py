"""The crowd must notice: servers that misbehave in every way it has a name for."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable

import pytest

from tests.process.tally import Book, Failure, Kind, Plan, Result
from tests.process.users import Question, User, Visitor, get
from tests.process.websocket_user import Talker

BODY = b"version=v1 slot=0 gen=1 pid=77\n"
RIGHT = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
LAST = RIGHT.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\n\r\n\x82" + bytes([len(BODY)]) + BODY
Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[object]]


def reset(writer: asyncio.StreamWriter) -> None:
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.close()


def replies(*answers: bytes | None) -> Behaviour:
    """Each of ``answers`` to one request, then the end; ``None`` resets the connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await reader.readuntil(b"\r\n\r\n")
            if answer is None:
                reset(writer)
                return
            writer.write(answer)
        writer.close()

    return serve


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


def says(*frames: bytes) -> Behaviour:
    """Shakes hands, then answers the first message with ``frames`` and the end."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(SWITCHED)
        await reader.read(6)
        writer.writelines(frames)
        writer.close()

    return serve


def visitor(book: Book) -> User:
    return Visitor(book, "kept-alive", 50, lambda: Question(get("/", keep=True)), keep=True)


def calm(book: Book) -> User:
    """One who has seen that the connection has ended before the next request is due."""
    return Visitor(book, "kept-alive", 1, lambda: Question(get("/", keep=True)), keep=True)


def talker(book: Book) -> User:
    return Talker(book, 50)


async def watched(
    behaviour: Behaviour | None, user: Callable[[Book], User], enough: Callable[[Result], object]
) -> Result:
    """What ``user`` has seen of a server with this behaviour, as soon as it is ``enough``.

    Only who asks a server that is silent gives up.
    """

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await (behaviour or silent)(reader, writer)
        with contextlib.suppress(ConnectionError):
            writer.close()
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    if behaviour is None:
        server.close()
    patience_s = 0.3 if behaviour is silent else 40.0
    plan = Plan(host="127.0.0.1", port=port, patience_s=patience_s)
    book = Book(plan, asyncio.get_running_loop())
    one = user(book)
    async with asyncio.timeout(40):
        while not enough(result := book.result()):
            await asyncio.sleep(0.01)
            one.look_at_the_clock(book.loop.time())
    book.leaving = True
    one.leave()
    server.close()
    if serving := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(serving, timeout=5)
    return result


HTTP: dict[Kind, Behaviour | None] = {
    Kind.REFUSED: None,
    Kind.RESET_FIRST: replies(None),
    Kind.RESET_KEPT: replies(RIGHT, None),
    Kind.CUT: replies(RIGHT[:-5]),
    Kind.TIMED_OUT: silent,
    Kind.WRONG_STATUS: replies(RIGHT.replace(b"200 OK", b"503 Service Unavailable")),
    Kind.WRONG_BODY: replies(RIGHT.replace(b"version", b"virsion")),
}
WEBSOCKET: dict[Kind, Behaviour | None] = {
    Kind.REFUSED: None,
    Kind.RESET_FIRST: replies(None),
    Kind.WRONG_STATUS: replies(RIGHT),
    Kind.WEBSOCKET_CLOSED: says(b"\x88\x02\x03\xf3"),
    Kind.WEBSOCKET_LOST: says(),
    Kind.TIMED_OUT: silent,
    Kind.WRONG_BODY: says(b"\x81\x01?"),
}


@pytest.mark.parametrize("kind", HTTP, ids=lambda kind: kind.name)
def test_every_failure_of_a_request_has_its_name(kind: Kind) -> None:
    result = asyncio.run(watched(HTTP[kind], visitor, lambda seen: seen.lost))
    assert set(result.failed) == {kind}
    assert {one.pid for one in result.failures} == {77 if kind is Kind.RESET_KEPT else 0}
    assert str(kind) in result.table("test")


@pytest.mark.parametrize("kind", WEBSOCKET, ids=lambda kind: kind.name)
def test_every_failure_of_a_websocket_has_its_name(kind: Kind) -> None:
    result = asyncio.run(watched(WEBSOCKET[kind], talker, lambda seen: seen.lost))
    assert set(result.failed) == {kind}


@pytest.mark.parametrize("answer", [LAST, RIGHT], ids=["announced", "unannounced"])
def test_a_connection_closed_between_two_requests_is_no_failure(answer: bytes) -> None:
    result = asyncio.run(watched(replies(answer), calm, lambda seen: seen.reconnects > 2))
    assert result.lost == 0
    assert result.answers > 2
    assert result.versions == {"v1": result.answers}
    assert not result.unnoticed
    assert result.opened["kept-alive"] >= result.reconnects > 2
    assert len(result.reconnected_beyond({})) == result.reconnects
    assert not result.reconnected_beyond(dict(enumerate(result.reconnected_at)))


def test_a_websocket_closed_with_1012_is_no_failure() -> None:
    result = asyncio.run(watched(says(b"\x88\x02\x03\xf4"), talker, lambda seen: seen.renewals > 2))
    assert result.lost == 0
    assert result.interrupted == result.renewals


def test_what_a_death_explains() -> None:
    def failure(kind: Kind, pid: int, at: float) -> Failure:
        return Failure(kind, "", pid, at, "")

    of_the_dead = failure(Kind.CUT, 7, 900.0)
    of_nobody_then = failure(Kind.RESET_FIRST, 0, 10.1)
    of_one_who_gave_it_away = failure(Kind.RESET_KEPT, 8, 10.1)
    others = (
        failure(Kind.CUT, 8, 12.0),
        failure(Kind.RESET_FIRST, 0, 12.0),
        failure(Kind.TIMED_OUT, 7, 10.0),
        failure(Kind.REFUSED, 0, 10.0),
    )
    failures = (of_the_dead, of_nobody_then, of_one_who_gave_it_away, *others)
    empty = asyncio.run(watched(replies(RIGHT), visitor, lambda seen: seen.answers))
    counted = {kind: sum(one.kind is kind for one in failures) for kind in Kind}
    result = Result(
        **{
            **{name: getattr(empty, name) for name in Result.__struct_fields__},
            "failed": counted,
            "failures": failures,
        }
    )
    assert result.beyond({7: 10.0}) == list(others)
