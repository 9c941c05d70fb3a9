"""Inboxes: how a connection gets from one process of ours to another.

One a seat, and what is in it outlives the worker with that seat: master and template hold both ends
of every inbox, so a successor, or the master, takes what a crashed worker had not taken yet. So do
all workers: when the service stops there is no successor, and who gave to one that was just leaving
takes it back.

A message is a few bytes about the connection and its descriptor. It is of one size, so the kernel's
count of bytes that wait tells how many connections do: a figure that never goes wrong, whoever dies
in between. There is nothing in it that the receiver could ask the socket itself, as its addresses.

A worker says in the scoreboard (``Word.TAKES``) which version of these messages it takes. Who gives
looks there first: a worker of another version, as there may be after an upgrade, is not given what
it would not understand.

The kernel drops a descriptor for which the receiver has no room, and with it the connection. So
each process keeps one descriptor spare, and makes room with it.
"""

from __future__ import annotations

import enum
import fcntl
import os
import socket
import struct
import termios
from array import array
from typing import Final, NamedTuple

from asgi_worker import channel

VERSION: Final = 1
_LAYOUT: Final = struct.Struct("=BBB?d")


class Kind(enum.IntEnum):
    """What of a connection was read before it was handed over."""

    FRESH = 1  # nothing
    IDLE = 2  # whole requests, and they are answered


_KINDS: Final = frozenset(Kind)


class Handed(NamedTuple):
    """What goes along with a descriptor."""

    kind: Kind
    hops: int = 0
    """How often it was handed over before, as a fresh connection."""
    rescued: bool = False
    """The master found it waiting for somebody who did not come."""
    idle_until: float = 0.0
    """When an idle one is closed if nothing comes: seconds of the monotonic clock."""


class Unreadable(Exception):
    """A message that nobody should have sent; its connection is closed."""


class Inboxes:
    """The inboxes of ``seats`` seats. Make it before the first fork; children inherit it.

    Raises ``OSError`` if the system has no room for so many sockets.
    """

    def __init__(self, seats: int) -> None:
        self._readers: list[socket.socket] = []
        self._writers: list[socket.socket] = []
        self._spare = -1
        try:
            for _ in range(seats):
                reader, writer = channel.pair()
                self._readers.append(reader)
                self._writers.append(writer)
                writer.setblocking(False)
            self._unit_bytes = self._weigh() if seats else 0
            self._room_bytes = self._measure() if seats else 0
        except BaseException:
            self.close()
            raise

    def _weigh(self) -> int:
        """What the kernel counts for one message."""
        with socket.socket() as some:
            self.give(0, Handed(Kind.FRESH), some.fileno())
            unit_bytes = self._waiting_bytes(0)
            taken = self.take(0)
            if taken is not None:
                os.close(taken[1])
            return unit_bytes

    def _measure(self) -> int:
        """The kernel takes one more as long as less than this waits (socket(7), SO_SNDBUF)."""
        return self._writers[0].getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)

    def reader(self, seat: int) -> int:
        """The descriptor that is readable when something waits for ``seat``."""
        return self._readers[seat].fileno()

    def give(self, seat: int, handed: Handed, descriptor: int) -> bool:
        """Hand a copy of ``descriptor`` to ``seat``; ``False`` if its inbox is full."""
        message = _LAYOUT.pack(VERSION, *handed)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [descriptor]))]
        try:
            self._writers[seat].sendmsg([message], rights)
        except OSError:  # EAGAIN; ETOOMANYREFS: of all descriptors that this user has under way
            return False
        return True

    def take(self, seat: int) -> tuple[Handed, int] | None:
        """The next connection that waits for ``seat``, and its descriptor (closed on exec).

        ``None`` if there is none. Raises ``OSError`` if there is no room for it, so that it waits
        on, and :class:`Unreadable`.
        """
        reader = self._readers[seat]
        spare = self._spare if self._spare >= 0 else os.dup(reader.fileno())
        self._spare = -1
        os.close(spare)
        try:
            message, descriptors = channel.receive(reader)
        except BlockingIOError:
            return None
        finally:
            self._keep_spare(reader)
        return _read(message, descriptors)

    def _keep_spare(self, reader: socket.socket) -> None:
        try:
            self._spare = os.dup(reader.fileno())
        except OSError:
            self._spare = -1  # the next to be taken waits for room

    def waiting(self, seat: int) -> int:
        """How many connections wait to be taken by ``seat``."""
        return self._waiting_bytes(seat) // self._unit_bytes

    def has_room(self, seat: int) -> bool:
        """Whether its inbox can take one more now."""
        return self._waiting_bytes(seat) < self._room_bytes

    def _waiting_bytes(self, seat: int) -> int:
        count = array("i", [0])
        fcntl.ioctl(self._writers[seat].fileno(), termios.TIOCOUTQ, count)  # SIOCOUTQ, unix(7)
        return count[0]

    def close(self) -> None:
        """Close this process's copies. The last one closed ends the connections in them."""
        for end in (*self._readers, *self._writers):
            end.close()
        self._readers.clear()
        self._writers.clear()
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1


def _read(message: bytes, descriptors: list[int]) -> tuple[Handed, int]:
    with channel.closing(descriptors):
        known = len(message) == _LAYOUT.size and message[0] == VERSION and message[1] in _KINDS
        if not known or len(descriptors) != 1:
            raise Unreadable(f"{message!r} with {len(descriptors)} descriptors")
        _, kind, hops, rescued, idle_until = _LAYOUT.unpack(message)
        return Handed(Kind(kind), hops, rescued, idle_until), descriptors.pop()
