"""A worker that leaves: its connections go on in others, and their clients notice nothing."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from asgi_worker.application import Application, Receive, Scope, Send
from asgi_worker.draining import FORLORN_S
from asgi_worker.inbox import VERSION, Handed, Kind
from asgi_worker.scoreboard import Word
from asgi_worker.server import Server
from tests.worker.conftest import Run
from tests.worker.fleet import Fleet, open_files, served_by, whose


def leave(server: Server, budget_s: float = 20.0) -> asyncio.Task[None]:
    return asyncio.create_task(server.drain(budget_s, successor=True))


def test_idle_connections_go_on_elsewhere(run: Run) -> None:
    async def test() -> None:
        async with Fleet(whose) as fleet:
            unused, *wires = [await fleet.connect() for _ in range(10)]
            assert [await served_by(wire) for wire in wires] == [0] * 9
            files = open_files()
            began = time.monotonic()
            await fleet.servers[0].drain(20, successor=True)
            assert time.monotonic() - began < 2, "nobody had to be waited for"
            for _ in range(2):
                assert [await served_by(wire) for wire in (unused, *wires)] == [1] * 10
            assert open_files() <= files, "what was given is closed here"
            before, after = fleet.reading(0), fleet.reading(1)
            assert (before.given_idle, before.connections, before.takes) == (10, 0, 0)
            assert (after.taken_idle, after.connections, after.takes) == (10, 10, VERSION)
            assert before.given_fresh == after.taken_fresh == after.rescued == 0

    run(test())


@pytest.mark.parametrize("successor", [False, True])
def test_what_was_given_to_one_that_has_just_left_is_taken_back(run: Run, successor: bool) -> None:
    """Who gives looks first whether the other takes; by the time it is given that may be over."""

    async def test() -> None:
        async with Fleet(whose) as fleet:
            wire = await fleet.connect()
            assert await served_by(wire) == 0
            giver, taker = fleet.servers[0], fleet.servers[1]
            await taker.drain(5, successor=False)
            fleet.pretend(1)
            assert giver.handoff is not None
            giver.handoff.evacuate()
            assert not giver.connections
            fleet.pretend(1, takes=0)
            drain = asyncio.create_task(giver.drain(5, successor=successor))
            line, _, body = await wire.get()
            assert (line, body) == (b"HTTP/1.1 200 OK", b"0")
            await drain
            assert fleet.inboxes.waiting(1) == 0

    run(test())


def gated(path: str) -> tuple[asyncio.Event, asyncio.Event, Application]:
    """An application that waits at ``path``: what it says when it is there, what it waits for."""
    there, gate = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == path:
            there.set()
            await gate.wait()
        await whose(scope, receive, send)

    return there, gate, app


HALVES = {
    "half a head": (b"GET /2 HTTP/1.1\r\nHo", b"st: test\r\n\r\n", b"0"),
    "the first letter": (b"G", b"ET /2 HTTP/1.1\r\nHost: test\r\n\r\n", b"0"),
    "half an unknown method": (b"QUE", b"RY /2 HTTP/1.1\r\nHost: test\r\n\r\n", b"0"),
    "an upload": (
        b"POST /2 HTTP/1.1\r\nHost: test\r\nContent-Length: 8\r\n\r\nbo",
        b"dy-bod",
        b"0body-bod",
    ),
    "a chunked upload": (
        b"PUT /2 HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbo",
        b"dy\r\n0\r\n\r\n",
        b"0body",
    ),
    "a body to be continued": (
        b"POST /2 HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n",
        b"body",
        b"0body",
    ),
}


@pytest.mark.parametrize("what", HALVES)
def test_what_has_begun_ends_where_it_began(run: Run, what: str) -> None:
    first, rest, expected = HALVES[what]

    async def test() -> None:
        async with Fleet(whose) as fleet:
            wire = await fleet.connect()
            assert await served_by(wire) == 0
            await wire.write(first)
            if b"Expect" in first:
                await wire.read_until(b"100 Continue\r\n\r\n")
            else:
                (connection,) = fleet.servers[0].connections
                reader = connection.reader  # type: ignore[attr-defined]
                begun = lambda: not reader.is_between_requests()  # noqa: E731
                await fleet.eventually(begun, "it has come")
            leaving = leave(fleet.servers[0])
            await asyncio.sleep(0.2)
            assert not leaving.done()
            assert fleet.reading(0).given_idle == 0
            await wire.write(rest)
            _, fields, body = await wire.read_response()
            assert (body, b"connection" in fields) == (expected, False)
            await leaving
            assert await served_by(wire) == 1

    run(test())


def test_a_running_request_is_answered_before_its_connection_goes(run: Run) -> None:
    there, gate, app = gated("/slow")

    async def test() -> None:
        async with Fleet(app) as fleet:
            wire = await fleet.connect()
            await wire.write(b"GET /slow HTTP/1.1\r\nHost: test\r\n\r\n")
            await there.wait()
            leaving = leave(fleet.servers[0])
            await asyncio.sleep(0.2)
            assert not leaving.done()
            gate.set()
            _, fields, body = await wire.read_response()
            assert (body, b"connection" in fields) == (b"0", False)
            await leaving
            assert await served_by(wire) == 1

    run(test())


def test_a_busy_connection_goes_after_the_first_response(run: Run) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.1)
        await whose(scope, receive, send)

    async def test() -> None:
        async with Fleet(app) as fleet:
            wire = await fleet.connect()
            assert await served_by(wire) == 0
            leaving = leave(fleet.servers[0])
            await asyncio.sleep(0)
            servers = [await served_by(wire) for _ in range(6)]
            assert servers in ([0, 1, 1, 1, 1, 1], [1] * 6)
            await leaving

    run(test())


def test_requests_that_came_together_are_answered_together(run: Run) -> None:
    there, gate, app = gated("/slow")

    async def test() -> None:
        async with Fleet(app, pipeline_max_requests=2) as fleet:
            wire = await fleet.connect()
            paths = ("/slow", *("/more",) * 6)
            heads = [f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n" for path in paths]
            await wire.write("".join(heads).encode())
            await there.wait()
            leaving = leave(fleet.servers[0])
            await asyncio.sleep(0.2)
            gate.set()
            answers = [await wire.read_response() for _ in heads]
            assert [body for _, _, body in answers] == [b"0"] * len(heads)
            assert not any(b"connection" in fields for _, fields, _ in answers)
            await leaving
            assert await served_by(wire) == 1

    run(test())


def test_a_long_upload_is_read_to_its_end_and_what_follows_it_too(run: Run) -> None:
    body = bytes(range(256)) * 400

    async def test() -> None:
        async with Fleet(whose) as fleet:
            wire = await fleet.connect()
            head = b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n" % len(body)
            await wire.write(head + body[:-1])
            await fleet.eventually(lambda: fleet.servers[0].tasks, "it is called")
            leaving = leave(fleet.servers[0])
            await asyncio.sleep(0.2)
            assert not leaving.done()
            await wire.write(body[-1:] + b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            for expected in (b"0" + body, b"0"):
                _, fields, received = await wire.read_response()
                assert (received, b"connection" in fields) == (expected, False)
            await leaving
            assert await served_by(wire) == 1

    run(test())


def test_a_response_that_is_not_read_yet_keeps_its_connection(run: Run) -> None:
    body = bytes(range(256)) * 65536

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/big":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": body})
        else:
            await whose(scope, receive, send)

    async def test() -> None:
        async with Fleet(app) as fleet:
            wire = await fleet.connect()
            await wire.write(b"GET /big HTTP/1.1\r\nHost: test\r\n\r\n")
            await fleet.eventually(lambda: fleet.servers[0].requests == 1, "it is answered")
            leaving = leave(fleet.servers[0])
            await asyncio.sleep(0.2)
            assert not leaving.done()
            assert (await wire.read_response())[2] == body
            await leaving
            assert await served_by(wire) == 1

    run(test())


def test_the_time_for_the_next_request_goes_along(run: Run) -> None:
    async def test() -> None:
        async with Fleet(whose, keep_alive_timeout_s=3.0) as fleet:
            wire = await fleet.connect()
            await served_by(wire)
            await asyncio.sleep(1.5)
            (connection,) = fleet.servers[0].connections
            deadline = connection.deadline
            await fleet.servers[0].drain(20, successor=True)
            await fleet.eventually(lambda: fleet.servers[1].connections, "it came")
            (connection,) = fleet.servers[1].connections
            assert deadline <= connection.deadline < deadline + 1, "later only after a lag"
            assert await wire.read_to_end() == b""

    run(test())


def test_what_comes_on_the_way_is_served_at_the_end_of_it(run: Run) -> None:
    """Also by a worker that finds it in its inbox when it starts, as after a crash."""

    async def test() -> None:
        async with Fleet(whose, workers=1, keep_alive_timeout_s=0.3) as fleet:
            wire, closed, late = [await fleet.connect() for _ in range(3)]
            for one in (wire, closed, late):
                await served_by(one)
            fleet.pretend(2)
            await fleet.servers[0].drain(20, successor=True)
            assert fleet.inboxes.waiting(2) == 3
            await wire.write(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            closed.close()
            await asyncio.sleep(0.5)  # and for longer than it would have been kept
            began = time.monotonic()
            server = fleet.start(2)
            await fleet.eventually(lambda: len(server.connections) >= 2, "they came")
            assert all(it.deadline > began for it in server.connections), "a moment to be read"
            assert (await wire.read_response())[2] == b"2"
            assert await late.read_to_end() == b""
            await fleet.eventually(lambda: fleet.reading(2).connections <= 1, "the end went along")
            assert fleet.reading(2).taken_idle == 3

    run(test())


def test_where_there_is_no_room_they_stay_until_there_is(run: Run) -> None:
    async def test() -> None:
        async with Fleet(whose, workers=1) as fleet:
            wire = await fleet.connect()
            assert await served_by(wire) == 0
            fleet.pretend(2)
            fleet.fill(2)
            leaving = leave(fleet.servers[0])
            for _ in range(3):
                await asyncio.sleep(0.1)
                assert await served_by(wire) == 0
            for _, sock in fleet.take(2):
                sock.close()
            await leaving
            ((handed, sock),) = fleet.take(2)
            assert handed.kind is Kind.IDLE
            with sock:
                sock.sendall(b"x")
                assert await wire.read_exactly(1) == b"x"

    run(test())


def test_nobody_is_given_more_than_it_has_room_for(run: Run) -> None:
    async def test() -> None:
        async with Fleet(whose, limit_concurrency=20) as fleet:
            wires = [await fleet.connect(number % 2) for number in range(30)]
            for wire in wires:
                await served_by(wire)
            leaving = leave(fleet.servers[0])
            await fleet.eventually(lambda: fleet.reading(1).connections == 20, "it is full")
            assert sorted([await served_by(wire) for wire in wires]) == [0] * 10 + [1] * 20
            fleet.start(2)
            await leaving
            assert sorted([await served_by(wire) for wire in wires]) == [1] * 20 + [2] * 10

    run(test())


@pytest.mark.parametrize("takes", [0, VERSION + 1])
def test_without_anybody_who_takes_the_close_is_announced(run: Run, takes: int) -> None:
    async def test() -> None:
        async with Fleet(whose, workers=1) as fleet:
            wire, idle = [await fleet.connect() for _ in range(2)]
            await served_by(wire)
            await served_by(idle)
            fleet.pretend(2, takes)
            leaving = leave(fleet.servers[0])
            await asyncio.sleep(FORLORN_S / 2)
            assert await served_by(wire) == 0, "somebody may still come"
            await fleet.eventually(lambda: not fleet.servers[0].moving, "nobody will")
            _, fields, _ = await wire.get()
            assert fields[b"connection"] == b"close"
            assert await wire.read_to_end() == b""
            assert await idle.read_to_end() == b""
            await leaving
            assert fleet.take(2) == []

    run(test())


def test_who_has_no_time_at_the_moment_is_waited_for(run: Run) -> None:
    async def test() -> None:
        async with Fleet(whose, workers=1) as fleet:
            wire = await fleet.connect()
            board = fleet.pretend(2)
            board[Word.PROMISE_NS] = 1
            leaving = leave(fleet.servers[0])
            for _ in range(3):
                assert await served_by(wire) == 0
                await asyncio.sleep(FORLORN_S / 2)
            assert not fleet.inboxes.waiting(2)
            fleet.pretend(2)
            await leaving
            ((handed, sock),) = fleet.take(2)
            assert handed.kind is Kind.IDLE
            sock.close()

    run(test())


def test_near_the_end_of_the_budget_the_close_is_announced(run: Run) -> None:
    async def test() -> None:
        async with Fleet(whose, workers=1) as fleet:
            wire = await fleet.connect()
            assert await served_by(wire) == 0
            fleet.pretend(2)
            fleet.fill(2)
            leaving = leave(fleet.servers[0], 5.0)
            assert await served_by(wire) == 0
            await fleet.eventually(lambda: not fleet.servers[0].moving, "its time is nearly over")
            assert not leaving.done()
            _, fields, _ = await wire.get()
            assert fields[b"connection"] == b"close"
            await leaving

    run(test())


@pytest.mark.parametrize("seat", [0, 2])
def test_who_cannot_serve_it_to_its_end_leaves_it_to_others(run: Run, seat: int) -> None:
    """Both are looked after by others: its own inbox and that of one that is just starting."""
    told = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        told.set()
        await asyncio.Event().wait()

    async def test() -> None:
        async with Fleet(app) as fleet:
            busy = await fleet.connect()
            await busy.write(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            await fleet.eventually(lambda: fleet.servers[0].tasks, "it runs")
            leaving = leave(fleet.servers[0], 1.0)
            await told.wait()
            with socket.create_connection(fleet.listeners[2].getsockname()):
                accepted, _ = fleet.listeners[2].accept()
                with accepted:
                    assert fleet.inboxes.give(seat, Handed(Kind.FRESH), accepted.fileno())
                await leaving
                assert fleet.inboxes.waiting(seat) == 1
                assert fleet.reading(0).taken_fresh == 0
                for _, sock in fleet.take(seat):
                    sock.close()

    run(test())


def test_when_the_service_stops_nothing_moves_and_the_inbox_is_served(run: Run) -> None:
    async def test() -> None:
        async with Fleet(whose, workers=1) as fleet:
            wires = [await fleet.connect() for _ in range(3)]
            for wire in wires:
                await served_by(wire)
            fleet.pretend(2)
            await fleet.servers[0].drain(20, successor=True)
            last = fleet.start(2)
            fleet.pretend(1)
            stopping = asyncio.create_task(last.drain(20, successor=False))
            for wire in wires:
                _, fields, body = await wire.get()
                assert (body, fields[b"connection"]) == (b"2", b"close")
            await stopping
            assert fleet.take(1) == []

    run(test())


def test_what_arrives_while_it_leaves_goes_on(run: Run) -> None:
    there, gate, app = gated("/slow")

    async def test() -> None:
        async with Fleet(app, workers=3) as fleet:
            slow = await fleet.connect(1)
            await slow.write(b"GET /slow HTTP/1.1\r\nHost: test\r\n\r\n")
            await there.wait()
            idle = await fleet.connect(0)
            await served_by(idle)
            leaving = leave(fleet.servers[1])
            await fleet.eventually(lambda: fleet.reading(1).takes == 0, "it leaves")
            fleet.pretend(1)  # who gives has looked before that
            for wire in [await fleet.connect(2) for _ in range(3)]:
                await served_by(wire)  # so that the emptiest is the one that leaves
            leaving_too = leave(fleet.servers[0])
            await leaving_too
            fleet.scoreboard.writer(1)[Word.TAKES] = 0
            assert await served_by(idle) == 2
            gate.set()
            assert (await slow.read_response())[2] == b"1"
            await leaving
            assert fleet.reading(1).taken_idle == 1
            assert fleet.reading(1).given_idle == 2

    run(test())


def test_what_is_no_plain_request_any_more_stays(run: Run) -> None:
    """A WebSocket is closed, for its client to come again; what lingers is closed in its time."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await whose(scope, receive, send)
            return
        await receive()
        await send({"type": "websocket.accept"})
        assert await receive() == {"type": "websocket.disconnect", "code": 1012, "reason": ""}

    upgrade = "Connection: upgrade\r\nUpgrade: "
    websocket = "websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + "x" * 22 + "=="
    head = "GET / HTTP/1.1\r\nHost: test\r\n"

    async def test() -> None:
        async with Fleet(app) as fleet:
            socket, other, wrong = [await fleet.connect() for _ in range(3)]
            await socket.write(f"{head}{upgrade}{websocket}\r\n\r\n".encode())
            assert b"101 Switching" in await socket.read_until(b"\r\n\r\n")
            await other.write(f"{head}{upgrade}h2c\r\n\r\n".encode())
            assert (await other.read_response())[2] == b"0"
            await wrong.write(b"GET / HTTP/1.1\r\n\r\n")
            assert (await wrong.read_response())[0] == b"HTTP/1.1 400 Bad Request"
            leaving = leave(fleet.servers[0])
            assert await socket.read_exactly(4) == b"\x88\x02\x03\xf4"
            socket.close()
            await leaving
            assert await wrong.read_to_end() == b""
            assert await served_by(other) == 1
            assert fleet.reading(0).given_idle == fleet.reading(1).taken_idle == 1

    run(test())


def test_old_clients_and_closing_ones_are_served_as_ever(run: Run) -> None:
    _there, gate, app = gated("/slow")

    async def test() -> None:
        async with Fleet(app) as fleet:
            kept, last = [await fleet.connect() for _ in range(2)]
            head = "GET /slow HTTP/{}\r\nHost: test\r\nConnection: {}\r\n\r\n"
            await kept.write(head.format("1.0", "keep-alive").encode())
            await last.write(head.format("1.1", "close").encode())
            await fleet.eventually(lambda: len(fleet.servers[0].tasks) == 2, "both run")
            leaving = leave(fleet.servers[0])
            await asyncio.sleep(0.1)
            gate.set()
            _, fields, _ = await kept.read_response()
            assert fields[b"connection"] == b"keep-alive"
            _, fields, _ = await last.read_response()
            assert fields[b"connection"] == b"close"
            assert await last.read_to_end() == b""
            await leaving
            assert await served_by(kept) == 1

    run(test())
