"""A worker process from fork to exit status.

The order of things: signals, title, loop, application, lifespan startup, listen, Ready; then drain,
lifespan shutdown, exit. What ends a worker: ``Drain`` from the master, SIGTERM, or end-of-file on
the channel, which means that the master is gone.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import ctypes
import faulthandler
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec
import setproctitle

from asgi_worker import contract
from asgi_worker.access_log import AccessLog
from asgi_worker.application import BootError, load
from asgi_worker.contract import BootFailed, Drain, Exit, Ready
from asgi_worker.lifespan import Lifespan
from asgi_worker.scoreboard import State, Word
from asgi_worker.server import Server

if TYPE_CHECKING:
    from asgi_worker.application import Application
    from asgi_worker.contract import WorkerSettings
    from asgi_worker.scoreboard import Scoreboard

STDOUT = 1
LAST_WORDS_S = 2.0
"""How much of the time for starting is kept for telling the master why it was not enough."""
_MALLOPT = {-1: 8 * 1024**2, -2: 1024**2, -3: 4 * 1024**2}
"""M_TRIM_THRESHOLD, M_TOP_PAD and M_MMAP_THRESHOLD in bytes."""

log = logging.getLogger("asgi_worker")


def run(
    settings: WorkerSettings,
    *,
    slot: int,
    generation: int,
    listeners: Sequence[socket.socket],
    channel: socket.socket,
    scoreboard: Scoreboard,
    app: Application | None = None,
) -> int:
    """Serve until told to stop; the exit status of the process, for ``os._exit``.

    To be called once, in a process of its own, forked by the template: it takes over signals, the
    event loop and the process title. ``app`` is the application when it was preloaded.
    """
    began = time.monotonic()
    atexit._clear()  # noqa: SLF001 – what came before the fork is for another process to run
    signal.signal(signal.SIGINT, _leave_it_to_the_master)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    faulthandler.enable()
    os.environ["ASGI_SUPERVISE_SLOT"] = str(slot)
    os.environ["ASGI_SUPERVISE_GENERATION"] = str(generation)
    setproctitle.setproctitle(
        f"{settings.name}: worker slot={slot} gen={generation} {settings.app}"
    )
    _keep_heap()
    board = scoreboard.writer(slot)
    board[Word.PID] = os.getpid()
    board[Word.GENERATION] = generation
    board[Word.STATE] = State.STARTING
    status = Exit.INTERNAL
    loop = new_loop(settings)
    asyncio.set_event_loop(loop)
    try:
        if app is None:  # before the loop runs: applications may use one of their own to get ready
            app = load(settings)
        worker = _Worker(settings, loop, listeners, channel, board, slot, generation)
        left_s = settings.startup_timeout_s - (time.monotonic() - began)
        status = loop.run_until_complete(worker.serve(app, left_s))
    except BootError as error:
        with contextlib.suppress(OSError):  # the master is gone: nobody to tell
            channel.send(contract.encode(BootFailed(error.reason, error.traceback)))
        status = Exit.BOOT
    except Exception:
        log.exception("worker slot=%d pid=%d failed: please report this", slot, os.getpid())
    finally:
        _finish(loop)
    return status


def _leave_it_to_the_master(*_: object) -> None:
    """Ctrl-C reaches the whole group. ``SIG_IGN`` would pass to programs the application starts."""


def new_loop(settings: WorkerSettings) -> asyncio.AbstractEventLoop:
    """The loop asked for; ``auto`` is uvloop where it can be imported."""
    if settings.loop != "asyncio":
        try:
            import uvloop
        except ImportError as error:
            if settings.loop == "uvloop":
                raise BootError(f"cannot use --loop uvloop: {error}; try --loop asyncio") from error
        else:
            return uvloop.new_event_loop()
    return asyncio.new_event_loop()


class _Worker:
    """What is between the first and the last turn of the loop."""

    def __init__(
        self,
        settings: WorkerSettings,
        loop: asyncio.AbstractEventLoop,
        listeners: Sequence[socket.socket],
        channel: socket.socket,
        board: memoryview,
        slot: int,
        generation: int,
    ) -> None:
        self.settings = settings
        self.loop = loop
        self.listeners = listeners
        self.channel = channel
        self.board = board
        self.slot = slot
        self.generation = generation
        self.told_to_stop: asyncio.Future[Drain] = loop.create_future()

    async def serve(self, app: Application, startup_s: float) -> Exit:
        """The whole life of the worker.

        Raises ``BootError`` if it does not get ready, early enough to be heard: after ``startup_s``
        seconds the master ends it.
        """
        settings, loop = self.settings, self.loop
        self.channel.setblocking(False)
        lifespan = Lifespan(app, settings)
        loop.add_signal_handler(signal.SIGTERM, self._stop, "SIGTERM")
        loop.add_reader(self.channel, self._read)
        limit_s = max(startup_s - min(LAST_WORDS_S, startup_s / 10), 0.0)
        startup = loop.create_task(lifespan.startup(limit_s))
        await asyncio.wait((startup, self.told_to_stop), return_when=asyncio.FIRST_COMPLETED)
        if not startup.done():
            startup.cancel()
            await asyncio.wait((startup,))
            await lifespan.shutdown(settings.shutdown_reserve_s)
            return Exit.OK
        startup.result()
        access_log = AccessLog(loop, STDOUT) if settings.access_log else None
        server = Server(
            app,
            settings,
            loop=loop,
            board=self.board,
            slot=self.slot,
            generation=self.generation,
            state=lifespan.state,
            access_log=access_log,
        )
        await server.listen(self.listeners)
        self._say_ready()
        stop = await self.told_to_stop
        reserve_s = min(settings.shutdown_reserve_s, stop.budget_s / 2)
        await server.drain(stop.budget_s - reserve_s, successor=stop.successor)
        await lifespan.shutdown(reserve_s)
        server.close()
        if access_log is not None:
            access_log.flush()
        return Exit.OK

    def _say_ready(self) -> None:
        try:
            self.channel.send(contract.encode(Ready()))
        except OSError:
            self._stop("the master is gone")

    def _read(self) -> None:
        """A datagram from the master, or end-of-file because there is none any more."""
        try:
            datagram = self.channel.recv(contract.LONGEST_MESSAGE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            datagram = b""
        if not datagram:
            self.loop.remove_reader(self.channel)
            self._stop("the master is gone")
            return
        try:
            message = contract.decode(datagram)
        except msgspec.DecodeError as error:
            log.warning("a message of the master is not understood, and ignored: %s", error)
            return
        if isinstance(message, Drain):
            self._drain(message)
        else:
            log.warning("a message of the master is not for workers: %r", message)

    def _stop(self, why: str) -> None:
        log.debug("worker slot=%d pid=%d stops: %s", self.slot, os.getpid(), why)
        self._drain(Drain(self.settings.graceful_timeout_s, successor=False))

    def _drain(self, message: Drain) -> None:
        if not self.told_to_stop.done():
            self.told_to_stop.set_result(message)


def _keep_heap() -> None:
    """Let malloc keep some megabytes that are free for the moment (mallopt(3)).

    With its defaults, glibc gives the top of the heap back after every burst of request bodies and
    faults it in again for the next, which costs more than all else that a 64 KiB upload does.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return  # the operator has settled it
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in _MALLOPT.items():
            mallopt(parameter, value)


def _finish(loop: asyncio.AbstractEventLoop) -> None:
    """What a normal end of the interpreter would have done; the process leaves by ``os._exit``.

    The default executor is not waited for: a thread that never ends must not keep the worker.
    """
    steps: tuple[Callable[[], object], ...] = (
        lambda: loop.run_until_complete(asyncio.wait_for(loop.shutdown_asyncgens(), 1.0)),
        atexit._run_exitfuncs,  # noqa: SLF001 – `os._exit` would skip it
        sys.stdout.flush,
        sys.stderr.flush,
    )
    for step in steps:
        with contextlib.suppress(Exception):
            step()
