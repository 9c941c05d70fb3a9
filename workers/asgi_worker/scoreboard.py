"""The page of memory that master and workers share: one seat a worker, laid out in this file only.

A seat is a worker's line in here. It is not its slot: while a worker is replaced, the one that
leaves and its successor share a slot, and each has a seat of its own.

Rules: a word has one writer at a time: the worker that has the seat or, for ``SHARE``, the master;
every figure is one aligned 8-byte word, stored and loaded whole, so there are no locks and no torn
reads; the stamp is written from inside the event loop, never from a helper thread, because only
that proves the loop alive. All workers read all seats, to see where a connection is best served.

The map is anonymous and shared: it is inherited by fork and disappears with the last process.
Considered and refused: ``multiprocessing.shared_memory`` (a name on disk and a resource tracker
process), a message per update (the master would wake for every tick of every worker).
"""

from __future__ import annotations

import enum
import mmap
from typing import NamedTuple

WORDS_PER_SEAT = 32
"""256 bytes a seat: whole cache lines, so that neighbours never share one."""


class State(enum.IntEnum):
    """What a worker says of itself."""

    EMPTY = 0
    STARTING = 1
    READY = 2
    DRAINING = 3


class Word(enum.IntEnum):
    """Index of each figure within a seat, in words of 8 bytes (unsigned, native order)."""

    STATE = 0
    PID = 1
    GENERATION = 2
    STAMP_NS = 3  # time.monotonic_ns() of the loop's last tick
    CONNECTIONS = 4  # open now, WebSockets included; written with every change
    IN_FLIGHT = 5  # requests and WebSockets in the application now
    REQUESTS = 6  # answered since the worker started
    ERRORS = 7  # of these, answered with 5xx
    WEBSOCKETS = 8  # open now
    LAG_NS = 9  # how late the last tick was
    PROMISE_NS = 10  # time.monotonic_ns() by which the loop will have ticked again; 0: no promise
    SLOT = 11
    TAKES = 12  # version of the hand-overs that it takes from its inbox now; 0: none
    SHARE = 13  # of new connections, in thousandths, while it is on trial; 0: it is like all others
    BUSY = 14  # thousandths of a processor it used lately
    GIVEN_FRESH = 15  # connections handed over before anything of them was read …
    GIVEN_IDLE = 16  # … and between two requests
    TAKEN_FRESH = 17
    TAKEN_IDLE = 18
    RESCUED = 19  # taken, of those that the master found waiting for somebody who did not come
    HELPED = 20  # accepted from the queue of another slot
    WAITED_NS = 21  # how long the loop had waited for a processor by its last tick, all in all
    GATHERS = 22  # 1: what comes is dear, and it takes from every queue, so that one would do


class Reading(NamedTuple):
    """What one seat held; fields as in :class:`Word`."""

    state: State
    pid: int
    generation: int
    stamp_ns: int
    connections: int
    in_flight: int
    requests: int
    errors: int
    websockets: int
    lag_ns: int
    promise_ns: int
    slot: int
    takes: int
    share: int
    busy: int
    given_fresh: int
    given_idle: int
    taken_fresh: int
    taken_idle: int
    rescued: int
    helped: int
    waited_ns: int
    gathers: int


class Scoreboard:
    """``seats`` seats in shared memory. Make it before the first fork; children inherit it."""

    def __init__(self, seats: int) -> None:
        self.seats = seats
        self._map = mmap.mmap(-1, seats * WORDS_PER_SEAT * 8)
        self._words = memoryview(self._map).cast("Q")

    def writer(self, seat: int) -> memoryview:
        """The words of ``seat``, to be indexed by :class:`Word`. For the worker that has it."""
        start = seat * WORDS_PER_SEAT
        return self._words[start : start + WORDS_PER_SEAT]

    def column(self, word: Word) -> memoryview:
        """``word`` of all seats, in their order. To be read only."""
        return self._words[word::WORDS_PER_SEAT]

    def read(self, seat: int) -> Reading:
        """What the worker with ``seat`` last wrote."""
        state, *figures = self.writer(seat)[: len(Word)]
        return Reading(State(state), *figures)

    def clear(self, seat: int) -> None:
        """Forget the worker that had ``seat``. For the master, after it reaped that worker."""
        self.writer(seat)[:] = memoryview(bytes(WORDS_PER_SEAT * 8)).cast("Q")
