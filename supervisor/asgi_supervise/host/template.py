"""The template: the process from which the workers of one generation are forked.

It has no loop and no threads. It holds our own modules, with ``--preload`` the application too,
sits in a blocking ``recv`` and forks when told. Every worker comes from here – start, crash
replacement, later scale-up and reload – so there is one path to test.

Workers are forked twice over, so that they become children of the master, which alone reaps them. A
worker goes on only after the master was told of it, so *Spawned* always arrives before *Ready*.

End-of-file on the channel means that no worker will be asked for any more: the generation is
retired, the service stops, or the master is gone. In the first two cases the workers are the
master's business, and the template only waits until they have left – or the master is gone after
all, which a hang-up of the channel tells. Then workers stop by themselves; a worker stuck in
application code does not, and the template is who sees to it that it ends within the graceful
time-out.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import logging
import math
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NoReturn, Protocol

import msgspec
from setproctitle import setproctitle

from asgi_supervise.host import children, logs, preload, privileges, sharing, signals
from asgi_supervise.host.sockets import Listeners
from asgi_worker import channel as channels
from asgi_worker.contract import (
    BootFailed,
    Exit,
    Message,
    Reopen,
    Spawn,
    Spawned,
    SpawnFailed,
    TemplateReady,
    WorkerSettings,
    decode,
    encode,
)
from asgi_worker.inbox import Inboxes
from asgi_worker.scoreboard import Scoreboard

log = logging.getLogger("asgi_supervise")

KILL_WAIT_S = 5.0
"""How long the template waits for workers it has killed: one may be stuck in the kernel."""


class RunWorker(Protocol):
    """``asgi_worker.main.run``: a worker from fork to exit status."""

    def __call__(  # noqa: PLR0913 - all that a worker is
        self,
        settings: WorkerSettings,
        *,
        slot: int,
        seat: int,
        generation: int,
        on_trial: bool,
        listeners: list[socket.socket],
        neighbours: list[socket.socket],
        shared: list[socket.socket],
        inboxes: Inboxes,
        channel: socket.socket,
        scoreboard: Scoreboard,
        stacks: int,
        access_log: int,
        app: object | None,
    ) -> int: ...


@dataclass(frozen=True, slots=True)
class Blueprint:
    """All that templates and workers are made from."""

    settings: WorkerSettings
    listeners: Listeners
    scoreboard: Scoreboard
    inboxes: Inboxes
    preload: bool = False
    identity: privileges.Identity | None = None
    umask: int | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    """Put into the environment, which is the master's otherwise."""
    directory: str = "."
    """Where to run."""
    access_log: int = 1
    """Descriptor for access-log lines."""
    run_worker: str = "asgi_worker.main:run"
    """Where a :class:`RunWorker` is; imported in the template, never in the master."""


@dataclass(slots=True)
class Template:
    """The template process itself; made after the fork."""

    blueprint: Blueprint
    generation: int
    channel: socket.socket
    stacks: int
    """Descriptor of the file for its stacks; already written to when asked."""
    pidfds: list[int]
    """Of every worker of the generation that may still run: those of a former template, which died,
    and those forked here.
    """
    app: object | None = None

    def run(self) -> int:
        """The whole life; returns the exit status."""
        settings = self.blueprint.settings
        setproctitle(f"{settings.name}: template gen={self.generation} {settings.app}")
        try:
            run_worker = self.prepare()
        except Exception as error:  # noqa: BLE001 - whatever it is, the master shall report it once
            self.tell(_boot_failure(error))
            return Exit.BOOT
        self.tell(TemplateReady())
        while order := self.next_order():
            self.spawn(*order, run_worker)
        self.blueprint.listeners.close()
        self.see_workers_out()
        return Exit.OK

    def prepare(self) -> RunWorker:
        """Become who the workers run as, where they run, import what they share, and freeze it.

        Our own modules first: the user the workers run as may not be able to read them.
        """
        os.environ.update(self.blueprint.variables)
        time.tzset()
        logs.set_level(self.blueprint.settings.log_level)
        before = _where_we_are()
        if os.path.realpath(self.blueprint.directory) != before:
            os.chdir(self.blueprint.directory)  # not to where we are: that may be forbidden by now
            if sys.path[:1] == [before]:  # by python -m; nothing of a former release is imported
                sys.path[0] = os.getcwd()
        module, _, name = self.blueprint.run_worker.partition(":")
        run_worker: RunWorker = getattr(importlib.import_module(module), name)
        if self.blueprint.settings.loop != "asyncio":
            _import("uvloop")
        if self.blueprint.settings.loop == "trio":
            _import("asgi_worker.guest")
        if self.blueprint.umask is not None:
            os.umask(self.blueprint.umask)
        if self.blueprint.identity is not None:
            privileges.take_on(self.blueprint.identity)
        if self.blueprint.preload:
            self.load_application()
            if "anyio" in sys.modules:  # which imports the rest of itself with the first request
                _import("anyio._backends._asyncio")
        sharing.keep()
        return run_worker

    def load_application(self) -> None:
        """Import the application; say what of it will not reach the workers."""
        from asgi_worker import exits, loggers
        from asgi_worker.application import load

        settings = self.blueprint.settings
        before = preload.descriptors()
        if not self.pidfds:  # there is nobody to see out: an import that hangs must not stay behind
            children.die_with_parent()
            if self.master_is_gone():
                return
        exits.begin()
        try:
            self.app = load(settings)
        finally:
            children.outlive_parent()
        loggers.keep_on()
        gc.collect()  # what is garbage need not be closed by anybody
        if remains := preload.remains(before):
            log.warning("%s", preload.warning(settings.app, remains))

    def next_order(self) -> tuple[Spawn, socket.socket, int] | None:
        """Wait for the next worker asked for, its channel and its file for stacks. ``None``: there
        is no more.
        """
        while True:
            try:
                datagram, received = channels.receive(self.channel)
            except ConnectionResetError:
                continue  # the master is gone and had not read all; end-of-file comes next
            if not datagram:
                return None
            with channels.closing(received) as fds:
                try:
                    message = decode(datagram)
                except msgspec.DecodeError as error:
                    log.warning("the template ignores a message of the master: %s", error)
                    continue
                match message:
                    case Spawn() if len(fds) == 2:
                        stacks, channel = fds.pop(), fds.pop()
                        return message, socket.socket(fileno=channel), stacks
                    case Spawn(seat=seat):
                        self.tell(SpawnFailed(seat, "recvmsg: no descriptors left"))
                    case Reopen():
                        flush_streams()
                        channels.put_in_place(message, fds)
                    case _:
                        log.warning("the template ignores a message not for it: %r", message)

    def tell(self, message: Message, *fds: int) -> None:
        """Tell the master. If there is none any more, the next order is end-of-file."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            socket.send_fds(self.channel, [encode(message)], fds)

    def spawn(
        self, order: Spawn, channel: socket.socket, stacks: int, run_worker: RunWorker
    ) -> None:
        """Fork a worker and report it."""
        self.pidfds = _running(self.pidfds)
        with channel, channels.closing([stacks]):
            try:
                pid, pidfd, go_on = children.fork_twice(
                    lambda there, mask: self.work(order, channel, stacks, there, mask, run_worker)
                )
            except OSError as error:
                self.tell(SpawnFailed(order.seat, f"fork: {error.strerror}"))
                return
        with go_on:
            self.pidfds.append(pidfd)
            self.tell(Spawned(order.seat, pid), pidfd)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # killed already
                go_on.send(children.GO_ON)

    def work(
        self,
        order: Spawn,
        channel: socket.socket,
        stacks: int,
        there: socket.socket,
        mask: set[int],
        run_worker: RunWorker,
    ) -> NoReturn:
        """In the worker: let go of what is not ours, and work."""
        status: int = Exit.INTERNAL
        try:
            if not _is_told_to_go_on(there):  # nobody was told of us
                os._exit(Exit.OK)
            there.close()
            self.channel.close()
            for pidfd in self.pidfds:
                os.close(pidfd)
            # In the place of the template's file: what writes to that descriptor now writes to our
            # own, and there is no moment at which the signal would not be handled.
            os.dup2(stacks, self.stacks, inheritable=False)
            os.close(stacks)
            helps_out = self.blueprint.settings.balance == "exact"
            self.blueprint.listeners.keep_only(order.slot, helps_out=helps_out)
            signals.obey_termination(mask)
            status = run_worker(
                self.blueprint.settings,
                slot=order.slot,
                seat=order.seat,
                generation=self.generation,
                on_trial=order.on_trial,
                listeners=self.blueprint.listeners.of_slot(order.slot),
                neighbours=self.blueprint.listeners.neighbours(order.slot),
                shared=self.blueprint.listeners.shared,
                inboxes=self.blueprint.inboxes,
                channel=channel,
                scoreboard=self.blueprint.scoreboard,
                stacks=self.stacks,
                access_log=self.blueprint.access_log,
                app=self.app,
            )
        except BaseException:  # noqa: BLE001 - a child must not return into its parent's code
            traceback.print_exc()
        finally:
            _leave(status)

    def master_is_gone(self) -> bool:
        """Its end of the channel is closed, not only shut for writing."""
        poll = select.poll()
        poll.register(self.channel, 0)  # a hang-up is always told
        return bool(poll.poll(0))

    def see_workers_out(self) -> None:
        """Wait until every worker has ended.

        They are the master's to stop: what we would send could cut short what it has told them.
        When it is gone they are ours, and those that have not ended within their time are killed.
        """
        if self.wait_for_workers(math.inf, self.channel):
            return
        deadline = time.monotonic() + self.blueprint.settings.graceful_timeout_s
        for pidfd in self.pidfds:
            children.send_signal(pidfd, signal.SIGTERM)
        if self.wait_for_workers(deadline):
            return
        for pidfd in self.pidfds:
            children.send_signal(pidfd, signal.SIGKILL)
        self.wait_for_workers(time.monotonic() + KILL_WAIT_S)

    def wait_for_workers(self, deadline: float, master: socket.socket | None = None) -> bool:
        """Whether all have ended by ``deadline``, or before ``master`` hung up."""
        self.pidfds = _running(self.pidfds)
        while self.pidfds:
            poll = select.poll()
            for pidfd in self.pidfds:
                poll.register(pidfd, select.POLLIN)
            if master is not None:
                poll.register(master, 0)
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            ready = poll.poll(None if left_s == math.inf else left_s * 1000 + 1)
            if not ready or (master is not None and (master.fileno(), select.POLLHUP) in ready):
                return False
            self.pidfds = _running(self.pidfds)
        return True


def _is_told_to_go_on(there: socket.socket) -> bool:
    """Wait for the template's word. It may be killed before it gives it."""
    try:
        return there.recv(16) == children.GO_ON
    except ConnectionResetError:
        return False


def live(
    blueprint: Blueprint, generation: int, channel: socket.socket, stacks: int, pidfds: list[int]
) -> NoReturn:
    """Be the template, in a process just forked for it, and end."""
    status: int = Exit.INTERNAL
    try:
        status = Template(blueprint, generation, channel, stacks, pidfds).run()
    except BaseException:  # noqa: BLE001 - a child must not return into its parent's code
        traceback.print_exc()
    finally:
        _leave(status)


def _where_we_are() -> str:
    """Empty if that is removed by now, as the release that the master was started in may be."""
    with contextlib.suppress(FileNotFoundError):
        return os.getcwd()
    return ""


def _import(name: str) -> None:
    """What every worker would import for itself later, shared; where it is missing it is not ours
    to say.
    """
    with contextlib.suppress(ImportError):
        importlib.import_module(name)


def _boot_failure(error: Exception) -> BootFailed:
    """Of the application, which says what is wrong with it, or of a broken installation."""
    application = sys.modules.get("asgi_worker.application")
    if application is not None and isinstance(error, application.BootError):
        return BootFailed(error.reason, error.traceback)
    text = "".join(traceback.format_exception(error))
    return BootFailed(f"the template cannot work: {error!r}", text)


def _running(pidfds: list[int]) -> list[int]:
    """Close those whose process has ended; the others."""
    poll = select.poll()
    for pidfd in pidfds:
        poll.register(pidfd, select.POLLIN)
    ended = {pidfd for pidfd, _ in poll.poll(0)}
    for pidfd in ended:
        os.close(pidfd)
    return [pidfd for pidfd in pidfds if pidfd not in ended]


def flush_streams() -> None:
    """Write out what is buffered, so that a fork does not copy it nor ``os._exit`` lose it."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # closed by whoever started us
            with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
                stream.flush()


def _leave(status: int) -> NoReturn:
    """End without running what the parent left to be run at its exit."""
    flush_streams()
    os._exit(status)
