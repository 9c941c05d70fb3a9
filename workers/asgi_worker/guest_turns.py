"""When trio has its turns, in a worker whose application is on trio (:mod:`asgi_worker.guest`).

Trio's guest mode has a second thread wait for trio's I/O whenever trio has nothing to do. Each
request then costs two switches of threads, each of which waits for the interpreter's lock where the
other has much to do: milliseconds, at times. What trio waits at is an epoll descriptor, and such
can be waited for themselves: so the worker's loop does. This needs some of trio's insides. Where
they are not as expected trio has its thread, and all else is the same.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections.abc import Callable
from contextvars import copy_context
from typing import Any, Final

LONGEST_TIMER_S: Final = 24 * 60 * 60.0
Tick = Callable[[], object]

log = logging.getLogger("asgi_worker")


class Turns:
    """What trio is given for a host, and for a clock (a ``trio.abc.Clock``).

    In guest mode trio asks for its next turn (:meth:`again`) if it has something to do, and goes to
    its thread if it has to sleep. This clock answers that there is no time to sleep; so trio asks,
    and gets its turn when its descriptor is readable, its next deadline has come, or a task is
    scheduled. Meanwhile trio is to think that it sleeps in a thread, and wakes that by making the
    descriptor readable: so it does when it is told something that we do not know of.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._context = copy_context()
        self._runner: Any = None  # trio's insides, where they are as expected
        self._descriptor = -1
        self._asleep: Tick | None = None  # what trio asked for; None: it was not asleep
        self._idle_until: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._known = False

    # What trio asks of a clock.

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        return time.perf_counter()

    def deadline_to_sleep_time(self, deadline: float) -> float:
        # Asked at the end of a turn that leaves nothing to do. Tasks that wait until all others are
        # blocked need a sleep that was slept.
        if self._runner is None or self._runner.waiting_for_idle:
            return deadline - time.perf_counter()
        self._idle_until = deadline
        return 0.0

    # What trio asks of its host.

    def again(self, tick: Tick) -> None:
        """Trio wants another turn."""
        if not self._known:
            self._known = True
            self._know(tick)
        until, self._idle_until = self._idle_until, None
        if until is None or _events_of(tick):
            self._loop.call_soon(tick, context=self._context)
        else:
            self._asleep = tick
            self._runner.guest_tick_scheduled = False
            if until < self._timer_at:
                self._set_timer(until)

    def wake(self) -> None:
        """Somebody outside of trio is about to schedule a task."""
        tick, self._asleep = self._asleep, None
        if tick is not None:
            self._runner.guest_tick_scheduled = True
            self._loop.call_soon(tick, context=self._context)

    def close(self) -> None:
        """There will be no more turns."""
        if self._timer is not None:
            self._timer.cancel()
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)

    def _know(self, tick: Any) -> None:
        """Find trio's insides, and leave trio its thread if they are others than those we know."""
        try:
            _events_of(tick)
            runner = tick.__self__.runner
            _ = runner.guest_tick_scheduled, runner.waiting_for_idle
            descriptor = runner.io_manager._epoll.fileno()  # noqa: SLF001 – see the module
        except AttributeError as error:
            log.debug("trio waits for its I/O in a thread: %s", error)
            return
        self._runner = runner
        self._descriptor = os.dup(descriptor)  # as trio closes its own before it says so
        self._loop.add_reader(self._descriptor, self._give_turn)

    def _set_timer(self, until: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        left_s = min(max(until - time.perf_counter(), 0.0), LONGEST_TIMER_S)
        # Whole milliseconds are what loops measure; a timer that comes early is to be set again.
        self._timer = self._loop.call_later(math.ceil(left_s * 1000) / 1000, self._due)
        self._timer_at = until

    def _due(self) -> None:
        self._timer = None
        self._timer_at = math.inf
        self._give_turn()

    def _give_turn(self) -> None:
        """Something that trio waits for has come."""
        tick, self._asleep = self._asleep, None
        if tick is not None:
            self._runner.guest_tick_scheduled = True
            tick()


def _events_of(tick: Any) -> bool:
    """Whether ``tick`` has I/O to deliver, or an error."""
    return bool(getattr(tick.__self__.unrolled_run_next_send, "value", True))
