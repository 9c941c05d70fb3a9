"""One listening socket of a worker: what waits there, and how much of it is taken at a time.

The only place that calls ``accept(2)``. Whether there is something is asked by ``poll``: an
``accept`` that finds nothing costs ten times as much, because the kernel makes the socket first.
"""

from __future__ import annotations

import asyncio
import enum
import errno
import logging
import select
import socket
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from asgi_worker import ending
from asgi_worker.scoreboard import Word

if TYPE_CHECKING:
    from asgi_worker.accepting import Accepting

BATCH: Final = 16
"""Connections taken in a turn of the loop from a queue that no other worker has time for."""
POLLS: Final = 3
"""The loop has polled by then: turns in which it is tried to join the line."""
PAUSE_S: Final = 0.1
"""How long a queue is left alone when there was no room for its next connection."""
HARMLESS: Final = frozenset(
    {
        *(errno.ECONNABORTED, errno.EINTR, errno.EPROTO, errno.EPERM),  # EPERM: by a firewall
        # What accept(2) says Linux passes on of a connection that has failed in the queue:
        *(errno.ENETDOWN, errno.ENOPROTOOPT, errno.EHOSTDOWN, errno.ENONET, errno.EHOSTUNREACH),
        *(errno.EOPNOTSUPP, errno.ENETUNREACH),
    }
)
"""Errors of one connection, which is gone; the next may be well."""

_TCP_INFO: Final = struct.Struct("24xII")
"""``tcpi_unacked`` and ``tcpi_sacked`` of tcp(7): how many wait at a listener, and may at most."""
HELPED: Final = int(Word.HELPED)

Factory = Callable[[], asyncio.Protocol]

log = logging.getLogger("asgi_worker")


class Whose(enum.Enum):
    """Who is to accept the connections of a queue."""

    OWN = enum.auto()
    """The worker in our slot; the queue ends with the service."""
    NEIGHBOUR = enum.auto()
    """That in another slot, and we if it has no time."""
    SHARED = enum.auto()
    """All workers, and whoever else has it."""


class Queue:
    """One listening socket."""

    def __init__(
        self, accepting: Accepting, listener: socket.socket, make: Factory, whose: Whose
    ) -> None:
        self.accepting = accepting
        self.listener = listener
        self.make = make
        self.family = listener.family
        self.whose = whose
        shared = whose is Whose.SHARED and accepting.workers > 1
        self.batch = 1 if shared else BATCH
        self._poll = select.poll()
        self._poll.register(listener, select.POLLIN)
        self._watched = False
        self._in_line = False
        self._waits = False  # there was something when we last looked
        self._paused: asyncio.TimerHandle | None = None

    def watch(self) -> None:
        """Take connections as they come."""
        self._paused = None
        self._watched = True
        self.accepting.loop.add_reader(self.listener.fileno(), self._take_some)
        if self.accepting.line is not None:
            self._line_up(POLLS)

    def unwatch(self) -> None:
        """Leave them where they are."""
        self._watched = self._in_line = False
        self.accepting.loop.remove_reader(self.listener.fileno())
        if self._paused is not None:
            self._paused.cancel()
            self._paused = None

    def _line_up(self, polls: int = 0) -> None:
        """Go to the end of the line, in one of the next turns if the loop has still to poll."""
        line = self.accepting.line
        if line is None or not self._watched:
            return
        try:
            line.join(self.listener.fileno())
            self._in_line = True
        except FileNotFoundError:
            if polls:
                self.accepting.loop.call_soon(self._line_up, polls - 1)
        except OSError as error:
            self.unwatch()
            log.warning("cannot wait in line for connections: %s; go on without", error.strerror)
            if self.whose is Whose.NEIGHBOUR:
                self.accepting.forget(self)
            else:
                self._watched = True
                self.accepting.loop.add_reader(self.listener.fileno(), self._take_some)

    def look(self) -> None:
        """If something waits, and did so last time, go to the end of the line: who comes new is
        told what is there.
        """
        before, self._waits = self._waits, self._in_line and self._has_more()
        if before and self._waits:
            self._line_up()

    def take_all(self, most: int) -> bool:
        """Take what is queued, ``most`` at most; ``False``: there was no room for some of it."""
        while most and self._has_more():
            if not self._take():
                return False
            most -= 1
        return True

    def finish(self, most: int) -> bool:
        """Take all as :meth:`take_all` does, and be the last to do so.

        If it is our own, it ends with that.
        """
        if not self.take_all(most):
            return False
        if self.whose is Whose.OWN:
            ending.end(self.listener)
        return True

    def _has_more(self) -> bool:
        found = self._poll.poll(0)
        return bool(found) and not found[0][1] & select.POLLHUP

    def length(self) -> int:
        """How many connections wait here; 1 where the kernel does not tell, 0 once it is closed."""
        return self._filled()[0]

    def holds(self, more: int) -> bool:
        """Whether it would be less than half full if ``more`` came."""
        waiting, room = self._filled()
        return 2 * (waiting + more) < room

    def _filled(self) -> tuple[int, int]:
        """How many wait, and how many may."""
        if self.listener.fileno() < 0:
            return 0, 1
        if self.family == socket.AF_UNIX:
            return 1, socket.SOMAXCONN
        said = self.listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        waiting, room = _TCP_INFO.unpack(said)
        return waiting, room

    def take_if_any(self) -> None:
        """Take one, if it is still there and we still take any."""
        if self._watched and self._has_more():
            self._take_at_once(1)

    def _take_some(self) -> None:
        """The loop says that there is something in the queue."""
        self.accepting.begin()
        if self.accepting.patient:
            self.accepting.patience.offer(self)
        else:
            self._take_at_once(self.batch)

    def _take_at_once(self, most: int) -> None:
        for number in range(most):
            if number and not self._has_more():
                break
            if not self._take():
                self.unwatch()
                self._paused = self.accepting.loop.call_later(PAUSE_S, self.watch)
                return
        if self._in_line and (self.whose is not Whose.OWN or self.accepting.gathers):
            self._line_up()

    def _take(self) -> bool:
        """Take a connection, if there is one; ``False``: there is no room for it."""
        accepting = self.accepting
        try:
            descriptor, _ = self.listener._accept()  # type: ignore[attr-defined]  # noqa: SLF001
        except BlockingIOError:
            return True  # another worker was faster
        except OSError as error:
            if error.errno in HARMLESS:
                return True
            if error.errno != errno.EINVAL:  # the other worker in our slot has shut the queue
                accepting.failed(error)
            return False
        if accepting.short_since is not None:
            accepting.recovered()
        if self.whose is Whose.NEIGHBOUR:
            accepting.board[HELPED] += 1
        if accepting.pass_on is None or not accepting.pass_on(descriptor):
            accepting.adopt(descriptor, self.make, self.family)
        return True
