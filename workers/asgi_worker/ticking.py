"""The tick: what the loop of a worker does by the clock.

A timer inside the event loop stamps the scoreboard, promises the master when it will do so again,
tells time to those that need it only roughly, and sweeps: it compares every connection's
``deadline``, so that no request costs a timer.

No client pays for a loop that hung: all deadlines are put off by that time, and nobody is late
before all that has arrived was read.

What a tick costs is hardly its own work – some microseconds – but that an idle process is woken up,
a tenth of a millisecond. So a worker without connections and without anything running ticks seldom,
and says so in its promise. The first connection that it accepts ends the rest before anything is
called for it; what hangs then is missed as soon as in a busy worker. To end a rest costs as much as
a connection does, and wakes the master, too: who finds nothing between two connections does not
rest.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from asgi_worker.processor import waited_ns
from asgi_worker.scoreboard import Word

if TYPE_CHECKING:
    from asgi_worker.server import Server

TICK_S: Final = 0.1
"""Often enough to be missed soon, and for others to see how we are."""
REST_S: Final = 1.0
"""… and without connections: four idle workers cost as much as one that is used."""
SWEEP_TICKS: Final = 10
BUSY_NS: Final = 1_000_000_000
"""Over so long the use of the processor is averaged."""

# Names of plain integers: an enumeration is looked up and converted, ten times a tick.
STAMP_NS: Final = int(Word.STAMP_NS)
PROMISE_NS: Final = int(Word.PROMISE_NS)
LAG_NS: Final = int(Word.LAG_NS)
IN_FLIGHT: Final = int(Word.IN_FLIGHT)
REQUESTS: Final = int(Word.REQUESTS)
ERRORS: Final = int(Word.ERRORS)
WEBSOCKETS: Final = int(Word.WEBSOCKETS)
BUSY: Final = int(Word.BUSY)
WAITED_NS: Final = int(Word.WAITED_NS)
NOT_COUNTED: Final = 2**63
"""In the place of a wait while resting: to look would cost more than all else, and nobody waits."""


class Ticker:
    """Ticks for ``server``, and writes its figures to ``board``."""

    def __init__(self, server: Server, board: memoryview) -> None:
        self.resting = False
        """Whether the last tick found nothing to look after."""
        self._server = server
        self._board = board
        self._pid = os.getpid()
        self._ended = 0
        """Connections that came and went by the last tick."""
        self._ticks = 0
        self._due_ns = 0
        self._period_ns = 0
        self._used: deque[tuple[int, int]] = deque()  # when, and how much of the processor by then
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Tick, and go on ticking."""
        self._due_ns = time.monotonic_ns()
        self._tick()

    def wake(self) -> None:
        """Work has come: tick now, and soon again. Does nothing unless the worker was resting."""
        if self.resting and self._timer is not None:
            self.resting = False
            self._timer.cancel()
            self._due_ns = time.monotonic_ns()
            self._tick(woken=True)
            self._server.tell_awake()

    def stop(self) -> None:
        """Tick no more, and promise nothing: the worker is about to exit."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._board[PROMISE_NS] = 0

    def _tick(self, *, woken: bool = False) -> None:
        server, board = self._server, self._board
        stamp_ns = time.monotonic_ns()
        lag_ns = max(0, stamp_ns - self._due_ns)
        ended, self._ended = self._ended, server.young.ended
        busy = woken or bool(server.connections or server.tasks) or self._ended > ended
        board[BUSY] = self._busy(stamp_ns)
        server.young.age()
        if busy or not self.resting:
            self._look_after(stamp_ns / 1e9, lag_ns)
            if server.handoff is not None:
                server.handoff.tick()
        else:
            server.accepting.look()
            server.accepting.gather(False)
        self.resting = not busy
        period_s = TICK_S if busy else REST_S
        self._period_ns = int(period_s * 1e9)
        self._due_ns = stamp_ns + self._period_ns
        board[STAMP_NS] = stamp_ns
        board[PROMISE_NS] = self._due_ns
        board[WAITED_NS] = waited_ns(self._pid) if busy else NOT_COUNTED
        board[LAG_NS] = lag_ns
        self._timer = server.loop.call_later(period_s, self._tick)

    def _look_after(self, now: float, lag_ns: int) -> None:
        """What there is to do while there are connections, and once after the last has gone."""
        server, board = self._server, self._board
        board[IN_FLIGHT] = len(server.tasks)
        board[REQUESTS] = server.requests
        board[ERRORS] = server.errors
        board[WEBSOCKETS] = server.websockets
        server.tell_time(now)
        if lag_ns > self._period_ns:
            lag_s = lag_ns / 1e9
            for connection in server.connections:
                connection.deadline += lag_s
        self._ticks += 1
        if self._ticks >= SWEEP_TICKS:
            self._ticks = 0
            server.accepting.look()
            # Timers may run before the loop reads, and so does what is called soon, once.
            server.call_soon(server.call_soon, self._sweep)

    def _busy(self, now_ns: int) -> int:
        """Thousandths of a processor that were used lately, by all threads."""
        used = self._used
        used.append((now_ns, time.process_time_ns()))
        while len(used) > 2 and used[1][0] <= now_ns - BUSY_NS:
            used.popleft()
        (since_ns, before_ns), (_, used_ns) = used[0], used[-1]
        return 1000 * (used_ns - before_ns) // max(1, now_ns - since_ns)

    def _sweep(self) -> None:
        now = self._server.now
        for connection in [one for one in self._server.connections if one.deadline < now]:
            connection.expire(now)
