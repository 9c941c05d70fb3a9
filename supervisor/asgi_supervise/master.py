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
from collections.abc import Container, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from typing import Protocol, assert_never

from asgi_supervise.control.status import Status, snapshot
from asgi_supervise.host import logs, privileges, signals, sockets
from asgi_supervise.host.children import UnsupportedSystem
from asgi_supervise.host.descriptors import TooFewDescriptors, make_inboxes
from asgi_supervise.host.pidfile import PidFile, PidFileError, PidFileTaken
from asgi_supervise.host.posix import PosixHost
from asgi_supervise.host.system import Host
from asgi_supervise.host.template import Blueprint
from asgi_supervise.plans import Plans, Reread, entitle, rules_of
from asgi_supervise.policy import vocabulary as v
from asgi_supervise.policy.sizing import most_workers, slots_to_make
from asgi_supervise.policy.supervisor import Supervisor
from asgi_supervise.settings.sources import Loaded
from asgi_worker.contract import Exit
from asgi_worker.scoreboard import Scoreboard

log = logging.getLogger("asgi_supervise")

MOST_FAILED_TURNS = 20
"""So many in a row, and the master ends: it does nothing any more but fail."""
FAILED_TURN_PAUSE_S = 0.5
"""The longest wait after a failed turn: what was not done is tried again."""


class Generations(Protocol):
    """What generations are made from; see :class:`Plans`."""

    def blueprint(self, generation: int) -> Blueprint:
        """What its processes are made from."""
        ...

    def read(self, generation: int, in_use: Container[int]) -> v.SettingsRead | v.SettingsRefused:
        """Read its settings."""
        ...

    def adopt(self, generation: int) -> None:
        """Its settings are in force."""
        ...


class LogOutput(Protocol):
    """Where the log goes; see :class:`asgi_supervise.host.logs.LogFiles`."""

    def reopen(self) -> Mapping[int, int]:
        """Open the files anew; which descriptor is to be put in whose place elsewhere."""
        ...


class Master:
    """The loop. Judgement is the supervisor's, deeds are the host's."""

    def __init__(
        self,
        host: Host,
        supervisor: Supervisor,
        generations: Generations,
        output: LogOutput,
        scoreboard: Scoreboard,
        addresses: list[str],
    ) -> None:
        self.host = host
        self.supervisor = supervisor
        self._generations = generations
        self._output = output
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

    def perform(self, act: v.Act) -> None:  # noqa: C901, PLR0912 - one case for each act
        """Do one act."""
        host = self.host
        match act:
            case v.ReadSettings(generation=generation):
                self._read_settings(generation)
            case v.AdoptSettings(generation=generation):
                self._generations.adopt(generation)
            case v.StartTemplate(generation=generation):
                host.start_template(generation, self._generations.blueprint(generation))
            case v.StopTemplate(generation=generation):
                host.stop_template(generation)
            case v.KillTemplate(generation=generation):
                host.kill_template(generation)
            case v.SpawnWorker(
                worker=worker, slot=slot, seat=seat, generation=generation, share=share
            ):
                host.spawn_worker(worker, slot, seat, generation, share)
            case v.PromoteWorker(worker=worker):
                host.promote_worker(worker)
            case v.DrainWorker(worker=worker, budget_s=budget_s, successor=successor):
                host.drain_worker(worker, budget_s, successor=successor)
            case v.WithdrawWorker(worker=worker):
                host.withdraw_worker(worker)
            case v.TerminateWorker(worker=worker):
                host.terminate_worker(worker)
            case v.AbortWorker(worker=worker):
                host.abort_worker(worker)
            case v.KillWorker(worker=worker):
                host.kill_worker(worker)
            case v.LookAtFigures():
                host.look_at_figures()
            case v.DumpStacks(generation=generation, worker=whose, native=native):
                host.dump_stacks(generation, whose, native=native)
            case v.ReadStacks(generation=generation, worker=whose):
                host.read_stacks(generation, whose)
            case v.Steer(weights=weights):
                host.steer(weights)
            case v.Rescue(slots=slots, seats=seats, takers=takers):
                host.rescue(slots, seats, takers)
            case v.ReopenLogs():
                host.pass_on(self._output.reopen())
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

    def _read_settings(self, generation: int) -> None:
        supervisor = self.supervisor
        in_use = {supervisor.reloads.generation}
        in_use |= {member.generation for member in supervisor.fleet.members()}
        outcome: v.SettingsRead | v.SettingsRefused = v.SettingsRefused(
            generation, "they cannot be read; that is a bug of ours, and reported"
        )
        try:
            outcome = self._generations.read(generation, in_use)
        finally:
            supervisor.observe(outcome, self.host.now())

    def status(self) -> Status:
        """How things stand now."""
        return snapshot(self.supervisor, self._scoreboard, self.failures)


LEVELS = {level.lower(): number for level, number in logging.getLevelNamesMapping().items()}


def run(loaded: Loaded, reread: Reread) -> int:
    """Be the master until told to stop; returns the exit status of the process.

    ``reread`` gives the settings of the next generation when a reload is asked for.
    """
    settings = loaded.settings
    logs.configure(settings.log_level)
    entitle(settings)
    with ExitStack() as open_things:
        try:
            with signals.blocked():  # who reads the pid file may send one that is not heard yet
                master = _prepare(loaded, reread, open_things)
        except (
            privileges.PrivilegeError,
            PidFileError,
            UnsupportedSystem,
            logs.LogFileError,
        ) as error:
            log.critical("%s", error)
            return Exit.USAGE
        except (sockets.BindError, PidFileTaken, TooFewDescriptors) as error:
            log.critical("%s", error)
            return Exit.BIND
        return master.run()


def _prepare(loaded: Loaded, reread: Reread, open_things: ExitStack) -> Master:
    """Everything a master has before its first turn; what must be closed goes on the stack."""
    settings = loaded.settings
    rules = rules_of(settings)
    identity = privileges.resolve(settings.user, settings.group)
    private = []
    if settings.pid is not None:
        pid_file = open_things.enter_context(closing(PidFile(settings.pid)))
        private.append(pid_file.descriptor)
    listeners = sockets.listen(
        settings.bind,
        slots=slots_to_make(rules),
        backlog=settings.backlog,
        uds_mode=settings.uds_mode,
        owner=identity,
    )
    open_things.callback(listeners.remove_files)
    # Last, so that whoever starts us still sees on the terminal what is wrong with the rest.
    output = open_things.enter_context(
        closing(logs.LogFiles(settings.log_file, settings.access_log_file))
    )
    blueprint = Blueprint(
        settings=settings.worker_settings(),
        listeners=listeners,
        scoreboard=Scoreboard(most_workers(rules)),
        inboxes=open_things.enter_context(closing(make_inboxes(most_workers(rules)))),
        preload=settings.preload,
        identity=identity,
        umask=settings.umask,
        variables=loaded.variables,
        directory=str(loaded.directory),
        access_log=output.access_log,
    )
    host = open_things.enter_context(
        closing(PosixHost(blueprint.scoreboard, listeners, blueprint.inboxes, private))
    )
    return Master(
        host,
        Supervisor(rules, random.random),
        Plans(settings, reread, blueprint),
        output,
        blueprint.scoreboard,
        listeners.addresses,
    )
