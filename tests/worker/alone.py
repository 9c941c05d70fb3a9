"""One worker process without master and template, as its tests' other end of the seam.

``python -m tests.worker.alone`` is that process: a fresh interpreter, because the tests' own has
threads and must not be forked.
"""

from __future__ import annotations

import array
import contextlib
import json
import mmap
import os
import select
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any, Literal, Self

import msgspec

from asgi_worker import contract
from asgi_worker.contract import Awake, BootFailed, Ready, WorkerSettings
from asgi_worker.inbox import Inboxes
from asgi_worker.scoreboard import Reading, Scoreboard
from tests.worker.serving import PATIENCE_S, LoopKind

ROOT = Path(__file__).parents[2]
SEATS = 3
SEAT = 2
SLOT = 1
GENERATION = 7


class Commons:
    """What the workers of a service have in common; its master would make it."""

    def __init__(self) -> None:
        self.memory = os.memfd_create("scoreboard")
        self.board = _scoreboard(self.memory)
        self.inboxes = Inboxes(SEATS)

    def close(self) -> None:
        os.close(self.memory)
        self.inboxes.close()

    def files(self) -> list[int]:
        ends = (*self.inboxes._readers, *self.inboxes._writers)
        return [self.memory, *(end.fileno() for end in ends)]

    @staticmethod
    def of(files: list[int], unit_bytes: int) -> tuple[Scoreboard, Inboxes]:
        """In a worker: what :meth:`files` are of."""
        memory, *ends = files
        inboxes = Inboxes(0)
        sockets = [socket.socket(fileno=descriptor) for descriptor in ends]
        inboxes._readers, inboxes._writers = sockets[:SEATS], sockets[SEATS:]
        inboxes._unit_bytes = unit_bytes
        return _scoreboard(memory), inboxes


class Alone:
    """A worker that serves the module ``text`` of an application, for the length of a ``with``."""

    def __init__(
        self,
        place: Path,
        text: str,
        loop: LoopKind | Literal["trio"],
        *,
        access_log: int | None = None,
        limits: str = "",
        inherited: bool = False,
        commons: Commons | None = None,
        seat: int = SEAT,
        on_trial: bool = False,
        **settings: Any,
    ) -> None:
        self._closes = commons is None
        self.commons = Commons() if commons is None else commons
        self.board = self.commons.board
        self.seat = seat
        self._on_trial = on_trial
        (place / "served.py").write_text(textwrap.dedent(text))
        self.settings = WorkerSettings(
            app="served:app",
            app_dir=str(place),
            loop=loop,
            access_log=access_log is not None,
            **settings,
        )
        self.errors = place / f"stderr{seat}"
        self._access_log = access_log
        self._limits = limits
        self._listener = "inherited" if inherited else "own"

    def __enter__(self) -> Self:
        self.listener = socket.create_server(("127.0.0.1", 0), reuse_port=True)
        self.address: tuple[str, int] = self.listener.getsockname()
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel.settimeout(PATIENCE_S)
        self.stacks = os.memfd_create("stacks")
        common = self.commons.files()
        files = {
            self._listener: self.listener.fileno(),
            "channel": theirs.fileno(),
            "stacks": self.stacks,
            "access_log": 1 if self._access_log is None else self._access_log,
        }
        seen = (common, self.commons.inboxes._unit_bytes, self.seat, self._on_trial)
        told = json.dumps([files, msgspec.to_builtins(self.settings), self._limits, seen])
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.worker.alone", told],
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT}/supervisor:{ROOT}/workers"},
                pass_fds=[*files.values(), *common],
                stderr=errors,
            )
        theirs.close()
        return self

    def __exit__(self, *exc: object) -> None:
        self.channel.close()
        self.listener.close()
        os.close(self.stacks)
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait(PATIENCE_S)
        if self._closes:
            self.commons.close()

    def tell(self, message: contract.Message, *files: int) -> None:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))]
        self.channel.sendmsg([contract.encode(message)], ancillary if files else [])

    def hear(self) -> contract.Message:
        """The next message of the worker; that it has a connection again is left out."""
        while True:
            message = contract.decode(self.channel.recv(contract.LONGEST_MESSAGE_BYTES))
            if not isinstance(message, Awake):
                return message

    def says_nothing(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while select.select([self.channel], [], [], max(0.0, deadline - time.monotonic()))[0]:
            datagram = self.channel.recv(contract.LONGEST_MESSAGE_BYTES)
            if not isinstance(contract.decode(datagram), Awake):
                return False
        return True

    def get_ready(self) -> None:
        message = self.hear()
        assert message == Ready(), message

    def fails(self) -> BootFailed:
        message = self.hear()
        assert isinstance(message, BootFailed), message
        return message

    def ends(self) -> int:
        return self.process.wait(PATIENCE_S)

    def reading(self) -> Reading:
        return self.board.read(self.seat)

    def said(self) -> str:
        """What it has logged so far."""
        return self.errors.read_text()

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=PATIENCE_S)

    def get(self, path: str = "/", *, method: str = "GET") -> bytes:
        """The whole answer to a request on a connection of its own."""
        with self.connect() as client:
            client.sendall(
                f"{method} {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n".encode()
            )
            return read_all(client)


def read_all(client: socket.socket) -> bytes:
    received = b""
    while piece := client.recv(65536):
        received += piece
    return received


def _scoreboard(file: int) -> Scoreboard:
    board = Scoreboard(SEATS)
    size = len(board._map)
    os.ftruncate(file, size)
    board._words = memoryview(mmap.mmap(file, size)).cast("Q")
    return board


def _be_the_worker() -> int:
    import logging
    import resource

    from asgi_worker import main

    files, settings, limits, (common, unit_bytes, seat, on_trial) = json.loads(sys.argv[1])
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.INFO)
    if limits:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(limits), hard))
    scoreboard, inboxes = Commons.of(common, unit_bytes)
    return main.run(
        msgspec.convert(settings, WorkerSettings),
        slot=SLOT,
        seat=seat,
        generation=GENERATION,
        on_trial=on_trial,
        listeners=[socket.socket(fileno=files[it]) for it in ("own",) if it in files],
        neighbours=[],
        shared=[socket.socket(fileno=files[it]) for it in ("inherited",) if it in files],
        channel=socket.socket(fileno=files["channel"]),
        inboxes=inboxes,
        scoreboard=scoreboard,
        stacks=files["stacks"],
        access_log=files["access_log"],
    )


if __name__ == "__main__":
    os._exit(_be_the_worker())
