"""A worker process from fork to exit status.

The order of things: stacks, signals, title, loop, application, lifespan startup, health check,
listen, Ready; then drain, lifespan shutdown, exit. What ends a worker: ``Drain`` from the master,
SIGTERM, or end-of-file on the channel, which means that the master is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import setproctitle

from asgi_worker import channel as channels
from asgi_worker import contract, exits, loggers, memory
from asgi_worker.access_log import AccessLog
from asgi_worker.application import BootError, load
from asgi_worker.contract import (
    Awake,
    BootFailed,
    Drain,
    Exit,
    Promote,
    Ready,
    Reopen,
    Unhealthy,
    Withdraw,
)
from asgi_worker.health import Health, withdrawn
from asgi_worker.lifespan import Lifespan
from asgi_worker.loops import finish, new_loop
from asgi_worker.scoreboard import State, Word
from asgi_worker.server import Server
from asgi_worker.stacks import write_when_asked
from asgi_worker.stopping import Stopping

if TYPE_CHECKING:
    from asgi_worker.application import Application
    from asgi_worker.contract import WorkerSettings
    from asgi_worker.inbox import Inboxes
    from asgi_worker.scoreboard import Scoreboard

LAST_WORDS_S = 2.0
"""How much of the time for starting is kept for telling the master why it was not enough."""
GUESTS_PART = 0.2
"""Of the time for lifespan shutdown, for tasks that the application has left on trio."""
MASTERS_WORD_S = 1.0
"""How long a worker that gets a SIGTERM waits for the master, which may be slow, to say what it is
about. Who gives up leaves its queue to others; where all were sent one, there are none."""

log = logging.getLogger("asgi_worker")


def run(  # noqa: PLR0913 – all that a forked process is given
    settings: WorkerSettings,
    *,
    slot: int,
    seat: int,
    generation: int,
    on_trial: bool,
    listeners: Sequence[socket.socket],
    neighbours: Sequence[socket.socket],
    shared: Sequence[socket.socket],
    inboxes: Inboxes,
    channel: socket.socket,
    scoreboard: Scoreboard,
    stacks: int,
    access_log: int,
    app: Application | None = None,
) -> int:
    """Serve until told to stop; the exit status of the process, for ``os._exit``.

    To be called once, in a process of its own, forked by the template: it takes over signals, the
    event loop and the process title. ``listeners`` are the slot's own and shut when the service
    stops; the ``shared`` ones and those of ``neighbours`` never are, for others accept there too.
    A worker ``on_trial`` accepts nowhere until ``Promote`` comes. ``stacks`` and ``access_log``
    are descriptors: of the file for stacks (:data:`contract.STACKS_SIGNAL`), and of that for
    access-log lines. ``app`` is the application when it was preloaded.
    """
    began = time.monotonic()
    # First, so that whatever hangs or crashes from here on can be seen.
    write_when_asked(stacks)
    exits.begin() if app is None else exits.inherit()
    signal.signal(signal.SIGINT, _leave_it_to_the_master)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ["ASGI_SUPERVISE_SLOT"] = str(slot)
    os.environ["ASGI_SUPERVISE_GENERATION"] = str(generation)
    title = f"{settings.name}: worker slot={slot} gen={generation} {settings.app}"
    setproctitle.setproctitle(title)
    memory.keep_heap()
    board = scoreboard.writer(seat)
    board[Word.PID] = os.getpid()
    board[Word.GENERATION] = generation
    board[Word.SLOT] = slot
    board[Word.STATE] = State.STARTING
    status = Exit.INTERNAL
    loop = worker = None
    try:
        loop = new_loop(settings)
        asyncio.set_event_loop(loop)
        preloaded = app is not None
        if app is None:  # before the loop runs: applications may use one of their own to get ready
            app = load(settings)
            loggers.keep_on()
        worker = _Worker(
            settings,
            loop=loop,
            queues=(listeners, shared, neighbours if settings.balance == "exact" else ()),
            on_trial=on_trial,
            channel=channel,
            board=board,
            join=lambda server: server.join(scoreboard, inboxes, seat),
            access_log=AccessLog(loop, access_log) if settings.access_log else None,
            title=title,
            freeze=not preloaded,
        )
        left_s = settings.startup_timeout_s - (time.monotonic() - began)
        serve = worker.serve_trio if settings.loop == "trio" else worker.serve
        status = loop.run_until_complete(serve(app, left_s))
    except BootError as error:
        with contextlib.suppress(OSError):  # the master is gone: nobody to tell
            channel.send(contract.encode(BootFailed(error.reason, error.traceback)))
        status = Exit.BOOT
    except Exception:
        log.exception("worker slot=%d pid=%d failed: please report this", slot, os.getpid())
    finally:
        if loop is not None:
            finish(loop, math.inf if worker is None else worker.deadline)
    return status


def _leave_it_to_the_master(*_: object) -> None:
    """Ctrl-C reaches the whole group. ``SIG_IGN`` would pass to programs the application starts."""


class _Worker:
    """What is between the first and the last turn of the loop."""

    def __init__(  # noqa: PLR0913 – most of what a forked process is given
        self,
        settings: WorkerSettings,
        *,
        loop: asyncio.AbstractEventLoop,
        queues: tuple[Sequence[socket.socket], ...],
        on_trial: bool,
        channel: socket.socket,
        board: memoryview,
        join: Callable[[Server], None],
        access_log: AccessLog | None,
        title: str,
        freeze: bool,
    ) -> None:
        self.settings = settings
        self.loop = loop
        self.queues = queues
        self.on_trial = on_trial
        self.channel = channel
        self.board = board
        self.join = join
        self.access_log = access_log
        self.title = title
        self.freeze = freeze
        self.told_to_stop: asyncio.Future[None] = loop.create_future()
        self.stop = Drain(settings.graceful_timeout_s, successor=False)
        """What it was told; later ones count if their budget ends sooner."""
        self.deadline = math.inf  # when the budget ends
        self.server: Server | None = None
        self.health: Health | None = None
        self.withdrawn = False
        self.for_guest = 0.0

    async def serve_trio(self, app: Application, startup_s: float) -> Exit:
        """As :meth:`serve`, for an application that is written for trio."""
        from asgi_worker.guest import Guest

        guest = Guest(self.loop, self._trio_crashed)
        guest.start()
        self.for_guest = GUESTS_PART
        try:
            status = await self.serve(guest.application(app), startup_s)
        except BootError as error:  # said at once: trio may take what time is left
            self._tell(BootFailed(error.reason, error.traceback))
            return Exit.BOOT
        finally:
            await guest.stop(self._reserve_s() * self.for_guest)
        if guest.has_crashed:
            guest.report_crash(at_startup=self.server is None)
            return Exit.INTERNAL
        return status

    async def serve(self, app: Application, startup_s: float) -> Exit:
        """The whole life of the worker.

        Raises ``BootError`` if it does not get ready, early enough to be heard: after ``startup_s``
        seconds the master ends it.
        """
        settings, loop = self.settings, self.loop
        last_words_s = min(LAST_WORDS_S, startup_s / 10)
        deadline = loop.time() + startup_s - last_words_s
        self.channel.setblocking(False)
        self._read()  # the order to stop may have come while the application was imported
        if self.told_to_stop.done():
            return Exit.OK
        loop.add_signal_handler(signal.SIGTERM, self._terminate)
        Stopping(lambda: self.told_to_stop.done() and not self.stop.successor)
        loop.add_reader(self.channel, self._read)
        lifespan = Lifespan(app, settings)
        if not await self._started(lifespan.startup(max(deadline - loop.time(), 0.0))):
            await lifespan.shutdown(settings.shutdown_reserve_s)
            return Exit.OK
        server = Server(
            app,
            settings,
            loop=loop,
            board=self.board,
            slot=self.board[Word.SLOT],
            generation=self.board[Word.GENERATION],
            state=lifespan.state,
            access_log=self.access_log,
        )
        server.tell_awake = lambda: self._tell(Awake())
        try:
            if settings.health_path is not None:
                self.health = Health(app, server, self._tell)
                timeout_s = max(deadline - loop.time(), 0.0)
                if not await self._started(self.health.startup(timeout_s)):
                    await lifespan.shutdown(settings.shutdown_reserve_s)
                    return Exit.OK
        except BootError as error:  # said at once: lifespan shutdown may take what time is left
            self._tell(BootFailed(error.reason, error.traceback))
            await lifespan.shutdown(last_words_s / 2)
            return Exit.BOOT
        await self._serve_until_told(server)
        await lifespan.shutdown(self._reserve_s() * (1 - self.for_guest))
        server.close()
        if self.access_log is not None:
            self.access_log.flush()
        return Exit.OK

    async def _serve_until_told(self, server: Server) -> None:
        self.server = server
        loggers.keep_on()  # lifespan startup is another place where logging is configured
        if self.withdrawn:
            self._withdraw()
        if self.freeze:
            memory.freeze()
        if self.settings.balance != "off":
            self.join(server)
        server.listen(*self.queues, on_trial=self.on_trial)
        if not self.on_trial:
            self._forget_queues()
        self._tell(Ready())
        if self.health is not None:
            self.health.watch()
        await self.told_to_stop
        setproctitle.setproctitle(f"{self.title} (draining)")
        if self.health is not None:
            self.health.stop()
        await server.drain(self._serving_s(), successor=self.stop.successor)

    def _forget_queues(self) -> None:
        """The server has its own, and what were open here would listen on when that does not."""
        for queue in self.queues:
            for listener in queue:
                listener.close()

    async def _started(self, startup: Coroutine[Any, Any, None]) -> bool:
        """Run a part of the start. Whether it succeeded, or the worker was told to stop first."""
        task = self.loop.create_task(startup)
        await asyncio.wait((task, self.told_to_stop), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))
            return False
        task.result()
        return not self.told_to_stop.done()

    def _serving_s(self) -> float:
        """The part of the budget that is for requests; the rest is for lifespan shutdown."""
        return self.stop.budget_s - self._reserve_s()

    def _reserve_s(self) -> float:
        return min(self.settings.shutdown_reserve_s, self.stop.budget_s / 2)

    def _tell(self, message: contract.Message) -> bool:
        """Tell the master; whether that was possible."""
        try:
            self.channel.send(contract.encode(message))
        except BlockingIOError:  # it hangs; what it has not read yet is for it to read first
            return False
        except OSError:
            self._stop("the master is gone")
            return False
        return True

    def _read(self) -> None:
        """A datagram from the master, or end-of-file because there is none any more."""
        try:
            datagram, files = channels.receive(self.channel)
        except BlockingIOError:
            return
        except OSError:
            datagram, files = b"", []
        with channels.closing(files):
            if not datagram:
                self.loop.remove_reader(self.channel)
                self._stop("the master is gone")
                return
            try:
                self._obey(contract.decode(datagram), files)
            except msgspec.DecodeError as error:
                log.warning("a message of the master is not understood, and ignored: %s", error)

    def _obey(self, message: contract.Message, files: list[int]) -> None:
        match message:
            case Drain():
                self._drain(message)
            case Withdraw():
                self._withdraw()
            case Promote():
                self._promote()
            case Reopen():
                self._reopen(message, files)
            case _:
                log.warning("a message of the master is not for workers: %r", message)

    def _reopen(self, message: Reopen, files: list[int]) -> None:
        if len(message.targets) != len(files):
            log.error(
                "cannot reopen log files: %d descriptors came for %d; the old ones stay in use",
                len(files),
                len(message.targets),
            )
            return
        channels.put_in_place(message, files)
        if self.access_log is not None:
            self.access_log.reopened()

    def _promote(self) -> None:
        """Accept connections like all others from now on."""
        self.on_trial = False
        if self.server is not None and not self.told_to_stop.done():
            self.server.promote()
            self._forget_queues()

    def _withdraw(self) -> None:
        """Answer ``health_path`` from now on, or as soon as the worker serves, with 503."""
        self.withdrawn = True
        if self.server is not None and self.health is not None:
            self.server.app = withdrawn(self.health.app, self.health.scope["path"])

    def _stop(self, why: str) -> None:
        log.debug("%s stops: %s", self.title, why)
        self._drain(Drain(self.settings.graceful_timeout_s, successor=False))

    def _terminate(self) -> None:
        """Somebody wants this worker to end, or the whole service, which only the master knows.

        Its word comes soon if it is the service: to stop, or when we shall. Else we are replaced.
        """
        if self.server is None:
            self._stop("SIGTERM while starting")
        else:
            self.loop.call_later(MASTERS_WORD_S, self._leave_alone)

    def _leave_alone(self) -> None:
        if not (self.told_to_stop.done() or self.withdrawn):
            self._give_up("it got SIGTERM, and not from the master")

    def _trio_crashed(self) -> None:
        self._give_up("trio has crashed")

    def _give_up(self, why: str) -> None:
        """The others serve on; the master replaces this one."""
        self._tell(Unhealthy(why))
        self._drain(Drain(self.settings.graceful_timeout_s, successor=True))

    def _drain(self, message: Drain) -> None:
        if not self.told_to_stop.done():
            self.stop = message
            self.deadline = self.loop.time() + message.budget_s
            self.told_to_stop.set_result(None)
            if message.successor and self.server is not None:
                self.server.leave()  # at once: the next turn may be full of connections
        elif message.budget_s < self.stop.budget_s:
            self.stop = Drain(message.budget_s, self.stop.successor)
            self.deadline = min(self.deadline, self.loop.time() + message.budget_s)
            if self.server is not None:
                self.server.hasten(self._serving_s())
