"""The event loop of a worker: which one it is, and what is to be done when it has ended."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from asgi_worker.application import BootError

if TYPE_CHECKING:
    from asgi_worker.contract import WorkerSettings

LEFT_BEHIND_S = 0.5
"""For tasks that the application has left behind to end when cancelled; as much for generators."""
LEAST_S = 0.02
"""They have this, however late it is: what does not wait ends in it."""


def new_loop(settings: WorkerSettings) -> asyncio.AbstractEventLoop:
    """The loop asked for; ``auto`` is uvloop where it can be imported, and so it is for trio."""
    if settings.loop == "trio":
        try:
            import asgi_worker.guest  # noqa: F401 – with trio, which is not always there
        except ImportError as error:
            what = f"cannot use --loop trio: {error}"
            raise BootError(f"{what}; try pip install 'asgi-supervise[trio]'") from error
    if settings.loop != "asyncio":
        try:
            import uvloop
        except ImportError as error:
            if settings.loop == "uvloop":
                raise BootError(f"cannot use --loop uvloop: {error}; try --loop asyncio") from error
        else:
            return uvloop.new_event_loop()
    return asyncio.new_event_loop()


def finish(loop: asyncio.AbstractEventLoop, deadline: float) -> None:
    """What a normal end of ``asyncio.run`` and of the interpreter would have done; the process
    leaves by ``os._exit``, and is killed soon after ``deadline``, a time of ``loop``.

    The default executor is not waited for: a thread that never ends must not keep the worker. Nor
    may a task that goes on when it is cancelled, or what is registered for the exit gets no time.
    """
    limit_s = max(min((deadline - loop.time()) / 3, LEFT_BEHIND_S), LEAST_S)
    steps: tuple[Callable[[], object], ...] = (
        lambda: loop.run_until_complete(_end_tasks(loop, limit_s)),
        lambda: loop.run_until_complete(asyncio.wait_for(loop.shutdown_asyncgens(), limit_s)),
        atexit._run_exitfuncs,  # noqa: SLF001 – `os._exit` would skip it
        sys.stdout.flush,
        sys.stderr.flush,
    )
    for step in steps:
        with contextlib.suppress(Exception, SystemExit, KeyboardInterrupt):
            step()


async def _end_tasks(loop: asyncio.AbstractEventLoop, limit_s: float) -> None:
    """Cancel what tasks the application has left behind, and say what went wrong in them.

    Before its generators are closed: one that a task waits in cannot be.
    """
    tasks = asyncio.all_tasks(loop) - {asyncio.current_task(loop)}
    for task in tasks:
        task.cancel()
    if not tasks:
        return
    done, _ = await asyncio.wait(tasks, timeout=limit_s)
    for task in done:
        if not task.cancelled() and (error := task.exception()) is not None:
            message = "exception in a task that was left behind"
            loop.call_exception_handler({"message": message, "exception": error, "task": task})
