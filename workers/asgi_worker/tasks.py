"""Tasks for what applications return when they are called.

They start at once where Python can (3.12), so that an application that never waits has ended when
its task is there.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
from asyncio import AbstractEventLoop, Task
from collections.abc import Coroutine
from contextvars import Context
from typing import Any

_OURS = os.path.dirname(os.path.abspath(__file__)) + os.sep

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


def from_application(error: BaseException) -> BaseException:
    """``error`` with a traceback that begins in the application, not where we called it."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(_OURS):
        frames = frames.tb_next
    return error if frames is None else error.with_traceback(frames)


async def failing(error: Exception) -> None:
    """In the place of an application that cannot even be called."""
    raise error


async def _wait_for(returned: Any) -> None:
    if not inspect.isawaitable(returned):
        hint = "has a yield in it" if inspect.isasyncgen(returned) else "is no async def"
        raise TypeError(
            f"the application returned {type(returned).__name__}, nothing to wait for: it {hint}"
        )
    await returned
