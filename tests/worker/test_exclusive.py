"""Workers that wait at each other's queues: who has no time is helped, and nobody else is woken."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import select
import selectors
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, Self, cast

import pytest

from asgi_worker.accepting import Accepting
from asgi_worker.contract import WorkerSettings
from asgi_worker.exclusive import Line, line_of
from asgi_worker.loops import new_loop
from asgi_worker.queues import Whose
from asgi_worker.scoreboard import Scoreboard, Word
from tests.worker.conftest import Run
from tests.worker.serving import PATIENCE_S, LoopKind


class Greeter(asyncio.Protocol):
    """Says who it is, and that is all."""

    def __init__(self, name: bytes) -> None:
        self.name = name

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        writer = cast("asyncio.WriteTransport", transport)
        writer.write(self.name)
        writer.close()


class Waiter:
    """A worker in a thread: a loop that accepts, and tells clients its name."""

    def __init__(self, kind: LoopKind, name: bytes) -> None:
        self.name = name
        self.kind = kind
        self.board = Scoreboard(1).writer(0)
        self.woken = 0
        self._thread = threading.Thread(target=self._run)
        self._started = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(PATIENCE_S)
        return self

    def __exit__(self, *exc: object) -> None:
        self.do(self.accepting.stop)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        self.loop = new_loop(WorkerSettings(app="test:app", loop=self.kind))
        self.accepting = Accepting(
            self.loop,
            workers=2,
            begin=self._wake,
            connections=(),
            board=self.board,
            in_line=True,
        )
        self.loop.call_soon(self._started.set)
        self.loop.run_forever()
        self.loop.close()

    def _wake(self) -> None:
        self.woken += 1

    def do(self, what: Callable[[], object]) -> None:
        """Do it on the loop, and wait until that has turned some times since."""
        done = threading.Event()

        async def doing() -> None:
            what()
            for _ in range(6):
                await asyncio.sleep(0)
            done.set()

        asyncio.run_coroutine_threadsafe(doing(), self.loop)
        assert done.wait(PATIENCE_S)

    def wait_at(self, listener: socket.socket, whose: Whose) -> None:
        self.do(lambda: self.accepting.listen(listener, lambda: Greeter(self.name), whose))

    def block(self) -> threading.Event:
        """Let the loop do something else until the event is set."""
        blocked, over = threading.Event(), threading.Event()

        def be_busy() -> None:
            blocked.set()
            over.wait(PATIENCE_S)

        self.loop.call_soon_threadsafe(be_busy)
        assert blocked.wait(PATIENCE_S)
        return over


def listening() -> socket.socket:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    return listener


def greeted(listener: socket.socket, *workers: Waiter, times: int = 1) -> list[bytes]:
    """Who serves clients that come one after the other while all ``workers`` have time."""
    names = []
    for _ in range(times):
        for worker in workers:
            worker.do(lambda: None)
        with socket.create_connection(listener.getsockname(), timeout=PATIENCE_S) as client:
            names.append(client.recv(100))
    return names


def assert_first(name: bytes, listener: socket.socket, *workers: Waiter) -> None:
    """``name`` serves most: all but those that come when a loop is just about to wait."""
    deadline = time.monotonic() + PATIENCE_S
    names: list[bytes] = []
    while names.count(name) < 8:
        assert time.monotonic() < deadline, names
        names = greeted(listener, *workers, times=10)


def assert_turns(listener: socket.socket, *workers: Waiter) -> None:
    """They serve about as many each, with the same exception."""
    deadline = time.monotonic() + PATIENCE_S
    counts = [0]
    while min(counts) < 5:
        assert time.monotonic() < deadline, counts
        names = greeted(listener, *workers, times=10 * len(workers))
        counts = [names.count(worker.name) for worker in workers]


def test_the_owner_comes_first_and_is_helped_when_it_has_no_time(loop_kind: LoopKind) -> None:
    with (
        listening() as queue,
        Waiter(loop_kind, b"owner") as owner,
        Waiter(loop_kind, b"neighbour") as neighbour,
    ):
        owner.wait_at(queue, Whose.OWN)
        neighbour.wait_at(queue, Whose.NEIGHBOUR)
        assert_first(b"owner", queue, owner, neighbour)
        helped = neighbour.board[Word.HELPED]
        assert neighbour.woken - helped < 5, "in vain"
        over = owner.block()
        assert greeted(queue, neighbour, times=10) == [b"neighbour"] * 10
        assert neighbour.board[Word.HELPED] == helped + 10
        over.set()
        assert_first(b"owner", queue, owner, neighbour)
        assert owner.board[Word.HELPED] == 0


def test_an_owner_that_came_later_is_soon_first(loop_kind: LoopKind) -> None:
    with (
        listening() as queue,
        Waiter(loop_kind, b"owner") as owner,
        Waiter(loop_kind, b"one") as one,
        Waiter(loop_kind, b"two") as two,
    ):
        for neighbour in (one, two):
            neighbour.wait_at(queue, Whose.NEIGHBOUR)
        assert_turns(queue, one, two)
        owner.wait_at(queue, Whose.OWN)
        assert_first(b"owner", queue, owner, one, two)


def test_workers_take_turns_at_a_shared_queue(loop_kind: LoopKind) -> None:
    with (
        listening() as queue,
        Waiter(loop_kind, b"one") as one,
        Waiter(loop_kind, b"two") as two,
        Waiter(loop_kind, b"three") as three,
    ):
        for worker in (one, two, three):
            worker.wait_at(queue, Whose.SHARED)
        assert_turns(queue, one, two, three)
        assert one.board[Word.HELPED] == 0


def test_who_gathers_takes_turns_at_its_own_queue(loop_kind: LoopKind) -> None:
    with (
        listening() as queue,
        listening() as other,
        Waiter(loop_kind, b"owner") as owner,
        Waiter(loop_kind, b"neighbour") as neighbour,
    ):
        owner.wait_at(queue, Whose.OWN)
        owner.wait_at(other, Whose.NEIGHBOUR)
        neighbour.wait_at(queue, Whose.NEIGHBOUR)
        owner.do(lambda: owner.accepting.gather(wanted=True))
        assert owner.board[Word.GATHERS] == 1
        assert_turns(queue, owner, neighbour)
        owner.do(lambda: owner.accepting.gather(wanted=False))
        assert owner.board[Word.GATHERS] == 0
        assert_first(b"owner", queue, owner, neighbour)


@pytest.mark.parametrize(
    ("workers", "whose", "gathers"),
    [
        (2, [Whose.OWN, Whose.NEIGHBOUR], True),
        (2, [Whose.OWN, Whose.OWN, Whose.NEIGHBOUR, Whose.NEIGHBOUR], True),
        (2, [Whose.OWN, Whose.SHARED, Whose.NEIGHBOUR], True),
        (3, [Whose.OWN, Whose.NEIGHBOUR], False),
        (2, [Whose.OWN], False),
        (1, [Whose.OWN], False),
        (2, [Whose.SHARED], False),
        (2, [], False),
    ],
)
def test_one_queue_would_do_for_who_takes_from_every_slot(
    run: Run, workers: int, whose: list[Whose], gathers: bool
) -> None:
    async def test() -> None:
        accepting = accepting_on(asyncio.get_running_loop(), workers=workers)
        with contextlib.ExitStack() as stack:
            for one in whose:
                accepting.listen(stack.enter_context(listening()), asyncio.Protocol, one)
            accepting.gather(wanted=True)
            assert accepting.gathers is gathers
            assert accepting.board[Word.GATHERS] == gathers
            accepting.stop()

    run(test())


@pytest.mark.parametrize("connections", [0, 1])
def test_one_queue_would_not_do_if_it_were_half_full(run: Run, connections: int) -> None:
    """With all that wait, and all who are there and may come anew."""

    async def test() -> None:
        accepting = accepting_on(asyncio.get_running_loop(), connections=range(connections))
        with contextlib.ExitStack() as stack:
            own, other = (stack.enter_context(listening()) for _ in range(2))
            own.listen(8)
            for listener, whose in ((own, Whose.OWN), (other, Whose.NEIGHBOUR)):
                accepting.listen(listener, asyncio.Protocol, whose)
            accepting.pause()
            for waiting in range(1, 6):
                stack.enter_context(socket.create_connection(own.getsockname()))
                accepting.gather(wanted=True)
                assert accepting.gathers is (waiting + 2 * connections < 4)
            accepting.stop()

    run(test())


def test_who_waits_no_more_is_not_in_the_way(loop_kind: LoopKind) -> None:
    with (
        listening() as queue,
        Waiter(loop_kind, b"owner") as owner,
        Waiter(loop_kind, b"neighbour") as neighbour,
    ):
        owner.wait_at(queue, Whose.OWN)
        neighbour.wait_at(queue, Whose.NEIGHBOUR)
        owner.do(owner.accepting.pause)
        assert greeted(queue, owner, neighbour, times=5) == [b"neighbour"] * 5
        owner.do(owner.accepting.queues[0].watch)
        assert_first(b"owner", queue, owner, neighbour)


def test_who_leaves_takes_what_nobody_else_was_told_of(loop_kind: LoopKind) -> None:
    """The kernel wakes one of those in line. If that one goes away, no other would ever know."""
    with (
        listening() as queue,
        Waiter(loop_kind, b"first") as first,
        Waiter(loop_kind, b"next") as successor,
    ):
        first.wait_at(queue, Whose.OWN)
        successor.wait_at(queue, Whose.OWN)
        told = threading.Event()

        def leave_before_it_takes() -> None:
            told.set()
            first.loop.call_soon(first.accepting.leave)

        first.accepting.patient = True  # so it takes some turns later
        first.accepting.begin = leave_before_it_takes
        while not told.is_set():
            assert greeted(queue, first, successor) in ([b"first"], [b"next"])
        assert greeted(queue, first, successor, times=3) == [b"next"] * 3


@pytest.mark.parametrize("whose", [Whose.OWN, Whose.SHARED, Whose.NEIGHBOUR])
def test_what_only_one_that_hangs_was_told_of_is_found_by_looking(
    loop_kind: LoopKind, whose: Whose
) -> None:
    """It was first in line and is woken, but does not come to take it."""
    with (
        listening() as queue,
        Waiter(loop_kind, b"hangs") as hangs,
        Waiter(loop_kind, b"idle") as idle,
    ):
        told, over = threading.Event(), threading.Event()

        def hang() -> None:
            told.set()
            over.wait(PATIENCE_S)

        hangs.accepting.begin = hang
        hangs.wait_at(queue, Whose.SHARED)
        idle.wait_at(queue, whose)
        client = only_told(queue, hangs, idle, told, over)
        with client:
            idle.do(idle.accepting.look)
            assert not is_answered(client), "it may be taken any moment"
            idle.do(idle.accepting.look)
            assert client.recv(100) == b"idle"
            over.set()


def only_told(
    queue: socket.socket, first: Waiter, other: Waiter, told: threading.Event, over: threading.Event
) -> socket.socket:
    """A client of which ``first`` was told and nobody else."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        assert time.monotonic() < deadline
        told.clear()
        over.clear()
        for worker in (first, other):
            worker.do(lambda: None)
        client = socket.create_connection(queue.getsockname(), timeout=PATIENCE_S)
        while not (told.wait(0.01) or is_answered(client)):
            pass
        other.do(lambda: None)
        if not is_answered(client):
            return client
        over.set()
        client.close()
        other.do(other.accepting.pause)
        other.do(other.accepting.queues[0].watch)  # at the end of the line


def is_answered(client: socket.socket) -> bool:
    return bool(select.select([client], [], [], 0)[0])


def test_where_one_cannot_wait_in_line_there_is_no_help() -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        assert line_of(loop) is None
        with listening() as own, listening() as other:
            accepting = accepting_on(loop)
            accepting.listen(own, lambda: Greeter(b"me"), Whose.OWN)
            accepting.listen(other, lambda: Greeter(b"me"), Whose.NEIGHBOUR)
            assert [queue.whose for queue in accepting.queues] == [Whose.OWN]
            reader, writer = await asyncio.open_connection(*own.getsockname())
            assert await reader.read() == b"me"
            writer.close()
            accepting.stop()

    with asyncio.Runner(
        loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())
    ) as runner:
        runner.run(test())


class Refusal:
    """What a kernel does that does not know the flag."""

    def join(self, descriptor: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    def close(self) -> None: ...


def test_where_the_kernel_refuses_the_line_only_our_own_queue_is_served(run: Run) -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        with listening() as own, listening() as other:
            accepting = accepting_on(loop)
            assert accepting.line is not None
            accepting.line.close()
            accepting.line = cast("Line", Refusal())
            accepting.listen(own, lambda: Greeter(b"me"), Whose.OWN)
            accepting.listen(other, lambda: Greeter(b"me"), Whose.NEIGHBOUR)
            reader, writer = await asyncio.open_connection(*own.getsockname())
            assert await reader.read() == b"me"
            writer.close()
            client = socket.create_connection(other.getsockname())
            for _ in range(10):
                await asyncio.sleep(0)
            accepted, _ = other.accept()  # it is still there
            accepted.close()
            client.close()
            accepting.gather(wanted=True)
            assert not accepting.gathers, "who would wait there is not taken by us"
            accepting.stop()

    run(test())


def test_what_the_loop_does_not_watch_cannot_join_the_line(run: Run) -> None:
    async def test() -> None:
        line = line_of(asyncio.get_running_loop())
        assert line is not None
        with listening() as listener:
            try:
                line.join(listener.fileno())
            except FileNotFoundError:
                return
            finally:
                line.close()
        raise AssertionError("it could")

    run(test())


def test_the_figure_of_connections_counts_each_once_from_its_acceptance(run: Run) -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        connections: set[asyncio.Protocol] = set()
        accepting = accepting_on(loop, connections=connections)
        seen: list[tuple[int, int]] = []

        class Counted(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                self.transport = transport
                connections.add(self)
                accepting.opened()
                loop.call_soon(self._look)

            def _look(self) -> None:
                seen.append(
                    (len(connections) + accepting.opening, accepting.board[Word.CONNECTIONS])
                )

        with listening() as listener:
            accepting.listen(listener, Counted, Whose.OWN)
            clients = [socket.create_connection(listener.getsockname()) for _ in range(10)]
            async with asyncio.timeout(PATIENCE_S):
                while len(seen) < 10:  # noqa: ASYNC110 – there is no event for it
                    await asyncio.sleep(0)
            assert all(real == told for real, told in seen), seen
            assert max(told for _, told in seen) == 10
            assert accepting.opening == 0
            for protocol in connections:
                cast("Any", protocol).transport.abort()
            for client in clients:
                client.close()
            accepting.stop()

    run(test())


def test_what_is_passed_on_is_not_ours(run: Run) -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        passed: list[int] = []

        def pass_on(descriptor: int) -> bool:
            passed.append(descriptor)
            return True

        accepting = accepting_on(loop, pass_on=pass_on)
        with listening() as listener:
            accepting.listen(listener, lambda: Greeter(b"me"), Whose.OWN)
            client = socket.create_connection(listener.getsockname(), timeout=PATIENCE_S)
            async with asyncio.timeout(PATIENCE_S):
                while not passed:  # noqa: ASYNC110 – there is no event for it
                    await asyncio.sleep(0)
            assert accepting.opening == accepting.board[Word.CONNECTIONS] == 0
            accepting.pass_on = None
            accepting.adopt(passed[0], lambda: Greeter(b"me"))
            assert accepting.board[Word.CONNECTIONS] == 1
            assert (await loop.run_in_executor(None, client.recv, 10)) == b"me"
            accepting.opened()
            accepting.tell()
            assert accepting.board[Word.CONNECTIONS] == 0
            client.close()
            accepting.stop()

    run(test())


def accepting_on(loop: asyncio.AbstractEventLoop, **more: Any) -> Accepting:
    usual: dict[str, Any] = {
        "workers": 2,
        "begin": lambda: None,
        "connections": (),
        "board": Scoreboard(1).writer(0),
        "in_line": True,
    }
    return Accepting(loop, **usual | more)
