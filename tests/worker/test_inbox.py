"""Inboxes by themselves: what goes in comes out, whole, and nothing is lost for want of room."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import struct
from array import array
from collections.abc import Iterator

import pytest

from asgi_worker.inbox import VERSION, Handed, Inboxes, Kind, Unreadable

SEATS = 3


@pytest.fixture
def inboxes() -> Iterator[Inboxes]:
    with contextlib.closing(Inboxes(SEATS)) as made:
        yield made


@pytest.fixture
def connection() -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours


def taken(inboxes: Inboxes, seat: int) -> Handed | None:
    """What was taken; its descriptor is closed again."""
    found = inboxes.take(seat)
    if found is None:
        return None
    os.close(found[1])
    return found[0]


@contextlib.contextmanager
def no_more_descriptors() -> Iterator[None]:
    """No new descriptor can be had in here."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = []
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 2, limits[1]))
    try:
        with contextlib.suppress(OSError):
            while True:
                held.append(os.dup(0))
        yield
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize(
    "handed",
    [
        Handed(Kind.FRESH),
        Handed(Kind.FRESH, hops=2, rescued=True),
        Handed(Kind.IDLE, idle_until=123456.25),
    ],
)
def test_what_is_given_is_taken_by_that_seat_only(
    inboxes: Inboxes, connection: socket.socket, handed: Handed
) -> None:
    assert inboxes.give(1, handed, connection.fileno())
    assert inboxes.take(0) is None
    found = inboxes.take(1)
    assert found is not None
    assert found[0] == handed
    assert inboxes.take(1) is None
    with socket.socket(fileno=found[1]) as copy:
        assert os.path.sameopenfile(copy.fileno(), connection.fileno())
        assert not copy.get_inheritable()


def test_connections_come_in_their_order(inboxes: Inboxes, connection: socket.socket) -> None:
    for number in range(5):
        assert inboxes.give(2, Handed(Kind.IDLE, idle_until=number), connection.fileno())
    assert [taken(inboxes, 2) for _ in range(5)] == [
        Handed(Kind.IDLE, idle_until=number) for number in range(5)
    ]


def test_how_many_wait_is_known_and_a_full_one_refuses(
    inboxes: Inboxes, connection: socket.socket
) -> None:
    given = 0
    while inboxes.has_room(1):
        assert inboxes.waiting(1) == given
        assert inboxes.give(1, Handed(Kind.FRESH), connection.fileno())
        given += 1
    assert given > 50
    assert not inboxes.give(1, Handed(Kind.FRESH), connection.fileno())
    assert (inboxes.waiting(0), inboxes.waiting(1)) == (0, given)
    assert taken(inboxes, 1)
    assert inboxes.has_room(1)
    assert inboxes.waiting(1) == given - 1


def test_without_room_it_waits_and_is_there_later(
    inboxes: Inboxes, connection: socket.socket
) -> None:
    for _ in range(2):
        assert inboxes.give(0, Handed(Kind.FRESH), connection.fileno())
    with no_more_descriptors():
        found = inboxes.take(0)  # into the place that is kept spare
        assert found is not None
        with pytest.raises(OSError, match="open files"):
            inboxes.take(0)
        assert inboxes.waiting(0) == 1
        os.close(found[1])
        assert taken(inboxes, 0) is not None


def test_a_descriptor_outlives_who_gave_it(inboxes: Inboxes) -> None:
    ours, theirs = socket.socketpair()
    assert inboxes.give(0, Handed(Kind.FRESH), theirs.fileno())
    theirs.close()
    found = inboxes.take(0)
    assert found is not None
    with ours, socket.socket(fileno=found[1]) as moved:
        moved.sendall(b"here")
        assert ours.recv(9) == b"here"


def test_none_for_no_seats() -> None:
    Inboxes(0).close()


GOOD = struct.pack("=BBB?d", VERSION, Kind.FRESH, 0, False, 0.0)


@pytest.mark.parametrize(
    ("message", "descriptors"),
    [
        (b"\x02" + GOOD[1:], 1),
        (bytes([VERSION, 9]) + GOOD[2:], 1),
        (GOOD[:-1], 1),
        (GOOD + b"\0", 1),
        (GOOD, 0),
        (GOOD, 2),
        (b"\0", 1),
    ],
    ids=["version", "kind", "short", "long", "no descriptor", "two descriptors", "nothing"],
)
def test_what_is_not_understood_is_closed_and_told(
    inboxes: Inboxes, message: bytes, descriptors: int
) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        rights = array("i", [theirs.fileno()] * descriptors)
        inboxes._writers[0].sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        theirs.close()
        with pytest.raises(Unreadable):
            inboxes.take(0)
        assert ours.recv(1) == b"", "nobody holds the other end any more"
    assert inboxes.take(0) is None
