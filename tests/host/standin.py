"""A worker of few words, in place of ``asgi_worker.main``: it does what its script says."""

from __future__ import annotations

import os
import signal
import socket
from types import FrameType

from asgi_worker.contract import (
    LONGEST_MESSAGE_BYTES,
    BootFailed,
    Drain,
    Ready,
    Spawn,
    WorkerSettings,
    decode,
    encode,
)
from asgi_worker.scoreboard import Scoreboard, State, Word
from tests.host.fake import Script

SCRIPTS = "STANDIN_SCRIPTS"
"""Environment variable: the script of each slot, by name."""


def run(
    settings: WorkerSettings,
    *,
    slot: int,
    generation: int,
    listeners: list[socket.socket],
    channel: socket.socket,
    scoreboard: Scoreboard,
    app: object | None,
) -> int:
    words = scoreboard.writer(slot)
    words[Word.PID] = os.getpid()
    words[Word.STATE] = State.STARTING
    script = Script[os.environ[SCRIPTS].split(",")[slot]]
    if script is Script.BOOT_FAILS:
        channel.send(encode(BootFailed("no such module", "Traceback: standin")))
        return 3
    if script is Script.HANGS:
        signal.pause()
    signal.signal(signal.SIGTERM, _ignore if script is Script.DEAF else _leave)
    words[Word.STATE] = State.READY
    channel.send(encode(Ready()))
    if script is Script.BABBLES:
        channel.send(b"\xff\xff not MessagePack")
        channel.send(b"x" * (LONGEST_MESSAGE_BYTES + 1))
        channel.send(encode(Spawn(0)))
    if script is Script.CRASHES:
        return 7
    while datagram := channel.recv(LONGEST_MESSAGE_BYTES):
        if isinstance(decode(datagram), Drain) and script is not Script.DEAF:
            return 0
    return 0  # the master is gone


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(0)


def _ignore(number: int, frame: FrameType | None) -> None:
    pass
