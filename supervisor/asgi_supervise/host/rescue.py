"""Connections that wait for somebody who does not come, and are given to somebody who does.

The queues of listeners and the inboxes outlive the worker they are for. While a worker hangs, is
gone or leaves, the master accepts from its queues and takes from its inbox, and gives each
connection to the worker that has the fewest. The policy says whose they are and who takes.

Nothing is accepted that cannot be given on: in its queue a connection is safe, also from the end of
the master. Should an inbox fill up in just that moment, one connection is kept in hand until
somebody has room.

Considered and refused: another process or a thread for this (the master turns within a millisecond
again, for which a bound on the work of a turn is enough); waking the master for whatever waits (a
queue that is not emptied would wake it again and again: it pauses).
"""

from __future__ import annotations

import errno
import heapq
import logging
import math
import os
import select
import selectors
import socket
from collections.abc import Callable, Collection, Sequence
from functools import partial
from itertools import chain
from typing import Final

from asgi_supervise.host.sockets import Listeners
from asgi_worker import ending
from asgi_worker.inbox import VERSION, Handed, Inboxes, Kind, Unreadable
from asgi_worker.scoreboard import Scoreboard, Word

log = logging.getLogger("asgi_supervise")

MOST_AT_ONCE: Final = 128
"""Connections in one turn of the master: a few milliseconds."""
NO_ROOM_S: Final = 0.05
"""A pause, after which it is looked again whether somebody has room …"""
REFUSED_S: Final = 0.1
"""… and one after the system has refused."""

Waiting = tuple[Handed, int]
Source = Callable[[], Waiting | None]
Takers = list[tuple[int, int]]
"""A heap of connections and seat."""


class Rescue:
    """The connections that the master has to do with. Part of the host, whose selector it uses.

    ``resumes`` is when :meth:`work` is to be called though nothing became readable.
    """

    def __init__(
        self,
        listeners: Listeners,
        inboxes: Inboxes,
        scoreboard: Scoreboard,
        selector: selectors.BaseSelector,
    ) -> None:
        self.resumes = math.inf
        self._listeners = listeners
        self._inboxes = inboxes
        self._takes = scoreboard.column(Word.TAKES)
        self._share = scoreboard.column(Word.SHARE)
        self._connections = scoreboard.column(Word.CONNECTIONS)
        self._selector = selector
        self._sources: dict[int, Source] = {}
        """What is to be emptied, by descriptor …"""
        self._watched: set[int] = set()
        """… and those of them that wake the master: all, or none in a pause."""
        self._takers: Sequence[int] = ()
        self._in_hand: Waiting | None = None
        self._complained = False

    def begin(
        self, slots: Sequence[int], seats: Collection[int], takers: Sequence[int], now: float
    ) -> None:
        """From now on give what waits for ``slots`` and ``seats`` to the seats ``takers``.

        All slots: then nobody accepts what the workers share either.
        """
        takers = [seat for seat in takers if seat not in seats]
        self._sources = {}
        if takers:
            queues = [self._listeners.of_slot(slot) for slot in slots]
            if len(queues) == len(self._listeners.by_slot):
                queues.append(self._listeners.shared)
            for listener in chain.from_iterable(queues):
                self._sources[listener.fileno()] = partial(_accept, listener)
            for seat in seats:
                self._sources[self._inboxes.reader(seat)] = partial(self._inboxes.take, seat)
        if not slots:
            self._complained = False
        if takers or self._in_hand is None:  # else who was to get that one still is
            self._takers = takers
        self._watch(now)

    def end_queues(self, now: float) -> None:
        """The service stops, and the listeners are about to be closed.

        Workers end their own queues. Those to which nobody comes are emptied a last time and ended
        here: who joined one now would wait while anybody holds it, and then be reset, not refused.
        """
        queues = list(chain.from_iterable(self._listeners.by_slot))
        queues = [listener for listener in queues if listener.fileno() in self._sources]
        if self.resumes == math.inf:  # else somebody may still come
            for listener in queues:
                ending.admit_no_more(listener)
            self.work(self._sources.keys() - {queue.fileno() for queue in queues}, now)
            while self.resumes == math.inf and (waiting := [*filter(_waits, queues)]):
                self.work({queue.fileno() for queue in waiting}, now)
            for listener in queues:
                if not _waits(listener):
                    ending.end(listener)
        for listener in queues:
            del self._sources[listener.fileno()]
        for listener in self._listeners.shared:
            self._sources.pop(listener.fileno(), None)
        self._watch(now)

    def let_go(self) -> None:
        """Close what is in hand: in a child just forked, or at the end."""
        if self._in_hand is not None:
            os.close(self._in_hand[1])
            self._in_hand = None

    def work(self, readable: Collection[int], now: float) -> None:
        """Give on what waits in those of the sources that are ``readable``."""
        if now >= self.resumes:
            self.resumes = math.inf
        elif self.resumes < math.inf:
            return
        sources = [source for reader, source in self._sources.items() if reader in readable]
        takers = self._by_connections() if sources or self._in_hand else []
        try:
            if not (self._empty_hand(takers) and self._empty(sources, takers)):
                self.resumes = now + NO_ROOM_S
        except OSError as error:
            self.resumes = now + REFUSED_S
            self._complain(error)
        self._watch(now)

    def _by_connections(self) -> Takers:
        """Who takes, with what it has; not who is on trial, unless there is nobody else."""
        able = [seat for seat in self._takers if self._takes[seat] == VERSION]
        able = [seat for seat in able if not self._share[seat]] or able
        takers = [(self._connections[seat] + self._inboxes.waiting(seat), seat) for seat in able]
        heapq.heapify(takers)
        return takers

    def _empty_hand(self, takers: Takers) -> bool:
        if self._in_hand is not None and self._give(self._in_hand, takers):
            self._in_hand = None
        return self._in_hand is None

    def _empty(self, sources: list[Source], takers: Takers) -> bool:
        """One of each in turn, so that none waits for the others. Whether there is room for more.

        Raises ``OSError`` if the system refuses one, which then waits on, after the others.
        """
        given = 0
        refused: OSError | None = None
        while sources and given < MOST_AT_ONCE:
            for source in list(sources):
                if not self._is_room(takers):
                    return False
                try:
                    waiting = source()
                except Unreadable as error:
                    log.warning("closed a connection that nobody of ours handed over: %s", error)
                    continue
                except OSError as error:
                    refused = error
                    waiting = None
                if waiting is None:
                    sources.remove(source)
                elif self._give(waiting, takers):
                    given += 1
                else:
                    self._in_hand = waiting
                    return False
        if refused is not None:
            raise refused
        return True

    def _is_room(self, takers: Takers) -> bool:
        """Whether the first of the takers has room; those that have none are no takers any more."""
        while takers and not self._inboxes.has_room(takers[0][1]):
            heapq.heappop(takers)
        return bool(takers)

    def _give(self, waiting: Waiting, takers: Takers) -> bool:
        handed, descriptor = waiting
        while takers:
            connections, seat = takers[0]
            if self._inboxes.give(seat, handed._replace(rescued=True), descriptor):
                heapq.heapreplace(takers, (connections + 1, seat))
                os.close(descriptor)
                return True
            heapq.heappop(takers)
        return False

    def _watch(self, now: float) -> None:
        """Let the sources wake the master, or none of them in a pause."""
        wanted = set(self._sources) if self.resumes == math.inf else set()
        try:
            for reader in wanted - self._watched:
                self._selector.register(reader, selectors.EVENT_READ)
                self._watched.add(reader)
        except OSError as error:
            self.resumes = now + REFUSED_S
            self._complain(error)
            wanted = set()
        for reader in self._watched - wanted:
            self._selector.unregister(reader)
            self._watched.remove(reader)

    def _complain(self, error: OSError) -> None:
        """Once for each time that the worker of some slot does not come."""
        if error.errno == errno.EINVAL:  # a worker that stops has ended its queue
            return
        if not self._complained:
            advice = ""
            if error.errno == errno.EMFILE:
                advice = "; raise the limit of open files (LimitNOFILE=, ulimit -n)"
            log.warning(
                "cannot take connections that wait for a worker that does not come: %s; they wait "
                "on, and it is tried again%s",
                error.strerror,
                advice,
            )
        self._complained = True


def _waits(listener: socket.socket) -> bool:
    """Whether there is somebody in its queue."""
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    return any(not event & select.POLLHUP for _, event in poll.poll(0))  # that one has ended


def _accept(listener: socket.socket) -> Waiting | None:
    """What was first in the queue; ``None`` if somebody else was faster."""
    try:
        connection, _ = listener.accept()
    except BlockingIOError:
        return None
    return Handed(Kind.FRESH), connection.detach()
