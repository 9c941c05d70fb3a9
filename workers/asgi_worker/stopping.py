"""How an application may learn that the service stops, while its responses go on.

ASGI has no word for it: ``lifespan.shutdown`` comes when all requests have ended, which endless
streams never do. Libraries written for uvicorn look whether the owner of SIGTERM's handler has
``should_exit`` (sse-starlette does); so ours has one.

When other workers serve on it says nothing: a reload loses no request, and nobody can tell a stream
without end from a long answer. Both have the time that a worker has to leave.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType


class Stopping:
    """Put in the place of the handler that the loop has set, which does nothing: what wakes the
    loop is the descriptor that the interpreter writes to for every signal that has a handler.
    """

    def __init__(self, stops: Callable[[], bool]) -> None:
        self._stops = stops
        signal.signal(signal.SIGTERM, self.handle_exit)
        signal.siginterrupt(signal.SIGTERM, False)  # as the loop had it

    @property
    def should_exit(self) -> bool:
        """Whether the service stops, and streams had better end."""
        return self._stops()

    def handle_exit(self, number: int, frame: FrameType | None) -> None:
        """For its owner."""
