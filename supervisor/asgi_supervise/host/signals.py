"""The table signal → intent, and the pipe on which signals arrive.

The handlers do nothing: Python writes the signal's number to the wake-up pipe, and the master reads
it there like any other event, in its one wait. It is a pipe because that holds 65,536 of them until
they are read; a socket pair holds 278 and drops the rest, SIGTERM among them. Considered and
refused: work in handlers (runs between any two instructions), signalfd (the mask is inherited by
what the application starts).

A child of ours must not keep the pipe: it would write its own signals to its parent's. Therefore
forks happen with all signals blocked (:func:`blocked`), and the child calls :func:`forget` before
it unblocks.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from signal import Signals
from types import FrameType

from asgi_supervise.policy.vocabulary import Intent

INTENTS: dict[Signals, tuple[Intent, str]] = {
    Signals.SIGTERM: (Intent.STOP, "Stop gracefully: requests in flight are finished."),
    Signals.SIGINT: (
        Intent.INTERRUPT,
        "Ctrl-C: stop gracefully; once more, or after TERM, stops at once.",
    ),
    Signals.SIGQUIT: (Intent.QUIT, "Stop at once."),
    Signals.SIGHUP: (
        Intent.RELOAD,
        "Reload: read the settings and the application anew, replace the workers one by one.",
    ),
    Signals.SIGUSR1: (
        Intent.REOPEN_LOGS,
        "Reopen log files: after logrotate has moved them away.",
    ),
    Signals.SIGUSR2: (Intent.UPGRADE, "Upgrade the master in place."),
    Signals.SIGTTIN: (Intent.MORE, "One worker more."),
    Signals.SIGTTOU: (Intent.FEWER, "One worker fewer."),
}
"""What each signal to the master asks for, and the sentence for the documentation."""


class SignalPipe:
    """Signals as bytes in a pipe. One in a process; belongs to the main thread."""

    def __init__(self) -> None:
        self.reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in (*INTENTS, Signals.SIGCHLD):
            signal.signal(number, _noted)

    def read(self) -> list[Signals]:
        """Those that arrived since the last time, in order."""
        try:
            return [Signals(number) for number in os.read(self.reader, 4096)]
        except BlockingIOError:
            return []

    def close(self) -> None:
        """Leave the handlers (a late signal must not kill), close the pipe."""
        signal.set_wakeup_fd(-1)
        os.close(self.reader)
        os.close(self._writer)


def forget(pipe: SignalPipe) -> None:
    """In a forked child: nothing arrives on the parent's pipe any more.

    What people send to the whole group (Ctrl-C, a closed terminal) is for the master to judge, so
    it does nothing here. Handlers, not ``SIG_IGN``: that would be inherited by every program the
    application starts.
    """
    pipe.close()
    signal.signal(Signals.SIGCHLD, signal.SIG_DFL)


def obey_termination(mask: set[int]) -> None:
    """In a worker forked under :func:`blocked`, until it installs its own handler: SIGTERM ends it,
    also one that was sent before this line.
    """
    signal.signal(Signals.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextmanager
def blocked() -> Iterator[set[int]]:
    """Block every signal; gives the mask to which it returns."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    mask = {int(number) for number in before}
    try:
        yield mask
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _noted(number: int, frame: FrameType | None) -> None:
    """Only there so that Python writes to the wake-up socket."""
