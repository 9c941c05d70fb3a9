"""When a promise does not count: the worker says that it rests, and leaves its inbox alone."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from asgi_supervise.host.figures import Looks
from asgi_worker.inbox import Handed, Inboxes, Kind
from asgi_worker.processor import waited_ns
from asgi_worker.scoreboard import Scoreboard, State, Word

WORKER, SEAT = 7, 1


class Desk:
    """A worker with a seat and an inbox, and the master's looks at it."""

    def __init__(self) -> None:
        self.board = Scoreboard(2)
        self.inboxes = Inboxes(2)
        self.looks = Looks(self.board, self.inboxes)
        self.words = self.board.writer(SEAT)
        self.words[Word.STATE] = State.READY
        self.ticks(10.0)

    def ticks(self, now: float) -> None:
        self.words[Word.STAMP_NS] = int(now * 1e9)
        self.words[Word.PROMISE_NS] = int((now + 1) * 1e9)

    def gets(self) -> None:
        with socket.socket() as some:
            assert self.inboxes.give(SEAT, Handed(Kind.FRESH), some.fileno())

    def takes(self) -> None:
        taken = self.inboxes.take(SEAT)
        assert taken is not None
        os.close(taken[1])
        self.words[Word.TAKEN_FRESH] += 1

    def promise(self, now: float) -> float:
        return self.looks.look({WORKER: SEAT}, now).figures[WORKER].promise


@pytest.fixture
def desk() -> Iterator[Desk]:
    found = Desk()
    yield found
    found.inboxes.close()


def test_a_worker_with_nothing_to_take_is_believed(desk: Desk) -> None:
    assert [desk.promise(10 + look / 10) for look in range(10)] == [11.0] * 10


def test_a_worker_that_leaves_its_inbox_alone_is_late_since_the_last_look(desk: Desk) -> None:
    desk.gets()
    assert [desk.promise(now) for now in (10.1, 10.2, 10.3)] == [11.0, 10.1, 10.2]
    assert not desk.looks.look({WORKER: SEAT}, 10.4).resting, "it is to be looked at again soon"
    desk.takes()
    assert desk.promise(10.5) == 11.0
    assert desk.looks.look({WORKER: SEAT}, 10.6).resting


def test_it_is_late_until_it_does_something_though_others_empty_its_inbox(desk: Desk) -> None:
    desk.gets()
    assert [desk.promise(now) for now in (10.1, 10.2)] == [11.0, 10.1]
    taken = desk.inboxes.take(SEAT)  # by the master
    assert taken is not None
    os.close(taken[1])
    assert [desk.promise(now) for now in (10.3, 10.4)] == [10.2, 10.3]
    desk.ticks(10.5)
    assert desk.promise(10.5) == 11.5


def test_a_worker_in_whose_inbox_there_is_always_something_is_believed(desk: Desk) -> None:
    desk.gets()
    for look in range(1, 5):
        desk.gets()
        desk.takes()
        assert desk.promise(10 + look / 10) == 11.0


def test_a_worker_that_has_no_room_for_what_it_got_but_turns_is_believed(desk: Desk) -> None:
    desk.gets()
    for now in (10.1, 10.2, 10.3):
        desk.ticks(now)
        assert desk.promise(now) == pytest.approx(now + 1)


def test_a_worker_that_waited_for_a_processor_has_that_time_in_addition(desk: Desk) -> None:
    desk.words[Word.PID] = os.getpid()
    waited_s = waited_ns(os.getpid()) / 1e9
    assert waited_s > 0
    assert desk.promise(10.9) == 11.0, "it is not late"
    assert 11.0 + waited_s <= desk.promise(11.5) <= 11.5 + waited_s
    desk.words[Word.WAITED_NS] = 10**18  # by its last tick
    assert desk.promise(11.5) == 11.0
