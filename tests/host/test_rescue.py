"""Rescue with the kernel's own queues and inboxes, and nobody who takes but the test."""

from __future__ import annotations

import contextlib
import math
import os
import resource
import selectors
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from asgi_supervise.host import sockets
from asgi_supervise.host.rescue import MOST_AT_ONCE, NO_ROOM_S, REFUSED_S, Rescue
from asgi_worker.inbox import VERSION, Handed, Inboxes, Kind
from asgi_worker.scoreboard import Scoreboard, Word
from tests.host.proc import descriptors, limit_descriptors

SEATS = 4
GONE, FIRST, SECOND, OTHER = range(SEATS)
NOW = 1000.0


@dataclass
class Scene:
    listeners: sockets.Listeners
    inboxes: Inboxes
    scoreboard: Scoreboard
    selector: selectors.BaseSelector
    rescue: Rescue
    clients: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def connect(self, slot: int, count: int = 1) -> list[tuple[str, int]]:
        """So many clients in the queue of ``slot``; their addresses."""
        self.listeners.steer([int(number == slot) for number in range(SEATS)])
        address = self.listeners.by_slot[slot][0].getsockname()
        clients = [
            self.clients.enter_context(socket.create_connection(address)) for _ in range(count)
        ]
        return [client.getsockname() for client in clients]

    def begin(self, slots: tuple[int, ...], seats: tuple[int, ...], *takers: int) -> None:
        self.rescue.begin(slots, seats, takers, NOW)

    def says(self, seat: int, word: Word, value: int) -> None:
        self.scoreboard.writer(seat)[word] = value

    def readable(self) -> set[int]:
        return {key.fd for key, _ in self.selector.select(0)}

    def turn(self, now: float = NOW) -> None:
        self.rescue.work(self.readable(), now)

    def resume(self) -> float:
        """Turn when the pause is over, and once more; the time."""
        now = self.rescue.resumes
        assert NOW < now < math.inf
        assert self.readable() == set(), "the selector would wake at once, again and again"
        self.rescue.work(set(), now - 0.001)  # woken by something else
        assert self.rescue.resumes == now
        self.turn(now)
        self.turn(now)
        return now

    def taken(self, seat: int) -> list[tuple[Handed, tuple[str, int]]]:
        """All that ``seat`` finds in its inbox: what came along, and whose it is."""
        found = []
        while (taken := self.inboxes.take(seat)) is not None:
            handed, descriptor = taken
            with socket.socket(fileno=descriptor) as connection:
                found.append((handed, connection.getpeername()))
        return found

    def fill(self, *seats: int) -> None:
        """Let their inboxes take nothing more."""
        one, other = socket.socketpair()
        with one, other:
            for seat in seats:
                while self.inboxes.give(seat, Handed(Kind.FRESH), one.fileno()):
                    pass

    def make_room(self, seat: int) -> None:
        """For one more in its inbox."""
        taken = self.inboxes.take(seat)
        assert taken is not None
        os.close(taken[1])

    def waits_in_queue(self, slot: int) -> bool:
        with contextlib.suppress(BlockingIOError):
            self.listeners.by_slot[slot][0].accept()[0].close()
            return True
        return False


@pytest.fixture
def scene() -> Iterator[Scene]:
    before = descriptors()
    listeners = sockets.listen(
        ["127.0.0.1:0"], slots=SEATS, backlog=1000, uds_mode=0o600, owner=None
    )
    inboxes, scoreboard = Inboxes(SEATS), Scoreboard(SEATS)
    for seat in range(SEATS):
        scoreboard.writer(seat)[Word.TAKES] = VERSION
    with selectors.DefaultSelector() as selector:
        made = Scene(
            listeners,
            inboxes,
            scoreboard,
            selector,
            Rescue(listeners, inboxes, scoreboard, selector),
        )
        with made.clients:
            yield made
        made.rescue.let_go()
    listeners.close()
    inboxes.close()
    assert descriptors().keys() == before.keys()


FRESH = Handed(Kind.FRESH, rescued=True)


def test_the_queue_of_a_slot_is_given_to_those_that_take(scene: Scene) -> None:
    scene.begin((GONE,), (), FIRST, SECOND)
    addresses = scene.connect(GONE, 6)
    scene.turn()
    first, second = scene.taken(FIRST), scene.taken(SECOND)
    assert len(first) == len(second) == 3
    assert {handed for handed, _ in first + second} == {FRESH}
    assert sorted(whose for _, whose in first + second) == sorted(addresses)
    assert not scene.waits_in_queue(GONE)
    assert scene.rescue.resumes == math.inf


def test_the_queues_of_others_are_not_touched(scene: Scene) -> None:
    scene.begin((GONE,), (), FIRST)
    scene.connect(OTHER)
    scene.turn()
    assert scene.readable() == set()
    assert scene.waits_in_queue(OTHER)


def test_an_inbox_is_given_on_with_all_that_was_said(scene: Scene) -> None:
    scene.connect(OTHER, 2)
    handed = [Handed(Kind.IDLE, idle_until=17.5), Handed(Kind.FRESH, hops=2)]
    for one in handed:
        with scene.listeners.by_slot[OTHER][0].accept()[0] as connection:
            scene.inboxes.give(GONE, one, connection.fileno())
    scene.begin((), (GONE,), FIRST)
    scene.turn()
    assert [one for one, _ in scene.taken(FIRST)] == [one._replace(rescued=True) for one in handed]
    assert scene.inboxes.waiting(GONE) == 0


def test_who_has_fewest_gets_it_counting_what_waits_for_it(scene: Scene) -> None:
    scene.says(FIRST, Word.CONNECTIONS, 5)
    scene.says(SECOND, Word.CONNECTIONS, 1)
    with socket.socket() as any_socket:
        for _ in range(2):
            scene.inboxes.give(SECOND, Handed(Kind.FRESH), any_socket.fileno())
    scene.begin((GONE,), (), FIRST, SECOND, OTHER)
    scene.connect(GONE, 9)
    scene.turn()
    assert [scene.inboxes.waiting(seat) for seat in (FIRST, SECOND, OTHER)] == [1, 2 + 3, 5]


def test_nothing_is_given_to_who_does_not_understand_it(scene: Scene) -> None:
    scene.says(FIRST, Word.TAKES, VERSION + 1)
    scene.says(SECOND, Word.TAKES, 0)
    scene.begin((GONE,), (), FIRST, SECOND)
    scene.connect(GONE)
    scene.turn()
    assert [scene.inboxes.waiting(seat) for seat in (FIRST, SECOND)] == [0, 0]
    assert scene.rescue.resumes == NOW + NO_ROOM_S
    scene.says(SECOND, Word.TAKES, VERSION)
    scene.resume()
    assert scene.inboxes.waiting(SECOND) == 1


def test_who_is_on_trial_gets_it_only_if_there_is_nobody_else(scene: Scene) -> None:
    scene.says(FIRST, Word.CONNECTIONS, 100)
    scene.says(SECOND, Word.SHARE, 333)
    scene.begin((GONE,), (), FIRST, SECOND)
    scene.connect(GONE, 3)
    scene.turn()
    assert [scene.inboxes.waiting(seat) for seat in (FIRST, SECOND)] == [3, 0]
    scene.says(FIRST, Word.TAKES, 0)
    scene.connect(GONE, 3)
    scene.turn()
    assert [scene.inboxes.waiting(seat) for seat in (FIRST, SECOND)] == [3, 3]


def test_one_turn_is_bounded_and_nobody_waits_for_the_others(scene: Scene) -> None:
    scene.connect(GONE, 2 * MOST_AT_ONCE)
    scene.connect(OTHER)
    with socket.socket() as any_socket:
        scene.inboxes.give(GONE, Handed(Kind.IDLE), any_socket.fileno())
    scene.begin((GONE, OTHER), (GONE,), FIRST, SECOND)
    scene.turn()
    given = scene.inboxes.waiting(FIRST) + scene.inboxes.waiting(SECOND)
    assert MOST_AT_ONCE <= given <= MOST_AT_ONCE + 2
    assert scene.inboxes.waiting(GONE) == 0
    assert not scene.waits_in_queue(OTHER)
    assert scene.rescue.resumes == math.inf
    scene.turn()
    scene.turn()
    assert scene.inboxes.waiting(FIRST) + scene.inboxes.waiting(SECOND) == 2 * MOST_AT_ONCE + 2


def test_what_nobody_has_room_for_stays_in_its_queue(scene: Scene) -> None:
    scene.fill(FIRST, SECOND)
    scene.begin((GONE,), (), FIRST, SECOND)
    first, _ = scene.connect(GONE, 2)
    scene.turn()
    assert scene.rescue.resumes == NOW + NO_ROOM_S
    for _ in range(3):
        now = scene.resume()
        assert scene.rescue.resumes == now + NO_ROOM_S
    scene.make_room(SECOND)
    scene.resume()
    assert scene.taken(SECOND)[-1] == (FRESH, first)
    assert scene.waits_in_queue(GONE), "it was accepted before somebody had room"


def test_an_inbox_that_filled_up_meanwhile_costs_no_connection(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.fill(FIRST, SECOND)
    monkeypatch.setattr(scene.inboxes, "_room_bytes", 2**30)  # as it was a moment ago
    scene.begin((GONE,), (), FIRST, SECOND)
    addresses = scene.connect(GONE, 2)
    scene.turn()
    monkeypatch.undo()
    assert scene.rescue.resumes == NOW + NO_ROOM_S
    scene.resume()
    scene.begin((), ())  # all is well again, and still nobody has room
    scene.resume()
    scene.make_room(SECOND)
    scene.resume()
    assert scene.rescue.resumes == math.inf
    assert scene.taken(SECOND)[-1] == (FRESH, addresses[0])
    assert scene.waits_in_queue(GONE), "the other one was not to be accepted"


def test_with_nobody_to_take_nothing_is_watched(scene: Scene) -> None:
    scene.connect(GONE)
    scene.begin((GONE,), (GONE,))
    assert scene.readable() == set()
    scene.turn()
    assert scene.waits_in_queue(GONE)
    scene.connect(GONE)
    scene.begin((GONE,), (GONE,), GONE)  # a fleet of one is not given what it has
    assert scene.readable() == set()


def test_who_was_faster_has_it(scene: Scene) -> None:
    scene.begin((GONE,), (GONE,), FIRST)
    scene.connect(GONE)
    readable = scene.readable()
    assert scene.waits_in_queue(GONE)
    scene.rescue.work(readable | {scene.inboxes.reader(GONE)}, NOW)
    assert scene.inboxes.waiting(FIRST) == 0
    assert scene.rescue.resumes == math.inf


def test_what_the_system_refuses_waits_on_and_is_said_once(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    addresses = scene.connect(GONE, 2)
    scene.begin((GONE,), (), FIRST)
    with few_descriptors():
        scene.turn()
        for _ in range(3):
            assert scene.resume() + REFUSED_S == scene.rescue.resumes
    assert [record.message for record in caplog.records] == [
        "cannot take connections that wait for a worker that does not come: Too many open files; "
        "they wait on, and it is tried again; raise the limit of open files (LimitNOFILE=, "
        "ulimit -n)"
    ]
    scene.resume()
    assert scene.taken(FIRST) == [(FRESH, address) for address in addresses]


def test_it_is_said_again_when_it_is_so_another_time(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.connect(GONE)
    for times in (1, 2):
        scene.begin((GONE,), (OTHER,), FIRST)
        with few_descriptors():
            for _ in range(3):  # the pause of the time before is over, too
                scene.turn(NOW + times)
        assert len(caplog.records) == times
        scene.begin((), (OTHER,), FIRST)  # an inbox that nobody has is always looked after


def test_an_inbox_is_emptied_with_the_last_descriptor(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = socket.socketpair()
    with one, other:
        for _ in range(3):
            scene.inboxes.give(GONE, Handed(Kind.FRESH), one.fileno())
    scene.begin((), (GONE,), FIRST)
    with few_descriptors():
        scene.turn()
    assert scene.inboxes.waiting(FIRST) == 3
    assert caplog.records == []


def test_a_source_that_fails_does_not_keep_others_from_being_emptied(scene: Scene) -> None:
    scene.begin((GONE, OTHER), (), FIRST)
    scene.connect(OTHER, 3)
    scene.listeners.by_slot[GONE][0].shutdown(socket.SHUT_RD)
    scene.turn()
    assert scene.inboxes.waiting(FIRST) == 3
    assert scene.rescue.resumes == NOW + REFUSED_S


def test_what_all_share_is_taken_only_if_nobody_accepts_anywhere(scene: Scene) -> None:
    with socket.socket(socket.AF_UNIX) as shared:
        shared.bind(f"\0{os.getpid()} {os.urandom(8).hex()}")
        shared.listen()
        shared.setblocking(False)
        scene.listeners.shared.append(shared)
        client = scene.clients.enter_context(socket.socket(socket.AF_UNIX))
        client.connect(shared.getsockname())
        scene.begin((GONE, FIRST, SECOND), (), OTHER)
        scene.turn()
        assert scene.inboxes.waiting(OTHER) == 0
        scene.begin((GONE, FIRST, SECOND, OTHER), (), OTHER)
        scene.turn()
        assert scene.inboxes.waiting(OTHER) == 1
        scene.rescue.end_queues(NOW)
        scene.listeners.shared.clear()
        assert scene.readable() == set()


def test_when_the_service_stops_queues_to_which_nobody_comes_are_emptied_and_ended(
    scene: Scene,
) -> None:
    scene.begin((GONE,), (), FIRST)
    addresses = scene.connect(GONE, 2)
    scene.rescue.end_queues(NOW)
    assert scene.taken(FIRST) == [(FRESH, address) for address in addresses]
    with pytest.raises(OSError, match="Invalid argument"):
        scene.listeners.by_slot[GONE][0].accept()
    scene.connect(FIRST)
    assert any(scene.waits_in_queue(slot) for slot in (FIRST, SECOND, OTHER))


def test_all_that_wait_are_saved_when_the_service_stops_not_only_those_of_a_turn(
    scene: Scene,
) -> None:
    scene.begin((GONE, OTHER), (), FIRST, SECOND)
    scene.connect(GONE, 2 * MOST_AT_ONCE + 1)
    scene.connect(OTHER)
    scene.listeners.by_slot[OTHER][0].shutdown(socket.SHUT_RD)  # as a worker that stops
    scene.rescue.end_queues(NOW)
    given = scene.inboxes.waiting(FIRST) + scene.inboxes.waiting(SECOND)
    assert given == 2 * MOST_AT_ONCE + 1
    assert scene.readable() == set()


def test_those_for_whom_there_is_no_room_at_the_end_are_left_to_who_may_still_come(
    scene: Scene,
) -> None:
    scene.begin((GONE,), (), FIRST)
    scene.fill(FIRST)
    scene.make_room(FIRST)
    scene.connect(GONE, 2)
    scene.rescue.end_queues(NOW)
    assert scene.waits_in_queue(GONE)
    assert not scene.waits_in_queue(GONE)
    assert scene.readable() == set()


def test_a_queue_for_which_there_was_no_room_is_left_to_who_may_still_come(scene: Scene) -> None:
    scene.fill(FIRST)
    scene.begin((GONE,), (), FIRST)
    scene.connect(GONE)
    scene.turn()
    scene.rescue.end_queues(NOW)
    assert scene.waits_in_queue(GONE)
    assert scene.readable() == set()


def test_after_the_listeners_are_closed_inboxes_are_emptied_on(scene: Scene) -> None:
    scene.begin((GONE, OTHER), (GONE,), FIRST)
    scene.rescue.end_queues(NOW)
    scene.listeners.close()
    with socket.socket() as any_socket:  # with the number of one that was closed
        scene.inboxes.give(GONE, Handed(Kind.IDLE), any_socket.fileno())
        scene.turn()
    assert scene.inboxes.waiting(FIRST) == 1
    scene.begin((GONE, OTHER), (), FIRST)
    scene.turn()


def test_what_was_not_sent_by_one_of_ours_is_closed(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.begin((), (GONE,), FIRST)
    before = descriptors()
    with socket.socket() as any_socket:
        socket.send_fds(scene.inboxes._writers[GONE], [b"what is this?"], [any_socket.fileno()])
        scene.inboxes.give(GONE, Handed(Kind.FRESH), any_socket.fileno())
        scene.turn()
    assert scene.inboxes.waiting(FIRST) == 1
    assert descriptors().keys() == before.keys()
    assert "closed a connection that nobody of ours handed over: b'what is" in caplog.text


def test_what_was_asked_last_counts(scene: Scene) -> None:
    scene.begin((GONE,), (GONE,), FIRST)
    scene.begin((OTHER,), (OTHER,), SECOND)
    scene.connect(GONE)
    scene.connect(OTHER)
    scene.turn()
    assert [scene.inboxes.waiting(seat) for seat in (FIRST, SECOND)] == [0, 1]
    scene.begin((), ())
    scene.connect(OTHER)
    scene.turn()
    assert scene.waits_in_queue(GONE)
    assert scene.waits_in_queue(OTHER)


@contextlib.contextmanager
def few_descriptors() -> Iterator[None]:
    """None more than now."""
    with contextlib.ExitStack() as fillers:
        highest = max(descriptors())
        while (filler := os.dup(0)) <= highest:
            fillers.callback(os.close, filler)
        os.close(filler)
        limits = limit_descriptors(0)
        fillers.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        yield
