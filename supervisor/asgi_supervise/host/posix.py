"""The real host: what the verbs of :class:`~asgi_supervise.host.system.Host` do on Linux."""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from asgi_supervise.host import children, sharing, signals, stacks, template
from asgi_supervise.host.cgroup import MemoryKills
from asgi_supervise.host.child import Child, Refused, attempting, what_is_wrong
from asgi_supervise.host.figures import Looks
from asgi_supervise.host.rescue import Rescue
from asgi_supervise.host.sockets import Listeners
from asgi_supervise.host.template import Blueprint
from asgi_supervise.policy import vocabulary as v
from asgi_worker.contract import (
    Awake,
    BootFailed,
    Drain,
    Exit,
    Healthy,
    Promote,
    Ready,
    Reopen,
    Spawn,
    Spawned,
    SpawnFailed,
    TemplateReady,
    Unhealthy,
    Withdraw,
)
from asgi_worker.inbox import Inboxes
from asgi_worker.scoreboard import Scoreboard, Word
from asgi_worker.stacks import write_when_asked

log = logging.getLogger("asgi_supervise")

LONGEST_WAIT_S = 3600.0
"""Deadlines further away are waited for in parts: the kernel counts milliseconds in 32 bits."""
MESSAGES_PER_TURN = 64
"""Read from one worker before others get their turn."""


class PosixHost:
    """One in a process, made in its main thread before any child.

    ``private`` are further descriptors that children shall not keep.
    """

    def __init__(
        self,
        scoreboard: Scoreboard,
        listeners: Listeners,
        inboxes: Inboxes,
        private: Sequence[int] = (),
    ) -> None:
        children.become_subreaper()
        self._scoreboard = scoreboard
        self._listeners = listeners
        self._private = private
        self._memory_kills = MemoryKills()
        self._templates: dict[int, Child] = {}
        self._workers: dict[int, Child] = {}
        self._steers = True
        """As far as we know, the kernel lets us."""
        self._happened: list[v.Event] = []
        self._strays = True  # there may be some from before an exec
        self._selector = selectors.DefaultSelector()
        self._signals = signals.SignalPipe()
        self._selector.register(self._signals.reader, selectors.EVENT_READ)
        self._looks = Looks(scoreboard, inboxes)
        self._rescue = Rescue(listeners, inboxes, scoreboard, self._selector)

    def now(self) -> float:
        return time.monotonic()

    def wait(self, deadline: float) -> list[v.Event]:
        while True:
            now = self.now()
            left_s = 0.0 if self._happened else max(0.0, deadline - now)
            self._turn(min(left_s, self._rescue.resumes - now, LONGEST_WAIT_S))
            if self._happened or left_s == 0.0:
                happened, self._happened = self._happened, []
                return happened

    def _turn(self, timeout_s: float) -> None:
        readable = {key.fd for key, _ in self._selector.select(timeout_s)}
        if readable:
            self._attend_to(readable)
        if self._strays:
            self._reap_strays()
        self._rescue.work(readable, self.now())

    def _attend_to(self, readable: set[int]) -> None:
        # Templates before workers, and all they have to say: a worker's first word comes after the
        # report of its fork. Words before deaths: what a process said, it said while it lived. But
        # workers die before templates, which may leave because the last of them has left.
        for generation, child in self._templates.items():
            if child.channel.fileno() in readable:
                self._hear_template(generation, child)
        for worker, child in list(self._workers.items()):
            if child.channel.fileno() in readable:
                self._hear_worker(worker, child, MESSAGES_PER_TURN)
        if self._signals.reader in readable:
            self._hear_signals()
        for worker, child in list(self._workers.items()):
            if child.pidfd in readable:
                self._reap_worker(worker, child)
        for generation, child in list(self._templates.items()):
            if child.pidfd in readable:
                self._reap_template(generation, child)

    # --- templates and workers -------------------------------------------------------------------

    def start_template(self, generation: int, blueprint: Blueprint) -> None:
        template.flush_streams()
        sharing.keep()  # before anything is made for this child, which would be kept for good
        try:
            with ExitStack() as undo:
                child, theirs = Child.conceive(undo, self._selector, generation)
                pid = self._fork_template(child, theirs, blueprint)
                child.exists(pid, self._selector, os.pidfd_open)
                undo.pop_all()
        except Refused as refused:
            self._strays = True  # one that was forked and could not be watched
            self._happened.append(v.TemplateRefused(generation, str(refused)))
            return
        self._templates[generation] = child
        self._happened.append(v.TemplateForked(generation, pid))

    def stop_template(self, generation: int) -> None:
        if child := self._templates.get(generation):
            with contextlib.suppress(OSError):
                child.channel.shutdown(socket.SHUT_WR)  # it can still report what it forked

    def kill_template(self, generation: int) -> None:
        if child := self._templates.get(generation):
            child.signal(signal.SIGKILL)

    def spawn_worker(
        self, worker: int, slot: int, seat: int, generation: int, share: float | None = None
    ) -> None:
        # Before it is asked for: preloaded, it may take connections in a millisecond.
        self._scoreboard.writer(seat)[Word.SHARE] = round(1000 * (share or 0.0))
        try:
            with ExitStack() as undo:
                child, theirs = Child.conceive(undo, self._selector, generation)
                child.slot, child.seat = slot, seat
                parent = self._templates.get(generation)
                fds = (theirs.fileno(), child.stacks)
                if parent is None or not parent.tell(Spawn(slot, seat, share is not None), fds):
                    raise Refused(f"the template of generation {generation} takes no orders")
                theirs.close()
                undo.pop_all()
        except Refused as refused:
            self._happened.append(v.WorkerRefused(worker, str(refused)))
            return
        self._workers[worker] = child

    def promote_worker(self, worker: int) -> None:
        if child := self._workers.get(worker):
            self._scoreboard.writer(child.seat)[Word.SHARE] = 0
            if not child.tell(Promote()):  # else it would stay on trial
                child.signal(signal.SIGTERM)

    def drain_worker(self, worker: int, budget_s: float, *, successor: bool) -> None:
        child = self._workers.get(worker)
        if child and not child.tell(Drain(budget_s, successor)):  # what remains is a signal
            child.signal(signal.SIGTERM)

    def withdraw_worker(self, worker: int) -> None:
        if child := self._workers.get(worker):
            child.tell(Withdraw())

    def terminate_worker(self, worker: int) -> None:
        if child := self._workers.get(worker):
            child.signal(signal.SIGTERM)

    def abort_worker(self, worker: int) -> None:
        if child := self._workers.get(worker):
            child.signal(signal.SIGABRT)

    def kill_worker(self, worker: int) -> None:
        if child := self._workers.get(worker):
            child.signal(signal.SIGKILL)

    # --- looking after them ----------------------------------------------------------------------

    def look_at_figures(self) -> None:
        seats = {worker: child.seat for worker, child in self._workers.items()}
        self._happened.append(self._looks.look(seats, self.now()))

    def dump_stacks(self, generation: int, worker: int | None, *, native: bool = False) -> None:
        if child := self._child(generation, worker):
            child.ask_for_stacks(native=native)

    def read_stacks(self, generation: int, worker: int | None) -> None:
        text = state = ""
        child = self._child(generation, worker)
        if child is not None and child.pid is not None:
            text, state = stacks.read(child.stacks), stacks.kernel_state(child.pid)
        self._happened.append(v.StacksRead(generation, worker, text, state))

    def steer(self, weights: Sequence[int]) -> None:
        if self._steers:
            try:
                self._listeners.steer(weights)
            except OSError as error:
                self._steers = False
                log.warning(
                    "cannot steer new connections: %s; the kernel spreads them over all slots, "
                    "also over those whose worker starts or hangs",
                    error.strerror,
                )

    def rescue(self, slots: Sequence[int], seats: Sequence[int], takers: Sequence[int]) -> None:
        to = [self._workers[worker].seat for worker in takers if worker in self._workers]
        self._rescue.begin(slots, seats, to, self.now())

    def pass_on(self, descriptors: Mapping[int, int]) -> None:
        message = Reopen(tuple(descriptors))
        for child in (*self._templates.values(), *self._workers.values()):
            if not child.tell(message, descriptors.values()):
                log.warning(
                    "cannot pass log files on to pid %s: it goes on with the old", child.pid
                )

    def close_listeners(self) -> None:
        self._rescue.end_queues(self.now())
        self._listeners.refuse()
        self._listeners.close()
        self._listeners.remove_files()

    def close(self) -> None:
        self.close_listeners()
        for child in (*self._templates.values(), *self._workers.values()):
            child.signal(signal.SIGKILL)
            child.release(self._selector)
        self._templates.clear()
        self._workers.clear()
        self._rescue.let_go()
        self._selector.close()
        self._signals.close()

    def _child(self, generation: int, worker: int | None) -> Child | None:
        return self._templates.get(generation) if worker is None else self._workers.get(worker)

    # --- births ----------------------------------------------------------------------------------

    def _fork_template(self, child: Child, theirs: socket.socket, blueprint: Blueprint) -> int:
        with signals.blocked():
            with attempting("fork"):
                pid = os.fork()
            pidfds = self._let_go(child) if pid == 0 else []
        if pid == 0:
            template.live(blueprint, child.generation, theirs, child.stacks, pidfds)
        theirs.close()
        return pid

    def _let_go(self, child: Child) -> list[int]:
        """In the template just forked, signals still blocked: close what is the master's alone.

        Kept and returned are the pidfds of workers of this generation: if the template that forked
        them died, the new one sees to it that they do not outlive the master.
        """
        try:
            signals.forget(self._signals)
            self._rescue.let_go()
            self._selector.close()
            child.channel.close()
            kept = []
            for other in (*self._templates.values(), *self._workers.values()):
                other.channel.close()
                os.close(other.stacks)
                if other.pid is not None and other.generation == child.generation:
                    kept.append(other.pidfd)
                elif other.pid is not None:
                    os.close(other.pidfd)
            for descriptor in self._private:
                os.close(descriptor)
            write_when_asked(child.stacks)
            return kept
        except BaseException:  # noqa: BLE001 - a child must not return into the master's loop
            traceback.print_exc()
            os._exit(Exit.INTERNAL)

    def _adopt(self, worker: int, pid: int, fds: list[int]) -> None:
        """A worker was forked; its pidfd came along, if there was a descriptor to spare."""
        child = self._workers[worker]
        try:
            child.exists(pid, self._selector, lambda pid: fds.pop() if fds else os.pidfd_open(pid))
        except Refused as refused:
            self._strays = True
            self._lose(worker)
            self._happened.append(v.WorkerRefused(worker, str(refused)))
        else:
            self._happened.append(v.WorkerForked(worker, pid))

    # --- words -----------------------------------------------------------------------------------

    def _hear_signals(self) -> None:
        for number in self._signals.read():
            if number is signal.Signals.SIGCHLD:
                self._strays = True
            elif number in signals.INTENTS:
                self._happened.append(v.Asked(signals.INTENTS[number][0], number.name))

    def _hear_template(self, generation: int, child: Child) -> None:
        sender = f"template gen={generation}"
        for message, fds in child.messages(sys.maxsize, self._selector):
            match message:
                case TemplateReady():
                    self._happened.append(v.TemplateBecameReady(generation))
                case BootFailed(reason=reason, traceback=text):
                    self._happened.append(v.TemplateBootFailed(generation, reason, text))
                case Spawned(seat=seat, pid=pid):
                    self._adopt(self._unreported(generation, seat), pid, fds)
                case SpawnFailed(seat=seat, reason=reason):
                    worker = self._unreported(generation, seat)
                    self._lose(worker)
                    self._happened.append(v.WorkerRefused(worker, reason))
                case _:
                    self._happened.append(v.MessageUnreadable(sender, what_is_wrong(message)))

    def _hear_worker(self, worker: int, child: Child, most: int) -> None:
        sender = f"worker slot={child.slot} gen={child.generation} pid={child.pid}"
        for message, _ in child.messages(most, self._selector):
            match message:
                case Ready():
                    self._happened.append(v.WorkerBecameReady(worker))
                case BootFailed(reason=reason, traceback=text):
                    self._happened.append(v.WorkerBootFailed(worker, reason, text))
                case Unhealthy(reason=reason):
                    self._happened.append(v.WorkerTurnedUnhealthy(worker, reason))
                case Healthy():
                    self._happened.append(v.WorkerTurnedHealthy(worker))
                case Awake():
                    self._happened.append(v.WorkerAwoke(worker))
                case _:
                    self._happened.append(v.MessageUnreadable(sender, what_is_wrong(message)))

    def _unreported(self, generation: int, seat: int) -> int:
        """The worker asked for with ``seat`` whose fork was not reported yet."""
        return next(
            worker
            for worker, child in self._workers.items()
            if (child.generation, child.seat, child.pid) == (generation, seat, None)
        )

    # --- deaths ----------------------------------------------------------------------------------

    def _reap_template(self, generation: int, child: Child) -> None:
        status = children.reap(child.pidfd)
        if status is None:
            return
        self._hear_template(generation, child)
        for worker, asked in list(self._workers.items()):
            if asked.generation == generation and asked.pid is None:
                self._lose(worker)
        self._happened.append(v.TemplateExited(generation, status, *self._autopsy(child, status)))
        self._templates.pop(generation).release(self._selector)

    def _reap_worker(self, worker: int, child: Child) -> None:
        status = children.reap(child.pidfd)
        if status is None:
            return
        self._hear_worker(worker, child, sys.maxsize)
        self._happened.append(v.WorkerExited(worker, status, *self._autopsy(child, status)))
        self._lose(worker)

    def _autopsy(self, child: Child, status: int) -> tuple[bool, str]:
        """Whether it died for want of memory, and what a crash wrote."""
        for_memory = self._memory_kills.explains(status == -signal.SIGKILL, self.now())
        return for_memory, stacks.read_crash(child.stacks) if status < 0 else ""

    def _reap_strays(self) -> None:
        """Reap children nobody waits for, without taking a worker from whoever does."""
        known = {child.pid for child in (*self._templates.values(), *self._workers.values())}
        while (pid := children.first_ended_child()) is not None:
            if pid in known or None in known:  # its turn comes; or it may be one just forked
                return
            children.reap_stray(pid)
        self._strays = False

    def _lose(self, worker: int) -> None:
        """Forget a worker that is gone or never was."""
        child = self._workers.pop(worker)
        self._scoreboard.clear(child.seat)
        child.release(self._selector)
