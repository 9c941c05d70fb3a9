"""Taking connections from the queues of the listeners, and leaving them there if there is no room.

The only place that calls ``accept(2)``. The loops have listeners of their own, which are refused:
out of descriptors, libuv accepts and closes all that is queued, so that clients are reset; after
other errors it listens no more; and both loops keep the descriptor to themselves. Here a connection
that cannot be taken stays in the queue, for later or for another worker.

It is also the cheaper way. libuv accepts one connection a turn; connections that are taken in one
turn share all that a turn costs, a quarter of what a connection with one request does. Whether
there is more is asked by ``poll``: an ``accept`` that finds nothing costs ten times as much,
because the kernel makes the socket first. Where all workers wait at one queue, one is taken a turn,
so that each gets its part. If connections cost so much that this is worth it, one is taken after
the other (:mod:`patience`).

A worker helps out at the queues of some neighbours, when they have no time (:mod:`exclusive`).

Whose a queue is, is told, for it does not show: ``SO_REUSEPORT`` may be set on a
socket that was inherited, and is held by whoever passed it on.

Transports are made by the loop's own ``connect_accepted_socket``, a coroutine that waits once. It
is driven by hand, because a task for it would cost as much as accepting.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import errno
import functools
import logging
import select
import socket
import struct
from collections.abc import Callable, Coroutine, Sized
from typing import Final

from asgi_worker.exclusive import line_of
from asgi_worker.patience import Patience
from asgi_worker.scoreboard import Word

BATCH: Final = 16
"""Connections taken in a turn of the loop from a queue that no other worker has time for."""
POLLS: Final = 3
"""The loop has polled by then: turns in which it is tried to join the line."""
PAUSE_S: Final = 0.1
"""How long a queue is left alone when there was no room for its next connection."""
CALM_S: Final = 5.0
"""Without a shortage for so long, it is over; the next one is reported again."""
HARMLESS: Final = frozenset(
    {
        *(errno.ECONNABORTED, errno.EINTR, errno.EPROTO, errno.EPERM),  # EPERM: by a firewall
        # What accept(2) says Linux passes on of a connection that has failed in the queue:
        *(errno.ENETDOWN, errno.ENOPROTOOPT, errno.EHOSTDOWN, errno.ENONET, errno.EHOSTUNREACH),
        *(errno.EOPNOTSUPP, errno.ENETUNREACH),
    }
)
"""Errors of one connection, which is gone; the next may be well."""

PROTOCOLS: Final[dict[int, int]] = {
    socket.AF_INET: socket.IPPROTO_TCP,
    socket.AF_INET6: socket.IPPROTO_TCP,
    socket.AF_UNIX: 0,
}
"""Of connections. Only where it is TCP asyncio sees to it that small pieces do not wait."""
_TCP_INFO: Final = struct.Struct("24xI")
"""``tcpi_unacked`` of tcp(7): for a listener, how many connections wait to be accepted."""

CONNECTIONS: Final = int(Word.CONNECTIONS)
HELPED: Final = int(Word.HELPED)
GATHERS: Final = int(Word.GATHERS)

Factory = Callable[[], asyncio.Protocol]
Opening = Coroutine[asyncio.Future[None], None, object]

log = logging.getLogger("asgi_worker")


class Whose(enum.Enum):
    """Who is to accept the connections of a queue."""

    OWN = enum.auto()
    """The worker in our slot; the queue ends with the service."""
    NEIGHBOUR = enum.auto()
    """That in another slot, and we if it has no time."""
    SHARED = enum.auto()
    """All workers, and whoever else has it."""


class Accepting:
    """The queues of one worker. ``begin`` is called before the first connection of a turn."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        workers: int,
        begin: Callable[[], None],
        connections: Sized,
        board: memoryview,
        pass_on: Callable[[int], bool] | None = None,
        in_line: bool = False,
    ) -> None:
        self.loop = loop
        self.workers = workers
        """So many wait at the queues that are shared; each has a slot with queues of its own."""
        self.begin = begin
        self.connections = connections
        """Those that are there: each is among them when its transport is made."""
        self.opening = 0
        """Connections that are ours, but have no transport yet."""
        self.board = board
        self.pass_on = pass_on
        """Called with each descriptor that was accepted, before it is counted. ``True``: another
        worker has it, and it is closed here."""
        self.patient = False
        """Whether to take one after the other, since others may have time for what is left."""
        self.gathers = False
        """Whether to take turns with the others at every queue, so that one for all would do."""
        self.patience = Patience(loop)
        self.line = line_of(loop) if in_line else None
        """Where workers wait in line at the queues, and at those of neighbours too."""
        self.queues: list[Queue] = []
        self.short_since: float | None = None
        """Loop time since when there is no room for all connections."""
        self._short_at = 0.0

    def listen(self, listener: socket.socket, make: Factory, whose: Whose) -> None:
        """Accept from ``listener`` (bound, listening; not kept) from now on.

        Our own are to come first. Neighbours get no help where one cannot wait in line.
        """
        if whose is Whose.NEIGHBOUR and self.line is None:
            return
        copy = listener.dup()
        copy.setblocking(False)
        queue = Queue(self, copy, make, whose)
        self.queues.append(queue)
        queue.watch()

    def adopt(self, descriptor: int, make: Factory, family: int = -1) -> None:
        """Make a connection of ``descriptor``, a connected socket that is ours from here on.

        ``family``: if it is known; else the kernel is asked.
        """
        sock = socket.socket(family, socket.SOCK_STREAM, PROTOCOLS.get(family, -1), descriptor)
        self.opening += 1
        self.tell()
        opening: Opening = self.loop.connect_accepted_socket(make, sock)
        try:
            waiter = opening.send(None)
        except OSError as error:  # reset already, or the loop cannot watch any more
            sock.close()
            self.opened()
            self.tell()
            log.warning("cannot serve an accepted connection: %s", error)
        else:
            waiter.add_done_callback(functools.partial(_finish, opening))

    def opened(self) -> None:
        """One that was opening is among the connections now, and they are as many as before."""
        self.opening -= 1

    def tell(self) -> None:
        """Let the others see how many connections we have; for who closes one, too."""
        self.board[CONNECTIONS] = len(self.connections) + self.opening

    def gather(self, wanted: bool) -> None:
        """Let the master know whether one queue for all is ``wanted``, and would do."""
        whose = [queue.whose for queue in self.queues]
        theirs = (self.workers - 1) * whose.count(Whose.OWN)
        self.gathers = wanted and whose.count(Whose.NEIGHBOUR) == theirs > 0
        self.board[GATHERS] = self.gathers

    def pause(self) -> None:
        """Take no more connections."""
        for queue in self.queues:
            queue.unwatch()

    def finish(self, most: int) -> bool:
        """After :meth:`pause`: take what is queued, ``most`` of each queue at most, and shut those
        that are our own. Those of neighbours are left to them.

        ``False``: there was no room for some of it.
        """
        ours = (queue for queue in self.queues if queue.whose is not Whose.NEIGHBOUR)
        refused = [queue for queue in ours if not queue.finish(most)]
        return not refused

    def look(self) -> None:
        """To be called now and then, for what nobody comes for: the kernel tells one of those in
        line, who may hang, die or have no room before it has taken it, and tells no other.
        """
        for queue in self.queues:
            queue.look()

    def leave(self) -> None:
        """Leave the queues to others.

        Who waits in line takes some of what is there by now: of a connection that comes the kernel
        tells one of those who have time, and where that was we, nobody else would ever know. Where
        more wait than that, others were told.
        """
        self.pause()  # from now on others are told
        if self.line is not None:
            for queue in self.queues:
                queue.take_all(BATCH)
        self.stop()

    def stop(self) -> None:
        """Leave what is queued to others: a queue lives as long as somebody holds it."""
        self.pause()
        for queue in self.queues:
            queue.listener.close()
        self.queues.clear()
        if self.line is not None:
            self.line.close()
            self.line = None

    def failed(self, error: OSError) -> None:
        """There is no room for another connection, or something is wrong with the listener."""
        now = self.loop.time()
        if self.short_since is None:
            self.short_since = now
            files = error.errno in (errno.EMFILE, errno.ENFILE)
            log.error(
                "cannot accept connections: %s; they wait in the queue%s",
                error.strerror,
                " (allow more open files: ulimit -n, LimitNOFILE=)" if files else "",
            )
        self._short_at = now

    def recovered(self) -> None:
        """A connection was taken after a shortage, which is over when it has been calm since."""
        now = self.loop.time()
        if self.short_since is not None and now >= self._short_at + CALM_S:
            log.warning(
                "connections are accepted again; for %.1f s there was not room for all of them",
                self._short_at - self.short_since + PAUSE_S,
            )
            self.short_since = None


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
            if self.whose is not Whose.NEIGHBOUR:
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

        Then nothing more may be queued, if it is our own. Master and template hold the queue as
        well, if only for a moment, so closing it is not enough: who came in that moment would be
        reset, not refused. Nor do many come between the last look and the end, for there is room
        for one only.
        """
        if self.whose is Whose.OWN:
            with contextlib.suppress(OSError):
                self.listener.listen(0)
        if not self.take_all(most):
            return False
        if self.whose is Whose.OWN:
            with contextlib.suppress(OSError):  # the other worker in our slot was faster
                self.listener.shutdown(socket.SHUT_RD)
        return True

    def _has_more(self) -> bool:
        found = self._poll.poll(0)
        return bool(found) and not found[0][1] & select.POLLHUP

    def length(self) -> int:
        """How many connections wait here; 1 where the kernel does not tell, 0 once it is closed."""
        if self.listener.fileno() < 0:
            return 0
        if self.family == socket.AF_UNIX:
            return 1
        said = self.listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        return int(_TCP_INFO.unpack(said)[0])

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


def _finish(opening: Opening, waiter: asyncio.Future[None]) -> None:
    """The transport is there, or it is closed already: nothing else was waited for."""
    try:
        opening.send(None)
    except StopIteration:
        pass
    except RuntimeError:
        if waiter.exception() is None:
            raise
