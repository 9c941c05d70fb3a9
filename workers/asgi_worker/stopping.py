"""How an application may learn that its worker stops, while its responses go on.

ASGI has no word for it: ``lifespan.shutdown`` comes when all requests have ended, which endless
streams never do. Libraries written for uvicorn look whether the owner of SIGTERM's handler has
``should_exit`` (sse-starlette does); so ours has one, that tells of every way to be stopped.
"""

from __future__ import annotations

import asyncio
import signal
from types import FrameType


class Stopping:
    """Put in the place of the handler that the loop has set, which does nothing: what wakes the
    loop is the descriptor that the interpreter writes to for every signal that has a handler.
    """

    def __init__(self, told: asyncio.Future[None]) -> None:
        self._told = told
        signal.signal(signal.SIGTERM, self.handle_exit)
        signal.siginterrupt(signal.SIGTERM, False)  # as the loop had it

    @property
    def should_exit(self) -> bool:
        """Whether the worker leaves, and streams had better end."""
        return self._told.done()

    def handle_exit(self, number: int, frame: FrameType | None) -> None:
        """For its owner."""
