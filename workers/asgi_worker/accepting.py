"""Taking connections from the queues of the listeners, and leaving them there if there is no room.

The only place that calls ``accept(2)``. The loops have listeners of their own, which are refused:
out of descriptors, libuv accepts and closes all that is queued, so that clients are reset; after
other errors it listens no more; and both loops keep the descriptor to themselves. Here a connection
that cannot be taken stays in the queue, for later or for another worker.

It is also the cheaper way. libuv accepts one connection a turn; connections that are taken in one
turn share all that a turn costs, a quarter of what a connection with one request does. Whether
there is more is asked by ``poll``: an ``accept`` that finds nothing costs ten times as much,
because the kernel makes the socket first. Where others wait at the same queue, one is taken a turn,
so that they get theirs.

Whether a queue is our slot's own is told, for it does not show: ``SO_REUSEPORT`` may be set on a
socket that was inherited, and is held by whoever passed it on.

Transports are made by the loop's own ``connect_accepted_socket``, a coroutine that waits once. It
is driven by hand, because a task for it would cost as much as accepting.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import logging
import select
import socket
from collections.abc import Callable, Coroutine
from typing import Final

BATCH: Final = 16
"""Connections taken in a turn of the loop from a queue that no other worker serves."""
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

Factory = Callable[[], asyncio.Protocol]
Opening = Coroutine[asyncio.Future[None], None, object]

log = logging.getLogger("asgi_worker")


class Accepting:
    """The queues of one worker. ``begin`` is called before the first connection of a turn."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, *, alone: bool, begin: Callable[[], None]
    ) -> None:
        self.loop = loop
        self.alone = alone
        """Whether no other worker waits at the queues that are not our slot's own."""
        self.begin = begin
        self.queues: list[Queue] = []
        self.short_since: float | None = None
        """Loop time since when there is no room for all connections."""
        self._short_at = 0.0

    def listen(self, listener: socket.socket, make: Factory, *, own: bool) -> None:
        """Accept from ``listener`` (bound, listening; not kept) from now on.

        ``own``: nobody else does but another worker in our slot, and it ends with the service.
        """
        copy = listener.dup()
        copy.setblocking(False)
        queue = Queue(self, copy, make, own=own)
        self.queues.append(queue)
        queue.watch()

    def pause(self) -> None:
        """Take no more connections."""
        for queue in self.queues:
            queue.unwatch()

    def finish(self, most: int) -> bool:
        """After :meth:`pause`: take what is queued, ``most`` of each queue at most, and shut those
        that are our own.

        ``False``: there was no room for some of it.
        """
        refused = [queue for queue in self.queues if not queue.finish(most)]
        return not refused

    def stop(self) -> None:
        """Leave what is queued to others: a queue lives as long as somebody holds it."""
        self.pause()
        for queue in self.queues:
            queue.listener.close()
        self.queues.clear()

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
        self, accepting: Accepting, listener: socket.socket, make: Factory, *, own: bool
    ) -> None:
        self.accepting = accepting
        self.listener = listener
        self.make = make
        self.family = listener.family
        self.own = own
        self.batch = BATCH if own or accepting.alone else 1
        self._poll = select.poll()
        self._poll.register(listener, select.POLLIN)
        self._paused: asyncio.TimerHandle | None = None

    def watch(self) -> None:
        """Take connections as they come."""
        self._paused = None
        self.accepting.loop.add_reader(self.listener.fileno(), self._take_some)

    def unwatch(self) -> None:
        """Leave them where they are."""
        self.accepting.loop.remove_reader(self.listener.fileno())
        if self._paused is not None:
            self._paused.cancel()
            self._paused = None

    def finish(self, most: int) -> bool:
        """Take what is queued, ``most`` at most; ``False``: there was no room for some of it.

        Then nothing more may be queued, if it is our own. Master and template hold the queue as
        well, if only for a moment, so closing it is not enough: who came in that moment would be
        reset, not refused.
        """
        while most and self._has_more():
            if not self._take():
                return False
            most -= 1
        if self.own:
            with contextlib.suppress(OSError):  # the other worker in our slot was faster
                self.listener.shutdown(socket.SHUT_RD)
        return True

    def _has_more(self) -> bool:
        found = self._poll.poll(0)
        return bool(found) and not found[0][1] & select.POLLHUP

    def _take_some(self) -> None:
        """The loop says that there is something in the queue."""
        self.accepting.begin()
        for number in range(self.batch):
            if number and not self._has_more():
                break
            if not self._take():
                self.unwatch()
                self._paused = self.accepting.loop.call_later(PAUSE_S, self.watch)
                break

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
        self._open(descriptor)
        return True

    def _open(self, descriptor: int) -> None:
        """Make a connection of what was taken."""
        sock = socket.socket(self.family, socket.SOCK_STREAM, 0, descriptor)
        opening: Opening = self.accepting.loop.connect_accepted_socket(self.make, sock)
        try:
            waiter = opening.send(None)
        except OSError as error:  # reset already, or the loop cannot watch any more
            sock.close()
            log.warning("cannot serve an accepted connection: %s", error)
        else:
            waiter.add_done_callback(functools.partial(_finish, opening))


def _finish(opening: Opening, waiter: asyncio.Future[None]) -> None:
    """The transport is there, or it is closed already: nothing else was waited for."""
    try:
        opening.send(None)
    except StopIteration:
        pass
    except RuntimeError:
        if waiter.exception() is None:
            raise
