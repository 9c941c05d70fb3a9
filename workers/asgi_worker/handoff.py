"""Connections on the move: given to other workers, and taken from the inbox.

A client notices nothing, for its socket stays what it is, with all that the kernel holds of it,
and only another process has it. That is so while nothing of the connection is held here: before
anything was read of it (*fresh*), or between two requests (*idle*). A connection is given first and
let go of afterwards, without a shutdown, so whatever fails in between, somebody has it.

``Siblings`` decides who shall have one; here it is done. Nobody is asked whether he wants it: who
takes says so in the scoreboard, and an inbox that is full refuses. Then the connection stays, and
its turn comes again.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from asgi_worker.inbox import VERSION, Handed, Kind, Unreadable
from asgi_worker.protocols.http1 import HttpConnection
from asgi_worker.queues import BATCH, PAUSE_S
from asgi_worker.scoreboard import Word

if TYPE_CHECKING:
    from asgi_worker.balance import Siblings
    from asgi_worker.inbox import Inboxes
    from asgi_worker.server import Server

HOPS_MAX: Final = 2
"""A fresh connection is passed on so often at most, lest it be the ball in a game."""
GRACE_S: Final = 0.2
"""An idle connection whose time ran out on its way here is read once before it is closed."""

TAKES: Final = int(Word.TAKES)  # plain integers, as in ``ticking``
BUSY: Final = int(Word.BUSY)
RESCUED: Final = int(Word.RESCUED)
_GIVEN: Final = {Kind.FRESH: int(Word.GIVEN_FRESH), Kind.IDLE: int(Word.GIVEN_IDLE)}
_TAKEN: Final = {Kind.FRESH: int(Word.TAKEN_FRESH), Kind.IDLE: int(Word.TAKEN_IDLE)}

log = logging.getLogger("asgi_worker")


class Handoff:
    """Gives connections of ``server`` away, and takes what waits in the inbox of ``seat``."""

    def __init__(self, server: Server, siblings: Siblings, inboxes: Inboxes, seat: int) -> None:
        self.leaving = False
        """Whether this worker wants to have nothing more, and the others shall have what it has."""
        self._server = server
        self._siblings = siblings
        self._inboxes = inboxes
        self._seat = seat
        self._board = server.board
        self._to_shed: list[int] = []  # seats, one for each connection that shall go
        self._taking = False
        self._paused: asyncio.TimerHandle | None = None

    # Taking.

    def start(self) -> None:
        """Take connections as they come, and say so."""
        self._taking = True
        self._watch()

    def stop(self) -> None:
        """Take no more. What still comes waits for the next worker with this seat."""
        self.leave()
        if self._taking:
            self._taking = False
            self._unwatch()

    def leave(self) -> None:
        """Say that nothing more is taken; what comes nevertheless is for the others."""
        self.leaving = True
        self.say_whether_it_takes()

    def say_whether_it_takes(self) -> None:
        """Tell the others, who look before they give."""
        server = self._server
        limit = server.limit_concurrency
        has_room = limit is None or server.count() < limit
        takes = self._taking and has_room and self._paused is None and not self.leaving
        self._board[TAKES] = VERSION if takes else 0

    def take_all(self) -> bool:
        """Take what is in the inbox; whether there was anything.

        Also from the inboxes of those who take nothing. They said so before they looked into theirs
        for the last time; so whatever is given to one of them, this one or who gave it takes it.
        """
        taken = False
        for seat in (self._seat, *self._siblings.who_take_nothing()):
            while self._taking and self._take(seat):
                taken = True
        return taken

    def _watch(self) -> None:
        self._paused = None
        self._server.loop.add_reader(self._inboxes.reader(self._seat), self._take_some)
        self.say_whether_it_takes()

    def _unwatch(self) -> None:
        self._server.loop.remove_reader(self._inboxes.reader(self._seat))
        if self._paused is not None:
            self._paused.cancel()
            self._paused = None

    def _take_some(self) -> None:
        """The loop says that there is something in the inbox."""
        self._server.ticker.wake()
        for _ in range(BATCH):
            if not self._take(self._seat):
                break

    def _take(self, seat: int) -> bool:
        """Take a connection that was given to ``seat``; ``False``: there is none, or no room."""
        accepting = self._server.accepting
        try:
            taken = self._inboxes.take(seat)
        except Unreadable as error:
            log.warning("cannot take a connection from the inbox, which is closed now: %s", error)
            return True
        except OSError as error:
            accepting.failed(error)
            self._unwatch()
            self._paused = self._server.loop.call_later(PAUSE_S, self._watch)
            self.say_whether_it_takes()
            return False
        if taken is None:
            return False
        if accepting.short_since is not None:
            accepting.recovered()
        handed, descriptor = taken
        board = self._board
        board[_TAKEN[handed.kind]] += 1
        if handed.rescued:
            board[RESCUED] += 1
        if not self._passed_on(handed, descriptor):
            idle_until = 0.0
            if handed.kind is Kind.IDLE:
                idle_until = max(handed.idle_until, self._server.loop.time() + GRACE_S)
            self._server.adopt(descriptor, idle_until)
        return True

    def _passed_on(self, handed: Handed, descriptor: int) -> bool:
        """Whether what was taken goes on at once, because others shall rather have it."""
        if self._server.moving and self.leaving:
            seat = self._siblings.for_idle()
            further = handed._replace(hops=min(handed.hops + 1, HOPS_MAX), rescued=False)
            return seat is not None and self._send(seat, further, descriptor)
        return handed.kind is Kind.FRESH and self.pass_on(descriptor, handed.hops + 1)

    # Giving.

    def pass_on(self, descriptor: int, hops: int = 0) -> bool:
        """Give a fresh connection, passed on ``hops`` times so far, to who shall rather have it.

        ``True``: it is given, and ``descriptor`` closed. Else it is ours.
        """
        server = self._server
        if hops >= HOPS_MAX or server.draining:
            return False
        seat = self._siblings.for_fresh(server.count() + 1, first=hops == 0)
        return seat is not None and self._send(seat, Handed(Kind.FRESH, hops), descriptor)

    def _send(self, seat: int, handed: Handed, descriptor: int) -> bool:
        if not self._inboxes.give(seat, handed, descriptor):
            return False
        os.close(descriptor)
        self._board[_GIVEN[handed.kind]] += 1
        return True

    def give(self, connection: HttpConnection) -> bool:
        """Give an idle connection to who has fewest; ``False``: nobody takes it."""
        seat = self._siblings.for_idle()
        return seat is not None and self._give(seat, connection)

    def _give(self, seat: int, connection: HttpConnection) -> bool:
        handed = Handed(Kind.IDLE, idle_until=connection.deadline)
        descriptor = connection.transport.get_extra_info("socket").fileno()
        if not self._inboxes.give(seat, handed, descriptor):
            return False
        connection.closing = True
        connection.transport.abort()  # neither loop shuts the socket down
        self._server.lost(connection)
        self._board[_GIVEN[Kind.IDLE]] += 1
        return True

    def move(self, connection: HttpConnection) -> None:
        """A response is complete, and sent as far as the client lets us: give its connection away,
        if it is one of those that shall go.
        """
        if not (self._server.moving and _is_idle(connection)):
            return
        if self.leaving:
            self.give(connection)
        elif self._to_shed:
            seat = self._to_shed[-1]
            if self._siblings.is_able(seat) and self._give(seat, connection):
                self._to_shed.pop()

    def evacuate(self) -> bool:
        """Give away all that is idle; ``False``: there is nobody who takes, nor soon will."""
        self._siblings.refresh()
        for connection in self._idle():
            if not self.give(connection):
                break
        return self._siblings.has_takers()

    def tick(self) -> None:
        """See how the others do, and give them some idle connections if they have too little."""
        server, siblings = self._server, self._siblings
        siblings.refresh()
        siblings.see(server.young)
        server.accepting.patient = siblings.patient
        server.accepting.gather(siblings.gathers)
        if server.draining:
            return
        self._to_shed = siblings.to_shed(server.count(), self._board[BUSY])
        if self._to_shed:
            for connection in self._idle():
                if not self._give(self._to_shed[-1], connection):
                    break
                self._to_shed.pop()
                if not self._to_shed:
                    break
        server.moving = bool(self._to_shed)

    def _idle(self) -> Iterator[HttpConnection]:
        for connection in list(self._server.connections):
            if isinstance(connection, HttpConnection) and _is_idle(connection):
                yield connection


def _is_idle(connection: HttpConnection) -> bool:
    """Whether it is nothing but a socket now, which could as well be in another process."""
    return (
        connection.exchange is None
        and not (connection.stash or connection.closing or connection.read_paused)
        and connection.reader.is_between_requests()
        and connection.output.is_empty()
    )
