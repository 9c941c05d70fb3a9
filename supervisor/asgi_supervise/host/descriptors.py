"""Whether the master may have as many descriptors as it needs: said at start, and in one line.

Else it would start, and find with some worker of many that there is no room for that one.

Considered and refused: raising the soft limit to the hard one. It is inherited by whatever the
application starts, and some programs walk through all numbers up to it.
"""

from __future__ import annotations

import contextlib
import math
import os
import resource
from typing import Final

from asgi_worker.inbox import Inboxes

EACH: Final = 3
"""What the master holds of each process: its channel, a pidfd, the file for its stacks."""
TEMPLATES: Final = 2
"""During a reload."""
OWN: Final = 6
"""What it opens for itself after this, and while a process is made."""


class TooFewDescriptors(Exception):
    """*cannot VERB OBJECT: reason; what to do*, in one line."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"cannot hold the sockets of so many workers: {reason}; {advice()}")


def advice() -> str:
    """What to do."""
    return (
        f"raise the limit of open files, which is {_limit()} (ulimit -n, LimitNOFILE=), or start "
        "fewer workers"
    )


def make_inboxes(seats: int) -> Inboxes:
    """An inbox for each worker there may be, if then there is room for the workers as well.

    Raises :class:`TooFewDescriptors`.
    """
    try:
        inboxes = Inboxes(seats)
    except OSError as error:
        raise TooFewDescriptors(error.strerror or str(error)) from None
    wanted = _used() + EACH * (seats + TEMPLATES) + OWN
    if _limit() < wanted:
        inboxes.close()
        raise TooFewDescriptors(f"the master would have {wanted} open files")
    return inboxes


def _limit() -> float:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return math.inf if soft == resource.RLIM_INFINITY else soft


def _used() -> int:
    """As far as it is known: without /proc, what is missing will show later."""
    with contextlib.suppress(OSError):
        numbers = map(int, os.listdir("/proc/self/fd"))  # with that of this very directory
        return sum(number < _limit() for number in numbers) - 1
    return 0
