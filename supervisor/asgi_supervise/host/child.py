"""A template or worker as the master holds it: channel, process, file for its stacks.

What the system refuses (:class:`Refused`) is for the host to report; :meth:`Child.release` undoes
whatever was done before.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Self

import msgspec

from asgi_supervise.host import children, stacks
from asgi_worker import channel
from asgi_worker.contract import NATIVE_STACKS_SIGNAL, STACKS_SIGNAL, Message, decode, encode
from asgi_worker.processor import ran_ns


class Refused(Exception):
    """*call: reason*, in one line."""


@contextmanager
def attempting(call: str) -> Iterator[None]:
    """What the system refuses in here is :class:`Refused`."""
    try:
        yield
    except OSError as error:
        raise Refused(f"{call}: {error.strerror}") from error


@dataclass(slots=True)
class Child:
    """One that is asked for, runs, or has ended and was not reaped."""

    channel: socket.socket
    generation: int
    slot: int = -1
    seat: int = -1
    stacks: int = -1
    """Descriptor of the file for its stacks."""
    pid: int | None = None
    """Known together with the pidfd; until then it may not exist."""
    pidfd: int = -1
    ran_ns: int = 0
    """How long it had run when it was asked for its stacks."""
    heard_out: bool = False
    """Its end of the channel is closed."""

    @classmethod
    def conceive(
        cls, undo: ExitStack, selector: selectors.BaseSelector, generation: int
    ) -> tuple[Self, socket.socket]:
        """What a child needs before it exists, and its end of the channel; ``undo`` releases all.

        Raises :class:`Refused`.
        """
        with attempting("socketpair"):
            ours, theirs = channel.pair()
        undo.enter_context(theirs)
        child = cls(ours, generation)
        undo.callback(child.release, selector)
        with attempting("memfd_create"):
            child.stacks = stacks.make()
        with attempting("epoll_ctl"):
            selector.register(ours, selectors.EVENT_READ)
        return child, theirs

    def exists(
        self, pid: int, selector: selectors.BaseSelector, pidfd_of: Callable[[int], int]
    ) -> None:
        """It runs as ``pid``, a child of ours. One that cannot be watched is killed.

        Raises :class:`Refused`.
        """
        try:
            with attempting("pidfd_open"):
                self.pidfd = pidfd_of(pid)
            with attempting("epoll_ctl"):
                selector.register(self.pidfd, selectors.EVENT_READ)
        except Refused:
            os.kill(pid, signal.SIGKILL)  # nobody reaps it but us, so until then the pid is its own
            raise
        self.pid = pid

    def tell(self, message: Message, fds: Iterable[int] = ()) -> bool:
        """Whether it could be told: it lives, and its channel is not full."""
        try:
            socket.send_fds(self.channel, [encode(message)], list(fds))
        except OSError:
            return False
        return True

    def signal(self, number: int) -> None:
        """If it exists."""
        if self.pid is not None:
            children.send_signal(self.pidfd, number)

    def ask_for_stacks(self, *, native: bool) -> None:
        """See :meth:`~asgi_supervise.host.system.Host.dump_stacks`."""
        if self.pid is None:
            return
        if not native:
            stacks.empty(self.stacks)
            self.ran_ns = ran_ns(self.pid)
            self.signal(STACKS_SIGNAL)
        elif stacks.is_in_native_code(self.pid, self.ran_ns):
            self.signal(NATIVE_STACKS_SIGNAL)

    def messages(
        self, most: int, selector: selectors.BaseSelector
    ) -> Iterator[tuple[Message | msgspec.DecodeError, list[int]]]:
        """At most ``most`` messages that wait on the channel, or why one is none, with their
        descriptors; those that are not taken out of the list are closed.
        """
        for _ in range(most):
            if self.heard_out:
                return
            try:
                datagram, received = channel.receive(self.channel)
            except BlockingIOError:
                return
            except ConnectionResetError:
                continue  # it ended before it read all; what it said before comes next
            if not datagram:
                self.heard_out = True
                selector.unregister(self.channel)
                return
            with channel.closing(received) as fds:
                try:
                    message: Message | msgspec.DecodeError = decode(datagram)
                except msgspec.DecodeError as error:
                    message = error
                yield message, fds

    def release(self, selector: selectors.BaseSelector) -> None:
        """Close what we hold of it, as far as we do."""
        for watched in (self.channel, self.pidfd):
            with contextlib.suppress(KeyError, ValueError):
                selector.unregister(watched)
        self.channel.close()
        for descriptor in (self.stacks, self.pidfd):
            if descriptor >= 0:
                os.close(descriptor)


def what_is_wrong(message: Message | msgspec.DecodeError) -> str:
    """With one that cannot be decoded, or that its sender may not send."""
    if isinstance(message, msgspec.DecodeError):
        return str(message)
    return f"unexpected {type(message).__name__}"
