"""The operating system as a value: the verbs the master has, and their real implementation.

:class:`Host` is all the master knows of the world. What a verb cannot do is not raised but comes
as an event out of the next :meth:`Host.wait`, like everything else that happens. The tests run the
same master on a fake host; one contract test runs against both.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from asgi_supervise.host import children, signals, template
from asgi_supervise.host.template import Blueprint
from asgi_supervise.policy import vocabulary as v
from asgi_worker.contract import (
    LONGEST_MESSAGE_BYTES,
    BootFailed,
    Drain,
    Exit,
    Message,
    Ready,
    Spawn,
    Spawned,
    SpawnFailed,
    TemplateReady,
    decode,
    encode,
)

LONGEST_WAIT_S = 3600.0
"""Deadlines further away are waited for in parts: the kernel counts milliseconds in 32 bits."""
MESSAGES_PER_TURN = 64
"""Read from one channel before others get their turn."""


class Host(Protocol):
    """The verbs. None blocks but :meth:`wait`; none raises for what the environment refuses."""

    def now(self) -> float:
        """Monotonic seconds."""
        ...

    def wait(self, deadline: float) -> list[v.Event]:
        """What happened, in an order in which causes come before effects; empty at ``deadline``."""
        ...

    def start_template(self, generation: int, blueprint: Blueprint) -> None:
        """Fork the template of ``generation``; comes *TemplateForked* or *TemplateRefused*."""
        ...

    def stop_template(self, generation: int) -> None:
        """No worker is asked of it any more; it leaves after those it forked."""
        ...

    def kill_template(self, generation: int) -> None:
        """SIGKILL."""
        ...

    def spawn_worker(self, worker: int, slot: int, seat: int, generation: int) -> None:
        """Ask for a worker; comes *WorkerForked*, *WorkerRefused* or *TemplateExited*."""
        ...

    def drain_worker(self, worker: int, budget_s: float, *, successor: bool) -> None:
        """Tell it to stop within ``budget_s``."""
        ...

    def withdraw_worker(self, worker: int) -> None:
        """Tell it to answer health checks from outside with 503."""
        ...

    def terminate_worker(self, worker: int) -> None:
        """SIGTERM."""
        ...

    def abort_worker(self, worker: int) -> None:
        """SIGABRT."""
        ...

    def kill_worker(self, worker: int) -> None:
        """SIGKILL."""
        ...

    def look_at_promises(self) -> None:
        """Comes *PromisesSeen*."""
        ...

    def dump_stacks(self, generation: int, worker: int | None) -> None:
        """Ask a worker (``None``: the template) for its stacks; forgets what it wrote before."""
        ...

    def read_stacks(self, generation: int, worker: int | None) -> None:
        """Comes *StacksRead*, also for a process that is gone (empty)."""
        ...

    def pass_on(self, descriptors: Mapping[int, int]) -> None:
        """Put a copy of each open descriptor (value) in the place of another (key), in every
        process of ours but this one.
        """
        ...

    def close_listeners(self) -> None:
        """Close the master's copies and remove the unix sockets; may be said again."""
        ...

    def close(self) -> None:
        """Leave nothing behind: kill what still runs, close what is open."""
        ...


@dataclass(slots=True)
class _Child:
    """A template or worker as the master holds it."""

    channel: socket.socket
    generation: int
    slot: int = -1
    pid: int | None = None
    """Known together with the pidfd; until then it may not exist."""
    pidfd: int = -1
    heard_out: bool = False
    """Its end of the channel is closed."""


class PosixHost:
    """The real one (Linux). One in a process, made in its main thread before any child.

    ``private`` are further descriptors that children shall not keep.
    """

    def __init__(self, blueprint: Blueprint, private: Sequence[int] = ()) -> None:
        children.become_subreaper()
        self._blueprint = blueprint
        self._private = private
        self._templates: dict[int, _Child] = {}
        self._workers: dict[int, _Child] = {}
        self._happened: list[v.Event] = []
        self._strays = True  # there may be some from before an exec
        self._selector = selectors.DefaultSelector()
        self._signals = signals.SignalPipe()
        self._selector.register(self._signals.reader, selectors.EVENT_READ)

    def now(self) -> float:
        return time.monotonic()

    def wait(self, deadline: float) -> list[v.Event]:
        while True:
            left_s = 0.0 if self._happened else max(0.0, deadline - self.now())
            self._turn(min(left_s, LONGEST_WAIT_S))
            if self._happened or left_s == 0.0:
                happened, self._happened = self._happened, []
                return happened

    def _turn(self, timeout_s: float) -> None:
        readable = {key.fd for key, _ in self._selector.select(timeout_s)}
        # Templates before workers: a worker's first word comes after the report of its fork.
        # Words before deaths: what a process said, it said while it lived.
        for generation, child in self._templates.items():
            if child.channel.fileno() in readable:
                self._hear_template(generation, child, MESSAGES_PER_TURN)
        for worker, child in list(self._workers.items()):
            if child.channel.fileno() in readable:
                self._hear_worker(worker, child, MESSAGES_PER_TURN)
        if self._signals.reader.fileno() in readable:
            self._hear_signals()
        for generation, child in list(self._templates.items()):
            if child.pidfd in readable:
                self._reap_template(generation, child)
        for worker, child in list(self._workers.items()):
            if child.pidfd in readable:
                self._reap_worker(worker, child)
        if self._strays:
            self._reap_strays()

    def start_template(self, generation: int) -> None:
        try:
            ours, theirs = _channel()
        except OSError as error:
            self._happened.append(v.TemplateRefused(generation, f"socketpair: {error.strerror}"))
            return
        template.flush_streams()
        master = os.getpid()
        with signals.blocked():
            try:
                pid = os.fork()
            except OSError as error:
                ours.close()
                theirs.close()
                self._happened.append(v.TemplateRefused(generation, f"fork: {error.strerror}"))
                return
            pidfds = self._let_go(ours, generation) if pid == 0 else []
        if pid == 0:
            template.live(self._blueprint, generation, theirs, master, pidfds)
        theirs.close()
        child = _Child(ours, generation, pid=pid, pidfd=os.pidfd_open(pid))
        self._templates[generation] = child
        self._selector.register(ours, selectors.EVENT_READ)
        self._selector.register(child.pidfd, selectors.EVENT_READ)
        self._happened.append(v.TemplateForked(generation, pid))

    def stop_template(self, generation: int) -> None:
        if child := self._templates.get(generation):
            with contextlib.suppress(OSError):
                child.channel.shutdown(socket.SHUT_WR)  # it can still report what it forked

    def kill_template(self, generation: int) -> None:
        if child := self._templates.get(generation):
            children.send_signal(child.pidfd, signal.SIGKILL)

    def spawn_worker(self, worker: int, slot: int, generation: int) -> None:
        try:
            ours, theirs = _channel()
        except OSError as error:
            self._happened.append(v.WorkerRefused(worker, f"socketpair: {error.strerror}"))
            return
        with theirs:
            try:
                order = encode(Spawn(slot))
                socket.send_fds(self._templates[generation].channel, [order], [theirs.fileno()])
            except (OSError, KeyError) as error:
                ours.close()
                self._happened.append(v.WorkerRefused(worker, f"the template is gone: {error}"))
                return
        self._workers[worker] = _Child(ours, generation, slot)
        self._selector.register(ours, selectors.EVENT_READ)

    def drain_worker(self, worker: int, budget_s: float, *, successor: bool) -> None:
        if child := self._workers.get(worker):
            try:
                child.channel.send(encode(Drain(budget_s, successor)))
            except OSError:  # it does not read: what remains is a signal
                self.terminate_worker(worker)

    def terminate_worker(self, worker: int) -> None:
        self._signal_worker(worker, signal.SIGTERM)

    def kill_worker(self, worker: int) -> None:
        self._signal_worker(worker, signal.SIGKILL)

    def close_listeners(self) -> None:
        self._blueprint.listeners.close()
        self._blueprint.listeners.remove_files()

    def close(self) -> None:
        self.close_listeners()
        for child in (*self._templates.values(), *self._workers.values()):
            if child.pid is not None:
                children.send_signal(child.pidfd, signal.SIGKILL)
            self._release(child)
        self._templates.clear()
        self._workers.clear()
        self._selector.close()
        self._signals.close()

    def _let_go(self, ours: socket.socket, generation: int) -> list[int]:
        """In a child just forked, signals still blocked: close what is the master's alone.

        Kept and returned are the pidfds of workers of this generation: if the template that forked
        them died, the new one sees to it that they do not outlive the master.
        """
        try:
            signals.forget(self._signals)
            self._selector.close()
            ours.close()
            kept = []
            for child in (*self._templates.values(), *self._workers.values()):
                child.channel.close()
                if child.pid is not None and child.generation == generation:
                    kept.append(child.pidfd)
                elif child.pid is not None:
                    os.close(child.pidfd)
            for descriptor in self._private:
                os.close(descriptor)
            return kept
        except BaseException:  # noqa: BLE001 - a child must not return into the master's loop
            traceback.print_exc()
            os._exit(Exit.INTERNAL)

    def _signal_worker(self, worker: int, number: signal.Signals) -> None:
        child = self._workers.get(worker)
        if child is not None and child.pid is not None:
            children.send_signal(child.pidfd, number)

    # --- words ---------------------------------------------------------------------------------

    def _hear_signals(self) -> None:
        for number in self._signals.read():
            if number is signal.Signals.SIGCHLD:
                self._strays = True
            elif number in signals.INTENTS:
                self._happened.append(v.Asked(signals.INTENTS[number][0], number.name))

    def _hear_template(self, generation: int, child: _Child, most: int) -> None:
        for message, fds in self._messages(child, most, f"template gen={generation}"):
            match message:
                case TemplateReady():
                    self._happened.append(v.TemplateBecameReady(generation))
                case BootFailed(reason=reason, traceback=text):
                    self._happened.append(v.TemplateBootFailed(generation, reason, text))
                case Spawned(slot=slot, pid=pid):
                    worker = self._unreported(generation, slot)
                    forked = self._workers[worker]
                    # Nobody reaps it but us, so until then the pid is its own.
                    forked.pidfd = fds.pop() if fds else os.pidfd_open(pid)
                    forked.pid = pid
                    self._selector.register(forked.pidfd, selectors.EVENT_READ)
                    self._happened.append(v.WorkerForked(worker, pid))
                case SpawnFailed(slot=slot, reason=reason):
                    worker = self._unreported(generation, slot)
                    self._release(self._workers.pop(worker))
                    self._happened.append(v.WorkerRefused(worker, reason))
                case _:
                    self._unusable(f"template gen={generation}", message)
            for descriptor in fds:
                os.close(descriptor)

    def _hear_worker(self, worker: int, child: _Child, most: int) -> None:
        sender = f"worker slot={child.slot} gen={child.generation} pid={child.pid}"
        for message, _ in self._messages(child, most, sender):
            match message:
                case Ready():
                    self._happened.append(v.WorkerBecameReady(worker))
                case BootFailed(reason=reason, traceback=text):
                    self._happened.append(v.WorkerBootFailed(worker, reason, text))
                case _:
                    self._unusable(sender, message)

    def _messages(
        self, child: _Child, most: int, sender: str
    ) -> Iterator[tuple[Message, list[int]]]:
        """At most ``most`` messages that wait on a channel, with their descriptors."""
        for _ in range(most):
            if child.heard_out:
                return
            try:
                datagram, fds, _, _ = socket.recv_fds(child.channel, LONGEST_MESSAGE_BYTES, 1)
            except BlockingIOError:
                return
            except ConnectionResetError:
                continue  # it ended before it read all; what it said before comes next
            if not datagram:
                child.heard_out = True
                self._selector.unregister(child.channel)
                return
            try:
                message = decode(datagram)
            except msgspec.DecodeError as error:
                self._happened.append(v.MessageUnreadable(sender, str(error)))
                for descriptor in fds:
                    os.close(descriptor)
            else:
                yield message, fds

    def _unusable(self, sender: str, message: Message) -> None:
        self._happened.append(v.MessageUnreadable(sender, f"unexpected {type(message).__name__}"))

    def _unreported(self, generation: int, slot: int) -> int:
        """The worker asked for in ``slot`` whose fork was not reported yet."""
        return next(
            worker
            for worker, child in self._workers.items()
            if (child.generation, child.slot, child.pid) == (generation, slot, None)
        )

    # --- deaths --------------------------------------------------------------------------------

    def _reap_template(self, generation: int, child: _Child) -> None:
        status = children.reap(child.pidfd)
        if status is None:
            return
        self._hear_template(generation, child, sys.maxsize)
        for worker, asked in list(self._workers.items()):
            if asked.generation == generation and asked.pid is None:
                self._release(self._workers.pop(worker))
        self._release(self._templates.pop(generation))
        self._happened.append(v.TemplateExited(generation, status))

    def _reap_worker(self, worker: int, child: _Child) -> None:
        status = children.reap(child.pidfd)
        if status is None:
            return
        self._hear_worker(worker, child, sys.maxsize)
        self._blueprint.scoreboard.clear(child.slot)
        self._release(self._workers.pop(worker))
        self._happened.append(v.WorkerExited(worker, status))

    def _reap_strays(self) -> None:
        """Reap children nobody waits for, without taking a worker from whoever does."""
        known = {child.pid for child in (*self._templates.values(), *self._workers.values())}
        while (pid := children.first_ended_child()) is not None:
            if pid in known or None in known:  # its turn comes; or it may be one just forked
                return
            children.reap_stray(pid)
        self._strays = False

    def _release(self, child: _Child) -> None:
        """Close what we hold of a child."""
        if not child.heard_out:
            self._selector.unregister(child.channel)
        child.channel.close()
        if child.pid is not None:
            self._selector.unregister(child.pidfd)
            os.close(child.pidfd)


def _channel() -> tuple[socket.socket, socket.socket]:
    """The master's end, which never blocks, and the other's."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    return ours, theirs
