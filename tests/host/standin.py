"""A worker of few words, in place of ``asgi_worker.main``: it does what its script says."""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from types import FrameType

from asgi_worker.contract import (
    LONGEST_MESSAGE_BYTES,
    BootFailed,
    Drain,
    Promote,
    Ready,
    Reopen,
    Spawn,
    Unhealthy,
    Withdraw,
    WorkerSettings,
    decode,
    encode,
)
from asgi_worker.inbox import VERSION, Inboxes
from asgi_worker.scoreboard import Scoreboard, State, Word
from tests.host.fake import SICK_S, STUCK_S, TICK_S, Script

SCRIPTS = "STANDIN_SCRIPTS"
"""Environment variable: the script of each slot, by name."""
HUNGRY = "hungry:app"
"""The application of workers that take more and more memory."""
WITHDRAWN = Word.WEBSOCKETS
"""Where a worker that was told to withdraw says so."""
ON_TRIAL = Word.IN_FLIGHT
"""Where a worker says whether it is on trial."""
NEIGHBOURS = Word.LAG_NS
"""Where a worker says in how many queues of others it is to help out."""
OWN = Word.REQUESTS
"""Where a worker says how many listeners only it accepts on …"""
SHARED = Word.ERRORS
"""… and how many others do as well."""


def run(
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
) -> int:
    words = scoreboard.writer(seat)
    words[Word.PID] = os.getpid()
    words[Word.SLOT] = slot
    words[Word.STATE] = State.STARTING
    words[OWN], words[SHARED], words[NEIGHBOURS] = len(listeners), len(shared), len(neighbours)
    words[ON_TRIAL] = on_trial
    script = Script[os.environ[SCRIPTS].split(",")[slot]]
    if script is Script.BOOT_FAILS:
        channel.send(encode(BootFailed("no such module", "Traceback: standin")))
        return 3
    if script is Script.HANGS:
        signal.pause()
    signal.signal(signal.SIGTERM, _ignore if script is Script.DEAF else _leave)
    words[Word.STATE] = State.READY
    words[Word.TAKES] = VERSION
    words[Word.PROMISE_NS] = promise()
    try:
        channel.send(encode(Ready()))
    except BrokenPipeError:
        return 0  # the master is gone
    if script is Script.BABBLES:
        channel.send(b"\xff\xff not MessagePack")
        channel.send(b"x" * (LONGEST_MESSAGE_BYTES + 1))
        socket.send_fds(channel, [encode(Spawn(0, 0))], [0, 1, 2])
    if script is Script.CRASHES:
        return 7
    if settings.app == HUNGRY:
        eaten = []
        while True:
            eaten.append(b"x" * 1024 * 1024)
    return live(channel, words, script)


def live(channel: socket.socket, words: memoryview, script: Script) -> int:
    """The loop."""
    began = time.monotonic()
    while True:
        words[Word.PROMISE_NS] = promise()
        if not select.select([channel], [], [], TICK_S / 2)[0]:
            age_s = time.monotonic() - began
            if script is Script.STUCK and age_s > STUCK_S:
                signal.signal(signal.SIGTERM, _ignore)
                hang()
            if script is Script.SICK and age_s > SICK_S:
                channel.send(encode(Unhealthy("/healthz answered 500")))
                script = Script.OBEDIENT
            continue
        try:
            datagram, fds, _, _ = socket.recv_fds(channel, LONGEST_MESSAGE_BYTES, 8)
        except ConnectionResetError:  # it had not read all
            return 0
        if not datagram:
            return 0  # the master is gone
        match decode(datagram):
            case Drain() if script is not Script.DEAF:
                return 0
            case Promote():
                words[ON_TRIAL] = False
            case Withdraw():
                words[WITHDRAWN] = 1
            case Reopen(targets=targets):
                for target, descriptor in zip(targets, fds, strict=True):
                    os.dup2(descriptor, target)
                    os.close(descriptor)
            case _:
                pass


def promise() -> int:
    return time.monotonic_ns() + int(TICK_S * 1e9)


def hang() -> None:
    while True:
        signal.pause()


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(0)


def _ignore(number: int, frame: FrameType | None) -> None:
    pass
