"""Who takes one connection after the other leaves the next to whoever has time for it sooner."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

from asgi_worker.accepting import Accepting
from asgi_worker.patience import Patience
from asgi_worker.queues import Whose
from asgi_worker.scoreboard import Scoreboard
from tests.worker.conftest import Run
from tests.worker.serving import PATIENCE_S


class Asked(asyncio.Protocol):
    """Notes how many connections wait in each queue when its request is read."""

    accepting: Accepting
    left: list[list[int]]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.left.append([queue.length() for queue in self.accepting.queues])
        self.transport.close()


@contextlib.contextmanager
def asking(*counts: int, family: socket.AddressFamily = socket.AF_INET) -> Iterator[Accepting]:
    """A patient worker whose first turn finds so many requests in each queue."""
    accepting = Accepting(
        asyncio.get_running_loop(),
        workers=2,
        begin=lambda: None,
        connections=(),
        board=Scoreboard(1).writer(0),
        in_line=True,
    )
    accepting.patient = True
    Asked.accepting = accepting
    Asked.left = []
    with contextlib.ExitStack() as stack:
        stack.callback(accepting.stop)
        for count in counts:
            listener = stack.enter_context(socket.socket(family))
            listener.bind(("127.0.0.1", 0) if family == socket.AF_INET else "")
            listener.listen()
            for _ in range(count):
                client = stack.enter_context(socket.socket(family))
                client.connect(listener.getsockname())
                client.sendall(b"?")
            accepting.listen(listener, Asked, Whose.OWN)
        yield accepting


async def until_read(count: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while len(Asked.left) < count:  # noqa: ASYNC110 – there is no event for it
            await asyncio.sleep(0)


def test_the_next_is_not_taken_before_the_last_was_read(run: Run) -> None:
    async def test() -> None:
        with asking(5):
            await until_read(5)
            assert Asked.left == [[4], [3], [2], [1], [0]]

    run(test())


def test_who_is_in_a_hurry_takes_more(run: Run) -> None:
    async def test() -> None:
        with asking(5) as accepting:
            accepting.patient = False
            await until_read(5)
            assert Asked.left[0] == [0]

    run(test())


def test_of_several_queues_only_one_connection_is_taken_at_a_time(run: Run) -> None:
    async def test() -> None:
        with asking(3, 2, 1):
            await until_read(6)
            assert [sum(lengths) for lengths in Asked.left] == [5, 4, 3, 2, 1, 0]

    run(test())


def test_a_queue_that_does_not_tell_its_length_is_served_too(run: Run) -> None:
    async def test() -> None:
        with asking(2, 2, family=socket.AF_UNIX):
            await until_read(4)

    run(test())


def test_who_stops_takes_nothing_more(run: Run) -> None:
    async def test() -> None:
        with asking(3, 3) as accepting:
            await until_read(1)
            accepting.pause()
            left = sum(queue.length() for queue in accepting.queues)
            assert left == 5
            for _ in range(10):
                await asyncio.sleep(0)
            assert sum(queue.length() for queue in accepting.queues) == left

    run(test())


def test_queues_that_are_closed_are_not_asked(run: Run) -> None:
    async def test() -> None:
        wrong: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: wrong.append(what))
        with asking(3, 3) as accepting:
            await until_read(1)
            accepting.stop()
            for _ in range(10):
                await asyncio.sleep(0)
        assert not wrong

    run(test())


class Line:
    """A queue of so many that never gets shorter."""

    def __init__(self, length: int) -> None:
        self._length = length
        self.taken = 0

    def take_if_any(self) -> None:
        self.taken += 1

    def length(self) -> int:
        return self._length


def test_each_connection_is_as_likely_as_any_other(run: Run) -> None:
    async def test() -> None:
        rolls = [number / 100 for number in range(100)]
        patience = Patience(asyncio.get_running_loop(), rolls.pop)
        lines = [Line(1), Line(3), Line(0)]
        async with asyncio.timeout(PATIENCE_S):
            while rolls:
                for line in lines:
                    patience.offer(line)
                await asyncio.sleep(0)
        assert [line.taken for line in lines] == [25, 75, 0]

    run(test())


def test_what_others_have_taken_meanwhile_is_no_harm(run: Run) -> None:
    async def test() -> None:
        patience = Patience(asyncio.get_running_loop())
        lines = [Line(0), Line(0)]
        for _ in range(20):
            for line in lines:
                patience.offer(line)
            await asyncio.sleep(0)
        assert sum(line.taken for line in lines) > 1

    run(test())
