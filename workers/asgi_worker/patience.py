"""Taking one connection after the other, where others may have time for the next one.

A connection that was taken is nobody else's, even if what it asks for must wait behind a request
that costs much while another worker has nothing to do. So one is taken when all else in a turn of
the loop is done, and the next when the loop has read what that one asks for. By then whoever has
time first may take it: it is as if all workers took from one queue.

In one queue, who came first is served first. Where there are several that cannot be known, so each
connection that waits is as likely to be next as any other. Taking those of the own queue first, or
from each queue in turn, would let some wait too long.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Protocol


class Offering(Protocol):
    """A queue in which there is something."""

    def take_if_any(self) -> None:
        """Take one, if it is still there."""

    def length(self) -> int:
        """How many connections wait in it."""


class Patience:
    """For all queues of a worker. ``roll``: a number from 0 (inclusive) to 1 (exclusive)."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, roll: Callable[[], float] = random.random
    ) -> None:
        self._loop = loop
        self._roll = roll
        self._waiting = False
        self._offers: list[Offering] = []
        # uvloop polls after it has done what it was to do soon, and does at once what it finds;
        # asyncio polls first, and does what it finds last.
        self._turns = 2 if isinstance(loop, asyncio.BaseEventLoop) else 1

    def offer(self, queue: Offering) -> None:
        """The loop has found something in ``queue``. What is left there it will find again."""
        if queue not in self._offers:
            self._offers.append(queue)
        if not self._waiting:
            self._waiting = True
            self._loop.call_soon(self._take, 0)

    def _take(self, turns: int) -> None:
        """Take one of what was offered since the loop has read, which it does in so many turns."""
        if turns:
            self._offers.clear()
            self._loop.call_soon(self._take, turns - 1)
        elif self._offers:
            self._next().take_if_any()
            self._loop.call_soon(self._take, self._turns)
        else:
            self._waiting = False

    def _next(self) -> Offering:
        if len(self._offers) == 1:
            return self._offers[0]
        lengths = [queue.length() for queue in self._offers]
        left = self._roll() * sum(lengths)
        for queue, length in zip(self._offers, lengths, strict=True):
            left -= length
            if left < 0:
                return queue
        return self._offers[-1]  # others have taken all of it
