"""The end of a server: one budget, spent in this order.

1. No more connections are accepted. With a successor what is queued is left to it, as far as it
   knows of it: it has the same queue. Without one it is served here, as nobody else will.
2. Connections go to other workers as soon as they are idle. Where nobody takes them, as when the
   service stops, every connection ends with the request it is in; idle ones have a moment for one
   that is on its way. WebSockets are closed.
3. Near the end of the budget, applications that still run are told that their clients are gone,
   and then cancelled. Not earlier: what is told so stops in the middle of what it would have
   finished, and only of endless streams, of events for example, could one know that they never do.
4. What still cannot end is cut.

The application's lifespan is shut down after that, in a budget of its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sized
from typing import TYPE_CHECKING, Final

from asgi_worker.ending import HANDSHAKE_S
from asgi_worker.protocols.http1 import LINGER_S, HttpConnection
from asgi_worker.queues import PAUSE_S

if TYPE_CHECKING:
    from asgi_worker.server import Connection, Server

SETTLE_S: Final = 0.05  # how often it is looked whether all requests have ended
FORLORN_S: Final = 2.0
"""Nobody has taken connections for so long, not even one whose loop does not turn: nobody will."""
NOTICE_S: Final = 2.0
"""Applications are told that their clients are gone so long before they are cancelled, at most."""
CANCEL_S: Final = 0.5  # for a cancelled application to end
HELD_S: Final = 0.5
"""A loop that did not turn for so long hung, or the process was stopped …"""
READ_S: Final = 0.1
"""… and this is for reading what clients have sent meanwhile, even if the time is over by then."""

log = logging.getLogger("asgi_worker")


class Draining:
    """Ends ``server`` within ``budget_s`` seconds, counted from now."""

    def __init__(self, server: Server, budget_s: float, *, successor: bool) -> None:
        self.successor = successor
        self._server = server
        self._loop = server.loop
        self._budget_s = budget_s
        self._deadline = server.loop.time() + budget_s
        self._all_gone: asyncio.Future[None] | None = None
        self._looked_at = server.loop.time()
        self._told: set[Connection] = set()
        self._taken_at = server.loop.time()  # when there was last somebody who takes connections

    def hasten(self, budget_s: float) -> None:
        """End within ``budget_s`` from now, if that is sooner."""
        deadline = self._loop.time() + budget_s
        if deadline < self._deadline:
            self._deadline = deadline
            self._budget_s = budget_s

    def lost(self) -> None:
        """A connection is closed."""
        all_gone = self._all_gone
        if all_gone is not None and not (self._server.count() or all_gone.done()):
            all_gone.set_result(None)

    async def run(self) -> None:
        """Return when nothing is left, or the budget is spent."""
        server = self._server
        await self._stop_accepting()
        if await self._settle():
            return
        if self.successor and server.handoff is not None:
            server.handoff.stop()  # what is still given to us would be cut: others take it
        if server.tasks:
            log.warning(
                "%s told to stop: their time is nearly over",
                _count(server.tasks, "request still runs and is", "requests still run and are"),
            )
        for connection in list(server.connections):
            connection.disconnect()
        if not await self._settle(notice=False):
            for task in list(server.tasks):
                task.cancel()
            if server.tasks:
                log.warning(
                    "%s cancelled at the end of the budget",
                    _count(server.tasks, "request", "requests"),
                )
                await asyncio.wait(server.tasks, timeout=self._cancel_s())
        for connection in list(server.connections):
            connection.abort()
        self._deadline = self._loop.time() + 2 * self._cancel_s()
        await self._settle(notice=False)

    async def _stop_accepting(self) -> None:
        """Tell every connection to end, those too that are still to be taken from the queues."""
        server, accepting = self._server, self._server.accepting
        if self.successor:
            accepting.leave()
        elif accepting.admit_no_more():
            self._tell()
            await asyncio.sleep(min(HANDSHAKE_S, self._budget_s / 5))
        accepting.pause()
        self._tell()
        while True:
            done = accepting.finish(server.settings.backlog)
            for _ in range(2):  # turns within which what was taken is registered
                await asyncio.sleep(0)
            self._tell()
            if done or self._left_s() <= 0:
                break
            await asyncio.sleep(PAUSE_S)  # for a descriptor
        accepting.stop()

    def _empty_inboxes(self) -> bool:
        """Take what was given to who leaves, to us or by us; whether there was anything."""
        handoff = self._server.handoff
        return handoff is not None and handoff.take_all()

    def _tell(self) -> None:
        """Tell connections to end, unless they go to other workers. Each is told once."""
        server = self._server
        self._told &= server.connections
        for connection in server.connections - self._told:
            if not (server.moving and isinstance(connection, HttpConnection)):
                self._told.add(connection)
                connection.drain(self.successor)

    def _move(self) -> None:
        """Give away what is idle by now, as long as somebody may take it."""
        server, handoff = self._server, self._server.handoff
        now = self._loop.time()
        if handoff is not None and handoff.evacuate():
            self._taken_at = now
        late = self._left_s() <= min(LINGER_S, self._budget_s / 5)
        if late or now - self._taken_at > FORLORN_S:
            server.announce_close()

    def _cancel_s(self) -> float:
        return min(CANCEL_S, self._budget_s / 5)

    def _left_s(self, *, notice: bool = True) -> float:
        """Until applications are told, or, after the ``notice``, until they are cancelled."""
        left_s = self._deadline - self._loop.time() - self._cancel_s()
        return left_s - min(NOTICE_S, self._budget_s / 5) if notice else left_s

    async def _settle(self, *, notice: bool = True) -> bool:
        """Wait until no connection and no task is left; whether that came in time."""
        server = self._server
        while self._empty_inboxes() or server.count() or server.tasks:
            self._all_gone = all_gone = self._loop.create_future()
            if server.moving:
                self._move()
            self._tell()
            if self._loop.time() - self._looked_at > HELD_S:
                await asyncio.sleep(READ_S)
            self._looked_at = self._loop.time()
            left_s = self._left_s(notice=notice)
            if left_s <= 0:
                return False
            await asyncio.wait((all_gone,), timeout=min(left_s, SETTLE_S))
        return True


def _count(what: Sized, one: str, many: str) -> str:
    return f"{len(what)} {one if len(what) == 1 else many}"
