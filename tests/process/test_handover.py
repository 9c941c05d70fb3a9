"""Connections that are kept alive change their worker between two requests, and only there.

In each reload here one worker is replaced by one other, so it is known who has to answer what.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import socket
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.process.boards import Board
from tests.process.callers import Caller, get, shares, websockets
from tests.process.fronts import FAMILIES, Front, serving_on
from tests.process.loaded import kill, stopped
from tests.process.service import OUTCOME, leaves, state, until
from tests.process.websocket_user import CLOSE, next_frame

pytestmark = pytest.mark.process

AT_ONCE = ("--bake-time", "0")
PIECE = random.Random(7).randbytes(40_000)


@contextlib.contextmanager
def one_worker(*words: str, family: str = "tcp") -> Iterator[Front]:
    with serving_on(family, *AT_ONCE, *words, workers=1) as front:
        yield front


def replaced(front: Front) -> tuple[int, int]:
    """Reload, and wait until the old worker is about to leave; both pids, the old one first."""
    service = front.service
    (old,) = service.workers().values()
    service.hang_up()
    new = service.ready()[1]
    until(lambda: leaves(old), "the old one leaves")
    return old, new


def until_gone(front: Front, old: int) -> None:
    front.service.wait_line(rf"pid={old} exited with status 0")
    front.service.wait_line(OUTCOME, anywhere=True)


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("family", FAMILIES)
def test_idle_connections_stay_open_over_reloads(family: str, loop: str) -> None:
    with one_worker("--loop", loop, family=family) as front, contextlib.ExitStack() as stack:
        callers = [stack.enter_context(Caller(front.address)) for _ in range(50)]
        assert {caller.ask().generation for caller in callers} == {1}
        for _ in range(2):
            old, new = replaced(front)
            until_gone(front, old)
            assert shares([caller.ask() for caller in callers]) == {new: len(callers)}
            assert Board(front.service).total("taken_idle") == len(callers)


class Cut(NamedTuple):
    """What is sent before a reload begins, and what after, and what has to be logged between."""

    before: bytes
    after: bytes
    begun: str
    answers: int


UPLOAD = get("/told-upload", f"Content-Length: {2 * len(PIECE)}\r\n")
CHUNKED = get("/told-upload", "Transfer-Encoding: chunked\r\n")
CHUNK = b"%x\r\n%s\r\n" % (len(PIECE), PIECE)
SLOW = get("/slow/1")
BEGINS = "slow request begins"
CUTS = {
    "upload": Cut(UPLOAD + PIECE, PIECE, "upload begins", 1),
    "chunked upload": Cut(CHUNKED + CHUNK, CHUNK + b"0\r\n\r\n", "upload begins", 1),
    "chunk": Cut(CHUNKED + CHUNK[:-9000], CHUNK[-9000:] + CHUNK + b"0\r\n\r\n", "upload begins", 1),
    "half a head": Cut(SLOW[:12], SLOW[12:], "", 1),
    "head of the next": Cut(get("/") + SLOW[:12], SLOW[12:], "", 2),
    "pipelined": Cut(SLOW + get("/") * 3, b"", BEGINS, 4),
    "pipelined and half a head": Cut(SLOW + get("/") + SLOW[:12], SLOW[12:], BEGINS, 3),
    "request": Cut(SLOW, b"", BEGINS, 1),
}


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("kind", CUTS)
def test_what_has_begun_is_finished_where_it_began(kind: str, loop: str) -> None:
    cut = CUTS[kind]
    with one_worker("--loop", loop) as front, Caller(front.address) as caller:
        caller.ask()
        caller.send(cut.before)
        if cut.begun:
            front.service.wait_line(cut.begun)
        elif cut.answers > 1:
            caller.answer()
        caller.until_read()
        old, new = replaced(front)
        caller.send(cut.after)
        due = cut.answers - (not cut.begun and cut.answers > 1)
        assert shares([caller.answer() for _ in range(due)]) == {old: due}
        until(lambda: caller.ask().pid == new, "it has moved", within_s=5)
        until_gone(front, old)
        assert caller.ask().pid == new


def test_an_upload_is_whole_though_its_worker_was_replaced() -> None:
    with one_worker() as front, Caller(front.address) as caller:
        caller.send(UPLOAD + PIECE)
        front.service.wait_line("upload begins")
        replaced(front)
        caller.send(PIECE)
        head, body = caller.response()
    assert head.startswith(b"HTTP/1.1 200 ")
    assert body.split()[0].decode() == hashlib.sha256(PIECE * 2).hexdigest()


@pytest.mark.parametrize("path", ["/told-upload", "/late-upload"])
def test_who_waits_for_a_100_is_not_moved(path: str) -> None:
    head = get(path, f"Content-Length: {len(PIECE)}\r\nExpect: 100-continue\r\n")
    with one_worker() as front, Caller(front.address) as caller:
        caller.ask()
        caller.send(head)
        front.service.wait_line("upload begins")
        if path == "/told-upload":
            assert caller.response()[0].startswith(b"HTTP/1.1 100 ")
        old, new = replaced(front)
        if path == "/late-upload":
            assert caller.response()[0].startswith(b"HTTP/1.1 100 ")
        caller.send(PIECE)
        assert caller.answer().pid == old
        until(lambda: caller.ask().pid == new, "it has moved", within_s=5)


@pytest.mark.parametrize("when", ["before", "after"])
def test_who_has_said_all_is_answered_to_the_end(when: str) -> None:
    """It shuts down its side for writing with its last request."""
    with one_worker() as front, Caller(front.address) as caller:
        caller.ask()
        if when == "before":
            caller.send(SLOW)
            caller.socket.shutdown(socket.SHUT_WR)
            front.service.wait_line(BEGINS)
            old, _ = replaced(front)
            assert caller.answer(last=True).pid == old
        else:
            old, new = replaced(front)
            until_gone(front, old)
            caller.send(SLOW)
            caller.socket.shutdown(socket.SHUT_WR)
            assert caller.answer(last=True).pid == new
        assert caller.ended()


def test_who_leaves_while_it_is_moved_leaves_nothing_behind() -> None:
    with one_worker() as front:
        callers = [Caller(front.address) for _ in range(50)]
        for caller in callers:
            caller.ask()
        (old,) = front.service.workers().values()
        with stopped(old):
            until(lambda: state(old) == "T", "it is stopped")
            front.service.hang_up()
            front.service.ready()
            for caller in callers:
                caller.socket.close()
        until_gone(front, old)
        Board(front.service).until_connections(0)


def test_websockets_are_told_to_come_again() -> None:
    async def closed_with(front: Front) -> set[int]:
        opened = await websockets(front.address, 20)
        replaced(front)
        codes = set()
        for one in opened:
            frame = next_frame(bytearray(await one.reader.read(100)))
            assert frame is not None
            assert frame[0] == CLOSE
            codes.add(int.from_bytes(frame[1][:2], "big"))
            one.writer.transport.abort()
        await asyncio.sleep(0)
        return codes

    with one_worker() as front:
        assert asyncio.run(asyncio.wait_for(closed_with(front), 30)) == {1012}


def test_without_balance_nothing_moves() -> None:
    """As long as nobody asks, and who asks is told to come again."""
    with one_worker("--balance", "off") as front, Caller(front.address) as caller:
        old = caller.ask().pid
        _, new = replaced(front)
        caller.send(get("/"))
        assert caller.answer(last=True).pid == old
        assert caller.ended()
        until_gone(front, old)
        assert Board(front.service).total("given_idle", "taken_idle", "given_fresh") == 0
        with Caller(front.address) as another:
            assert another.ask().pid == new


def test_with_kernel_balance_connections_stay_open_too() -> None:
    with one_worker("--balance", "kernel") as front, Caller(front.address) as caller:
        caller.ask()
        old, new = replaced(front)
        until_gone(front, old)
        assert caller.ask().pid == new


def test_a_service_that_stops_tells_who_is_kept_alive() -> None:
    with one_worker() as front, Caller(front.address) as caller:
        pid = caller.ask().pid
        front.service.process.terminate()
        until(lambda: leaves(pid), "it leaves")
        caller.send(get("/"))
        assert caller.answer(last=True).pid == pid
        assert caller.ended()
        assert front.service.ended() == 0


def test_connections_in_the_inbox_of_a_worker_that_dies_are_served_by_others() -> None:
    """Its promise still held when they were given to it."""
    with serving_on("tcp", workers=2) as front, contextlib.ExitStack() as stack:
        board = Board(front.service)
        victim, giver = front.service.workers()[0], front.service.workers()[1]
        with stopped(victim):
            until(lambda: state(victim) == "T", "it is stopped")
            callers = [stack.enter_context(Caller(front.address)) for _ in range(40)]
            for caller in callers:
                caller.send(get("/"))
            until(lambda: board.total("given_fresh") > 0, "some were given to it")
            kill(victim)
        answers = [caller.answer() for caller in callers]
        assert front.service.ready()[0] == 0
        after = [caller.ask() for caller in callers]
    print(f"of {len(callers)}, {shares(answers)[giver]} were served by the one that was left")
    assert victim not in shares(answers)
    assert len(after) == len(callers)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_abandoned_canary_gives_back_what_it_had(family: str) -> None:
    words = ["--health-path", "/healthz", "--health-interval", "0.2", "--health-failures", "2"]
    words += ["--canary-weight", "0.5", "--bake-time", "60"]
    with contextlib.ExitStack() as stack:
        front = stack.enter_context(serving_on(family, *words, workers=2, errors_expected=True))
        before = set(front.service.workers().values())
        front.service.hang_up()
        front.service.wait_line("its first worker is ready and watched")
        callers = [stack.enter_context(Caller(front.address)) for _ in range(40)]
        first = [caller.ask() for caller in callers]
        canary = next(one for one in first if one.generation == 2)
        assert callers[first.index(canary)].ask("/sick").pid == canary.pid
        assert front.service.wait_line(OUTCOME)["outcome"] == "failed"
        front.service.wait_line(rf"pid={canary.pid} exited with status 0")
        again = [caller.ask() for caller in callers]
        served = Board(front.service).total("taken_idle")
    assert {one.pid for one in again} <= before
    assert served >= shares(first)[canary.pid] > 1
