"""Taking connections from the queues of the listeners, and leaving them there if there is no room.

The loops have listeners of their own, which are refused: out of descriptors, libuv accepts and
closes all that is queued, so that clients are reset; after other errors it listens no more; and
both loops keep the descriptor to themselves. Here a connection that cannot be taken stays in the
queue, for later or for another worker.

It is also the cheaper way. libuv accepts one connection a turn; connections that are taken in one
turn share all that a turn costs, a quarter of what a connection with one request does. Where all
workers wait at one queue, one is taken a turn, so that each gets its part. If connections cost so
much that this is worth it, one is taken after the other (:mod:`patience`).

A worker helps out at the queues of some neighbours, when they have no time (:mod:`exclusive`).

Whose a queue is, is told, for it does not show: ``SO_REUSEPORT`` may be set on a
socket that was inherited, and is held by whoever passed it on.

Transports are made by the loop's own ``connect_accepted_socket``, a coroutine that waits once. It
is driven by hand, because a task for it would cost as much as accepting.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import logging
import socket
from collections.abc import Callable, Coroutine, Sized
from typing import Final

from asgi_worker import ending
from asgi_worker.exclusive import line_of
from asgi_worker.patience import Patience
from asgi_worker.queues import BATCH, PAUSE_S, Factory, Queue, Whose
from asgi_worker.scoreboard import Word

CALM_S: Final = 5.0
"""Without a shortage for so long, it is over; the next one is reported again."""
PROTOCOLS: Final[dict[int, int]] = {
    socket.AF_INET: socket.IPPROTO_TCP,
    socket.AF_INET6: socket.IPPROTO_TCP,
    socket.AF_UNIX: 0,
}
"""Of connections. Only where it is TCP asyncio sees to it that small pieces do not wait."""
CONNECTIONS: Final = int(Word.CONNECTIONS)
GATHERS: Final = int(Word.GATHERS)

Opening = Coroutine[asyncio.Future[None], None, object]

log = logging.getLogger("asgi_worker")


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
        """Let the master know whether one queue for all is ``wanted``, and would do: also if all
        clients that are there, most of them at other workers, came anew in one moment.
        """
        whose = [queue.whose for queue in self.queues]
        theirs = (self.workers - 1) * whose.count(Whose.OWN)
        would_do = whose.count(Whose.NEIGHBOUR) == theirs > 0
        all_clients = self.workers * len(self.connections)
        self.gathers = wanted and would_do and all(q.holds(all_clients) for q in self.queues)
        self.board[GATHERS] = self.gathers

    def forget(self, queue: Queue) -> None:
        """Leave ``queue``, that of a neighbour, to others for good; nothing is to be gathered."""
        self.queues = [other for other in self.queues if other is not queue]
        queue.listener.close()

    def admit_no_more(self) -> bool:
        """Let nobody else join our own queues, who are on the way in excepted; if we have any."""
        ours = [queue.listener for queue in self.queues if queue.whose is Whose.OWN]
        for listener in ours:
            ending.admit_no_more(listener)
        return bool(ours)

    def pause(self) -> None:
        """Take no more connections."""
        for queue in self.queues:
            queue.unwatch()

    def finish(self, most: int) -> bool:
        """After :meth:`admit_no_more` and :meth:`pause`: take what is queued, ``most`` of each
        queue at most, and shut those that are our own. Those of neighbours are left to them.

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


def _finish(opening: Opening, waiter: asyncio.Future[None]) -> None:
    """The transport is there, or it is closed already: nothing else was waited for."""
    try:
        opening.send(None)
    except StopIteration:
        pass
    except RuntimeError:
        if waiter.exception() is None:
            raise
