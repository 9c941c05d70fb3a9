"""The template: the process from which the workers of one generation are forked.

It has no loop and no threads. It holds our own modules, with ``--preload`` the application too,
sits in a blocking ``recv`` and forks when told. Every worker comes from here – start, crash
replacement, later scale-up and reload – so there is one path to test.

Workers are forked twice over: the one in the middle ends at once, so that the worker becomes a
child of the master (a subreaper), which alone reaps it. While the one in the middle lives, the
worker's pid cannot be used again; that is when its pidfd is opened. The worker goes on only after
the master was told of it, so *Spawned* always arrives before *Ready*.

End-of-file on the channel means that no worker will be asked for any more: the service stops, or
the master is gone. Workers then stop by themselves; a worker stuck in application code does not,
and the template is who sees to it that it ends within the graceful time-out.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn, Protocol

from setproctitle import setproctitle

from asgi_supervise.host import children, privileges, signals
from asgi_supervise.host.sockets import Listeners
from asgi_worker.contract import (
    LONGEST_MESSAGE_BYTES,
    BootFailed,
    Exit,
    Message,
    Spawn,
    Spawned,
    SpawnFailed,
    TemplateReady,
    WorkerSettings,
    decode,
    encode,
)
from asgi_worker.scoreboard import Scoreboard

GO_ON = b"go"
MASTERS_TURN_S = 1.0
"""How much longer a living master has for workers that do not stop."""
KILL_WAIT_S = 5.0
"""How long the template waits for workers it has killed: one may be stuck in the kernel."""


class RunWorker(Protocol):
    """``asgi_worker.main.run``: a worker from fork to exit status."""

    def __call__(
        self,
        settings: WorkerSettings,
        *,
        slot: int,
        generation: int,
        listeners: list[socket.socket],
        channel: socket.socket,
        scoreboard: Scoreboard,
        app: object | None,
    ) -> int: ...


@dataclass(frozen=True, slots=True)
class Blueprint:
    """All that templates and workers are made from."""

    settings: WorkerSettings
    listeners: Listeners
    scoreboard: Scoreboard
    preload: bool = False
    identity: privileges.Identity | None = None
    umask: int | None = None
    run_worker: str = "asgi_worker.main:run"
    """Where a :class:`RunWorker` is; imported in the template, never in the master."""


@dataclass(slots=True)
class Template:
    """The template process itself; made after the fork."""

    blueprint: Blueprint
    generation: int
    channel: socket.socket
    master: int
    """Its pid; our parent, as long as it lives."""
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
        self.channel.close()
        self.blueprint.listeners.close()
        self.see_workers_out()
        return Exit.OK

    def prepare(self) -> RunWorker:
        """Become who the workers run as, import what they share, and freeze it.

        Our own modules first: the user the workers run as may not be able to read them.
        """
        module, _, name = self.blueprint.run_worker.partition(":")
        run_worker: RunWorker = getattr(importlib.import_module(module), name)
        if self.blueprint.umask is not None:
            os.umask(self.blueprint.umask)
        if self.blueprint.identity is not None:
            privileges.take_on(self.blueprint.identity)
        if self.blueprint.preload:
            from asgi_worker.application import load

            self.app = load(self.blueprint.settings)
        gc.collect()
        gc.freeze()  # a collection in a worker would write to, and so copy, every shared page
        return run_worker

    def next_order(self) -> tuple[int, socket.socket] | None:
        """Wait for the next worker asked for: slot and channel. ``None``: there is no more."""
        while True:
            try:
                datagram, fds, _, _ = socket.recv_fds(self.channel, LONGEST_MESSAGE_BYTES, 1)
            except ConnectionResetError:
                continue  # the master is gone and had not read all; end-of-file comes next
            if not datagram:
                return None
            message = decode(datagram)
            if isinstance(message, Spawn) and fds:
                return message.slot, socket.socket(fileno=fds[0])

    def tell(self, message: Message, *fds: int) -> None:
        """Tell the master. If there is none any more, the next order is end-of-file."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            socket.send_fds(self.channel, [encode(message)], fds)

    def spawn(self, slot: int, channel: socket.socket, run_worker: RunWorker) -> None:
        """Fork a worker into ``slot`` and report it."""
        self.pidfds = _running(self.pidfds)
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with channel, here, there:
            with signals.blocked() as mask:
                try:
                    middle = os.fork()
                except OSError as error:
                    self.tell(SpawnFailed(slot, f"fork: {error.strerror}"))
                    return
                if middle == 0:
                    here.close()
                    self.fork_again(
                        lambda: self.work(slot, channel, there, mask, run_worker), there
                    )
            os.waitpid(middle, 0)  # from here on the worker is the master's child
            try:
                answer, fds, _, _ = socket.recv_fds(here, 256, 1, socket.MSG_DONTWAIT)
            except BlockingIOError:
                answer, fds = b"fork: the child was killed", []
            if fds:
                self.pidfds += fds
                self.tell(Spawned(slot, int(answer)), *fds)
                here.send(GO_ON)
            else:
                self.tell(SpawnFailed(slot, answer.decode()))

    def fork_again(self, work: Callable[[], NoReturn], there: socket.socket) -> NoReturn:
        """In the middle: fork the worker, answer with its pid and pidfd, and end."""
        try:
            pid = os.fork()
            if pid == 0:
                work()
            socket.send_fds(there, [b"%d" % pid], [os.pidfd_open(pid)])
        except OSError as error:
            there.send(f"fork: {error.strerror}".encode())
        finally:
            os._exit(Exit.OK)

    def work(
        self,
        slot: int,
        channel: socket.socket,
        there: socket.socket,
        mask: set[int],
        run_worker: RunWorker,
    ) -> NoReturn:
        """In the worker: let go of what is not ours, and work."""
        status: int = Exit.INTERNAL
        try:
            if there.recv(len(GO_ON)) != GO_ON:  # nobody was told of us
                os._exit(Exit.OK)
            there.close()
            self.channel.close()
            for pidfd in self.pidfds:
                os.close(pidfd)
            self.blueprint.listeners.keep_only(slot)
            signals.obey_termination(mask)
            status = run_worker(
                self.blueprint.settings,
                slot=slot,
                generation=self.generation,
                listeners=self.blueprint.listeners.of_slot(slot),
                channel=channel,
                scoreboard=self.blueprint.scoreboard,
                app=self.app,
            )
        except BaseException:  # noqa: BLE001 - a child must not return into its parent's code
            traceback.print_exc()
        finally:
            _leave(status)

    def see_workers_out(self) -> None:
        """Wait until every worker has ended; kill those that have not within their time.

        While the master lives it does that itself, and says so in the log.
        """
        deadline = time.monotonic() + self.blueprint.settings.graceful_timeout_s
        for pidfd in self.pidfds:
            children.send_signal(pidfd, signal.SIGTERM)
        if self.wait_for_workers(deadline):
            return
        if os.getppid() == self.master and self.wait_for_workers(deadline + MASTERS_TURN_S):
            return
        for pidfd in self.pidfds:
            children.send_signal(pidfd, signal.SIGKILL)
        self.wait_for_workers(time.monotonic() + KILL_WAIT_S)

    def wait_for_workers(self, deadline: float) -> bool:
        """Whether all have ended by ``deadline``."""
        while self.pidfds:
            poll = select.poll()
            for pidfd in self.pidfds:
                poll.register(pidfd, select.POLLIN)
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not poll.poll(left_s * 1000 + 1):
                return False
            self.pidfds = _running(self.pidfds)
        return True


def live(
    blueprint: Blueprint, generation: int, channel: socket.socket, master: int, pidfds: list[int]
) -> NoReturn:
    """Be the template, in a process just forked for it, and end."""
    status: int = Exit.INTERNAL
    try:
        status = Template(blueprint, generation, channel, master, pidfds).run()
    except BaseException:  # noqa: BLE001 - a child must not return into its parent's code
        traceback.print_exc()
    finally:
        _leave(status)


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
