"""The page of memory that master and workers share: one slot a worker, laid out in this file only.

Rules: a slot has one writer at a time, the worker that sits in it; every figure is one aligned
8-byte word, stored and loaded whole, so there are no locks and no torn reads; the stamp is written
from inside the event loop, never from a helper thread, because only that proves the loop alive.

The map is anonymous and shared: it is inherited by fork and disappears with the last process.
Considered and refused: ``multiprocessing.shared_memory`` (a name on disk and a resource tracker
process), a message per update (the master would wake for every tick of every worker).
"""

from __future__ import annotations

import enum
import mmap
from typing import NamedTuple

WORDS_PER_SLOT = 16
"""128 bytes a slot: two cache lines, so that neighbours never share one."""


class State(enum.IntEnum):
    """What the worker in a slot says of itself."""

    EMPTY = 0
    STARTING = 1
    READY = 2
    DRAINING = 3


class Word(enum.IntEnum):
    """Index of each figure within a slot, in words of 8 bytes (unsigned, native order)."""

    STATE = 0
    PID = 1
    GENERATION = 2
    STAMP_NS = 3  # time.monotonic_ns() of the loop's last tick
    CONNECTIONS = 4  # open now, WebSockets included
    IN_FLIGHT = 5  # requests and WebSockets in the application now
    REQUESTS = 6  # answered since the worker started
    ERRORS = 7  # of these, answered with 5xx
    WEBSOCKETS = 8  # open now
    LAG_NS = 9  # how late the last tick was


class Slot(NamedTuple):
    """A reading of one slot; fields as in :class:`Word`."""

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


class Scoreboard:
    """``slots`` slots in shared memory. Make it before the first fork; children inherit it."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._map = mmap.mmap(-1, slots * WORDS_PER_SLOT * 8)
        self._words = memoryview(self._map).cast("Q")

    def writer(self, slot: int) -> memoryview:
        """The words of ``slot``, to be indexed by :class:`Word`. For the worker in that slot."""
        start = slot * WORDS_PER_SLOT
        return self._words[start : start + WORDS_PER_SLOT]

    def read(self, slot: int) -> Slot:
        """What the worker in ``slot`` last wrote."""
        state, *figures = self.writer(slot)[: len(Word)]
        return Slot(State(state), *figures)

    def clear(self, slot: int) -> None:
        """Forget the worker that sat in ``slot``. For the master, after it reaped that worker."""
        self.writer(slot)[:] = memoryview(bytes(WORDS_PER_SLOT * 8)).cast("Q")
