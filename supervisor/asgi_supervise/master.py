"""The master: the one loop – decide, act, wait, observe – and what is made before it turns.

It never imports the application, asyncio or uvloop, and blocks nowhere but in :meth:`Host.wait`. It
does not die of an error of its own: that is logged with its traceback, counted, and the loop goes
on with the next act, event or turn.
"""

from __future__ import annotations

import logging
import math
import os
import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import assert_never

from setproctitle import setproctitle

from asgi_supervise.control.status import Status, snapshot
from asgi_supervise.host import privileges, sockets
from asgi_supervise.host.children import UnsupportedSystem
from asgi_supervise.host.pidfile import PidFile, PidFileError, PidFileTaken
from asgi_supervise.host.system import Host, PosixHost
from asgi_supervise.host.template import Blueprint
from asgi_supervise.policy import vocabulary as v
from asgi_supervise.policy.health import Rules
from asgi_supervise.policy.sizing import slots_to_make
from asgi_supervise.policy.supervisor import Supervisor
from asgi_supervise.settings.schema import Settings
from asgi_worker.contract import Exit
from asgi_worker.scoreboard import Scoreboard

log = logging.getLogger("asgi_supervise")

MOST_FAILED_TURNS = 20
"""So many in a row, and the master ends: it does nothing any more but fail."""
FAILED_TURN_PAUSE_S = 0.5
"""The longest wait after a failed turn: what was not done is tried again."""


class Master:
    """The loop. Judgement is the supervisor's, deeds are the host's."""

    def __init__(
        self, host: Host, supervisor: Supervisor, scoreboard: Scoreboard, addresses: list[str]
    ) -> None:
        self.host = host
        self.supervisor = supervisor
        self.failures = 0
        self._scoreboard = scoreboard
        self._addresses = addresses

    def run(self) -> int:
        """Turn until all is done; returns the exit status."""
        failed_in_a_row = 0
        while not self.supervisor.done:
            before = self.failures
            with self.surviving():
                self.turn(pause_s=math.inf if failed_in_a_row == 0 else FAILED_TURN_PAUSE_S)
            failed_in_a_row = failed_in_a_row + 1 if self.failures > before else 0
            if failed_in_a_row >= MOST_FAILED_TURNS:
                log.error("stopping at once: every turn of the master fails")
                return Exit.INTERNAL
        return self.supervisor.verdict

    @contextmanager
    def surviving(self) -> Iterator[None]:
        """An error in here is ours; it is logged and counted, and the master lives on."""
        try:
            yield
        except Exception:
            self.failures += 1
            log.exception("[BUG] the master failed at something; please report this")

    def turn(self, pause_s: float = math.inf) -> None:
        """One turn of the loop; it waits ``pause_s`` at most."""
        host, supervisor = self.host, self.supervisor
        for act in supervisor.decide(host.now()):
            with self.surviving():
                self.perform(act)
        if supervisor.done:
            return
        for event in host.wait(min(supervisor.deadline(), host.now() + pause_s)):
            with self.surviving():
                supervisor.observe(event, host.now())

    def perform(self, act: v.Act) -> None:
        """Do one act."""
        host = self.host
        match act:
            case v.StartTemplate(generation=generation):
                host.start_template(generation)
            case v.StopTemplate(generation=generation):
                host.stop_template(generation)
            case v.KillTemplate(generation=generation):
                host.kill_template(generation)
            case v.SpawnWorker(worker=worker, slot=slot, generation=generation):
                host.spawn_worker(worker, slot, generation)
            case v.DrainWorker(worker=worker, budget_s=budget_s, successor=successor):
                host.drain_worker(worker, budget_s, successor=successor)
            case v.TerminateWorker(worker=worker):
                host.terminate_worker(worker)
            case v.KillWorker(worker=worker):
                host.kill_worker(worker)
            case v.CloseListeners():
                host.close_listeners()
            case v.AnnounceServing(ready=ready, wanted=wanted):
                where = ", ".join(self._addresses)
                count = f"{ready}" if ready == wanted else f"{ready} of {wanted}"
                noun = "worker" if wanted == 1 else "workers"
                log.info("serving on %s with %s %s (pid %d)", where, count, noun, os.getpid())
            case v.Say(level=level, text=text):
                log.log(LEVELS[level], "%s", text)
            case _:
                assert_never(act)

    def status(self) -> Status:
        """How things stand now."""
        return snapshot(self.supervisor, self._scoreboard, self.failures)


LEVELS = {level.lower(): number for level, number in logging.getLevelNamesMapping().items()}


def run(settings: Settings) -> int:
    """Be the master of ``settings`` until told to stop; returns the exit status of the process."""
    configure_logging(settings.log_level)
    setproctitle(f"{settings.name}: master {settings.app}")
    with ExitStack() as open_things:
        try:
            master = _prepare(settings, open_things)
        except (privileges.PrivilegeError, PidFileError, UnsupportedSystem) as error:
            log.critical("%s", error)
            return Exit.USAGE
        except (sockets.BindError, PidFileTaken) as error:
            log.critical("%s", error)
            return Exit.BIND
        return master.run()


def _prepare(settings: Settings, open_things: ExitStack) -> Master:
    """Everything a master has before its first turn; what must be closed goes on the stack."""
    rules = Rules(
        workers=settings.workers,
        startup_timeout_s=settings.startup_timeout_s,
        graceful_timeout_s=settings.graceful_timeout_s,
        preload=settings.preload,
        max_restarts=settings.max_restarts,
        restart_window_s=settings.restart_window_s,
    )
    identity = privileges.resolve(settings.user, settings.group)
    private = []
    if settings.pid is not None:
        pid_file = open_things.enter_context(closing(PidFile(settings.pid)))
        private.append(pid_file.descriptor)
    slots = slots_to_make(rules)
    listeners = sockets.listen(
        settings.bind,
        slots=slots,
        backlog=settings.backlog,
        uds_mode=settings.uds_mode,
        owner=identity,
    )
    open_things.callback(listeners.remove_files)
    blueprint = Blueprint(
        settings=settings.worker_settings(),
        listeners=listeners,
        scoreboard=Scoreboard(slots),
        preload=settings.preload,
        identity=identity,
        umask=settings.umask,
    )
    host = open_things.enter_context(closing(PosixHost(blueprint, private)))
    supervisor = Supervisor(rules, random.random)
    return Master(host, supervisor, blueprint.scoreboard, listeners.addresses)


def configure_logging(level: str) -> None:
    """Our loggers, here and in every process forked from here, to standard error.

    Only ours: the application's logging is the application's.
    """
    to_stderr = logging.StreamHandler(sys.stderr)
    to_stderr.setFormatter(
        logging.Formatter(
            "{asctime}.{msecs:03.0f} [{process}] {levelname} {message}",
            datefmt="%Y-%m-%d %H:%M:%S",
            style="{",
        )
    )
    for name in ("asgi_supervise", "asgi_worker"):
        logger = logging.getLogger(name)
        logger.handlers = [to_stderr]
        logger.setLevel(level.upper())
        logger.propagate = False
