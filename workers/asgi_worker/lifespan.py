"""The application's lifespan: one task that lives as long as the worker (ASGI lifespan 2.0).

The only place that sends ``lifespan.startup`` and ``lifespan.shutdown``, and that decides whether
an application without lifespan may run. The specification lets a server go on when the application
raises at lifespan; a *failed* startup is told apart from a missing one by whether the application
had sent anything, as the specification asks. What looks like a real failure is at least logged as a
warning with its traceback: it came after ``lifespan.startup`` was read, from code that so much as
mentions lifespan. Who reads that event as if it were a request, as many a first program does, is
only told that it runs without.

Nothing of the application gets past its task: ``SystemExit`` in lifespan would otherwise stop the
event loop in the middle of whatever it does.

Considered and refused: an ``asyncio.timeout`` around the application's call. It cancels, and waits
for ever for an application that refuses to be cancelled; ``asyncio.wait`` only looks.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import os
import traceback
from types import CodeType, FrameType
from typing import Any

from asgi_worker import loggers
from asgi_worker.application import (
    Application,
    BootError,
    Message,
    application_traceback,
    one_line,
)
from asgi_worker.contract import WorkerSettings

LAST_WORDS_S = 1.0
"""How long the application may take to return once it has said its last, or was cancelled."""

HINT_S = 2.0
"""How long an application may wait for a second event, the first not answered, before we ask."""

DEEPEST_WAIT = 100
_OURS = os.path.dirname(os.path.abspath(__file__)) + os.sep

log = logging.getLogger("asgi_worker.lifespan")


class Lifespan:
    """Startup, ``state`` and shutdown of one application in one worker, each run once."""

    def __init__(self, app: Application, settings: WorkerSettings) -> None:
        self.state: dict[str, Any] = {}
        self._app = app
        self._mode = settings.lifespan
        self._startup_timeout_s = settings.startup_timeout_s
        self._task: asyncio.Task[None] | None = None
        self._told_startup = False
        self._told_shutdown = False
        self._asked_again = False  # for another event, with startup not answered
        self._strayed = False  # it sent what has nothing to do with lifespan
        self._started: asyncio.Future[str | None]  # None: complete; else the failure's message
        self._stopping: asyncio.Future[None]
        self._stopped: asyncio.Future[str | None]
        self._over: asyncio.Future[None]  # the application asked for more after shutdown
        self._error: BaseException | None = None
        self._cancelled = False

    async def startup(self, timeout_s: float | None = None) -> None:
        """Return when the application has started, or has no lifespan and need not have one.

        ``timeout_s`` is what is left of ``startup_timeout_s`` (default: all of it). Raises
        :class:`BootError` when the application says that it failed, is not ready in time, or (mode
        ``on``) does not take part.
        """
        if self._mode == "off":
            return
        limit_s = self._startup_timeout_s if timeout_s is None else timeout_s
        loop = asyncio.get_running_loop()
        self._started = loop.create_future()
        self._stopping = loop.create_future()
        self._stopped = loop.create_future()
        self._over = loop.create_future()
        task = self._task = loop.create_task(self._run(), name="lifespan")
        deadline = loop.time() + limit_s
        await _first_of(min(loop.time() + HINT_S, deadline), task, self._started)
        if self._asked_again and not (task.done() or self._started.done()):
            log.warning(
                "The application asks for a second lifespan event and has not answered "
                "lifespan.startup. If it knows nothing of lifespan, say --lifespan off"
            )
        await _first_of(deadline, task, self._started)
        if not self._started.done() or self._started.result() is not None:
            self._task = None  # there will be nothing to shut down
        if self._started.done():
            message = self._started.result()
            if message is None:
                task.add_done_callback(self._died)
                return
            await _first_of(loop.time() + LAST_WORDS_S, task)
            await self._cancel(task, LAST_WORDS_S)
            raise self._failed(message)
        if not task.done():
            where = waits_at(task)
            await self._cancel(task, min(LAST_WORDS_S, limit_s / 15))  # or it is told too late
            raise BootError(
                f"the application did not complete lifespan startup within {limit_s:.3g} s "
                "(see --startup-timeout)",
                where,
            )
        self._without()

    async def shutdown(self, timeout_s: float) -> None:
        """Let the application clean up; returns after ``timeout_s`` at the latest.

        Never raises: what goes wrong is logged. A task still running near the end is cancelled, and
        abandoned if it refuses.
        """
        task, self._task = self._task, None
        if task is None or task.done():
            return
        task.remove_done_callback(self._died)
        last_words_s = min(LAST_WORDS_S, timeout_s / 4)
        deadline = asyncio.get_running_loop().time() + timeout_s - last_words_s
        if self._started.done():
            self._stopping.set_result(None)
            await _first_of(deadline, task, self._stopped)
            await _first_of(deadline, task, self._over)
            if not task.done() and not self._over.done():
                log.error(
                    "The application did not end its lifespan within %.3g s and is cancelled. "
                    "It waits here:\n%s",
                    timeout_s - last_words_s,
                    waits_at(task).rstrip(),
                )
        await self._cancel(task, last_words_s)
        self._report_shutdown()

    async def _run(self) -> None:
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self.state,
        }
        try:
            await self._app(scope, self._receive, self._send)
        except BaseException as error:  # noqa: BLE001 - SystemExit would stop the loop
            self._error = error

    async def _receive(self) -> Message:
        if not self._told_startup:
            self._told_startup = True
            return {"type": "lifespan.startup"}
        if not self._told_shutdown:
            self._asked_again = not self._started.done()
            await asyncio.shield(self._stopping)  # who waits may be cancelled and ask again
            self._told_shutdown = True
            return {"type": "lifespan.shutdown"}
        # A loop that does not end with shutdown: it stays here until it is cancelled.
        if not self._over.done():
            self._over.set_result(None)
        never: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        return await never

    async def _send(self, message: object) -> None:
        if not isinstance(message, dict):
            raise RuntimeError(f"cannot send {type(message).__name__}: a message is a dict")
        kind = message.get("type")
        self._strayed = not str(kind).startswith("lifespan.")
        phase = "shutdown" if self._started.done() else "startup"
        done = self._stopped if self._started.done() else self._started
        if kind not in (f"lifespan.{phase}.complete", f"lifespan.{phase}.failed"):
            raise RuntimeError(
                f"cannot send {kind!r} in lifespan {phase}: "
                f'"lifespan.{phase}.complete" or "lifespan.{phase}.failed" is expected'
            )
        if done.done():
            raise RuntimeError(f"cannot send {kind!r}: lifespan {phase} was answered already")
        if phase == "shutdown" and not self._stopping.done():
            raise RuntimeError(f"cannot send {kind!r}: lifespan.shutdown was not received yet")
        if kind.endswith(".failed"):
            done.set_result(str(message.get("message", "")))
        else:
            done.set_result(None)

    def _failed(self, message: str) -> BootError:
        """What ``lifespan.startup.failed`` says; frameworks put whole tracebacks in it."""
        lines = message.strip().splitlines()
        at = -1 if "Traceback (most recent call last)" in message else 0
        said = lines[at].strip() if lines else "no message was given"
        text = message if len(lines) > 1 else ""
        if not text and self._error is not None and not self._cancelled:
            text = application_traceback(self._error)
            said = said if lines else one_line(self._error)
        return BootError(f"the application failed at lifespan startup: {said}", text)

    def _without(self) -> None:
        """The application returned or raised without having sent anything."""
        error = self._error
        if error is None:
            said, text = "it returned without completing startup", ""
        else:
            said, text = one_line(error), application_traceback(error)
        if self._mode == "on":
            raise BootError(f"the application failed at lifespan startup: {said}", text)
        if error is None or not self._told_startup:
            log.debug("The application is run without lifespan: %s", said)
        elif not self._strayed and _knows_lifespan(error):
            log.warning(
                "The application raised at lifespan startup and is run without lifespan "
                "(--lifespan on makes this an error):\n%s",
                text.rstrip(),
            )
        elif loggers.speaks_for_all():
            log.info("The application knows nothing of lifespan and is run without it (%s)", said)

    def _died(self, _: asyncio.Task[None]) -> None:
        """The application left lifespan between startup and shutdown; service goes on."""
        if self._error is not None:
            log.error(
                "The application's lifespan ended with an error; its shutdown will not run:\n%s",
                application_traceback(self._error).rstrip(),
            )
        else:
            log.debug("The application returned from lifespan; its shutdown will not run")

    def _report_shutdown(self) -> None:
        if self._stopped.done() and self._stopped.result() is not None:
            log.error("The application failed at lifespan shutdown: %s", self._stopped.result())
        error = self._error
        if error is not None and not (
            self._cancelled and isinstance(error, asyncio.CancelledError)
        ):
            log.error(
                "The application raised at lifespan shutdown:\n%s",
                application_traceback(error).rstrip(),
            )

    async def _cancel(self, task: asyncio.Task[None], limit_s: float) -> None:
        if task.done():
            return
        self._cancelled = True
        task.cancel()
        await _first_of(asyncio.get_running_loop().time() + limit_s, task)
        if not task.done():
            log.error("The application's lifespan refuses to be cancelled and is abandoned")


def _knows_lifespan(error: BaseException) -> bool:
    """Whether any function that ``error`` came through has the word in it."""
    frames = traceback.walk_tb(error.__traceback__)
    codes = (frame.f_code for frame, _ in frames if not frame.f_code.co_filename.startswith(_OURS))
    return any(_mentions(code) for code in codes)


def _mentions(code: CodeType) -> bool:
    words = (*code.co_names, *code.co_varnames, *(one for one in code.co_consts if one))
    return any(
        _mentions(word) if isinstance(word, CodeType) else "lifespan" in str(word) for word in words
    )


async def _first_of(deadline: float, *futures: asyncio.Future[Any]) -> None:
    left_s = max(deadline - asyncio.get_running_loop().time(), 0)
    await asyncio.wait(futures, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)


def waits_at(task: asyncio.Task[Any]) -> str:
    """The lines at which ``task`` is suspended, outermost first, ours left out."""
    frames: list[tuple[FrameType, int]] = []
    waiting: Any = task.get_coro()
    for _ in range(DEEPEST_WAIT):
        for kind, suspended in (("cr", "cr_await"), ("gi", "gi_yieldfrom"), ("ag", "ag_await")):
            if hasattr(waiting, suspended):
                frame = getattr(waiting, f"{kind}_frame", None)
                waiting = getattr(waiting, suspended)
                if frame is not None and not frame.f_code.co_filename.startswith(_OURS):
                    frames.append((frame, frame.f_lineno))
                break
        else:
            # What __anext__() and __await__() return names its owner to the collector only.
            waiting = next(filter(_is_suspended, gc.get_referents(waiting)), None)
    return "".join(traceback.StackSummary.extract(iter(frames)).format())


def _is_suspended(found: object) -> bool:
    return inspect.isasyncgen(found) or inspect.iscoroutine(found) or inspect.isgenerator(found)
