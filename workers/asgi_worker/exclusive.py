"""Waiting in line at a queue: a new connection wakes one process, and one that has time for it.

The kernel offers a connection to those who wait at its listener with ``EPOLLEXCLUSIVE``
(epoll_ctl(2)) in the order in which they came, and passes over who is not in ``epoll_wait`` just
now: who runs Python code, hangs, or is stopped. So workers can wait at each other's queues and
nobody is woken in vain: the owner, first in line, has its connections for itself as long as it has
time for them, and what it has no time for is served by a neighbour at once.

All depends on the place in line, and that takes care of itself: who has taken a connection from a
queue that is not its own goes to the end. An owner that came later is soon before its neighbours,
and at a queue without an owner workers take turns.

The loops register what they watch without that flag, and an epoll inside another would lose it: it
has to be set in the loop's own. Both loops only ever take out by descriptor what they have put in,
and that works with the flag as well. It cannot be changed in place (epoll_ctl(2): ``EINVAL``).
"""

from __future__ import annotations

import asyncio
import os
import select
import selectors
from typing import Any


class Line:
    """The end of the line at any queue, for a worker whose epoll descriptor is ``backend``.

    Raises ``OSError`` if there is no room for one more descriptor.
    """

    def __init__(self, backend: int) -> None:
        self._epoll = select.epoll.fromfd(os.dup(backend))  # closed with this, not with the loop

    def join(self, descriptor: int) -> None:
        """Let ``descriptor``, which the loop watches for reading, wait last in line from now on.

        Raises ``FileNotFoundError`` if the loop has not told the kernel yet that it watches it, as
        uvloop does when it polls; after any other ``OSError`` nothing waits any more.
        """
        self._epoll.unregister(descriptor)
        self._epoll.register(descriptor, select.EPOLLIN | select.EPOLLEXCLUSIVE)

    def close(self) -> None:
        """What waits in line goes on waiting, as long as the loop watches it."""
        self._epoll.close()


def line_of(loop: asyncio.AbstractEventLoop) -> Line | None:
    """``None`` where it cannot be had: neither loop has a public way to its epoll."""
    anything: Any = loop
    try:
        if hasattr(anything, "_get_backend_id"):  # uvloop
            return Line(anything._get_backend_id())  # noqa: SLF001
        selector = getattr(anything, "_selector", None)
        return Line(selector.fileno()) if isinstance(selector, selectors.EpollSelector) else None
    except OSError:
        return None
