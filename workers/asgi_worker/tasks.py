"""Tasks for what applications return when they are called.

They start at once where Python can (3.12), so that an application that never waits has ended when
its task is there.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio import AbstractEventLoop, Task
from collections.abc import Coroutine
from contextvars import Context
from typing import Any

if sys.version_info >= (3, 12):

    def start(
        coroutine: Coroutine[Any, Any, None], loop: AbstractEventLoop, context: Context
    ) -> Task[None]:
        """A task for ``coroutine``, run up to its first wait."""
        return Task(coroutine, loop=loop, context=context, eager_start=True)

else:

    def start(
        coroutine: Coroutine[Any, Any, None], loop: AbstractEventLoop, context: Context
    ) -> Task[None]:
        """A task for ``coroutine``."""
        return Task(coroutine, loop=loop, context=context)


def coroutine_of(call: Any) -> Coroutine[Any, Any, None]:
    """An application may return any awaitable; a task takes coroutines only."""
    return call if asyncio.iscoroutine(call) else _wait_for(call)


async def failing(error: Exception) -> None:
    """In the place of an application that cannot even be called."""
    raise error


async def _wait_for(awaitable: Any) -> None:
    await awaitable
