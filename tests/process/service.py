"""A real master in a process group of its own, watched through the pipe it writes its log to.

Everything is waited for by event: a line in the log, or the pipe's end-of-file, which comes only
when the last descendant has ended. Whoever leaves the ``with`` block has no process left, and an
error in the log that the test did not expect fails it.
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import psutil

ROOT = Path(__file__).parents[2]
PATIENCE_S = 40.0
OUTCOME = r"reload (?P<outcome>complete|failed).*"
"""How a reload ended."""
BAD = re.compile(r"\[BUG\]|\b(ERROR|CRITICAL)\b|Traceback|Exception|ResourceWarning")


class Crewman(NamedTuple):
    """A worker, by its process title."""

    slot: int
    generation: int
    pid: int


class Service:
    """``asgi-supervise`` with the given words; the application is a ``module:attribute``."""

    def __init__(
        self,
        *words: str,
        app: str = "tests.process.apps:app",
        bind: str = "127.0.0.1:0",
        errors_expected: bool = False,
        fds: Sequence[int] = (),
        prefix: Sequence[str] = (),
        environment: dict[str, str] | None = None,
        log_file: Path | None = None,
        stdin: int = subprocess.DEVNULL,
    ) -> None:
        self.words = [app, "--bind", bind, "--no-access-log", *words]
        if log_file is not None:
            self.words += ["--log-file", str(log_file)]
        self._log_file = log_file
        self.log = ""
        self.errors_expected = errors_expected
        self._fds = fds
        self._prefix = prefix
        self._stdin = stdin
        self._environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{ROOT / 'supervisor'}:{ROOT / 'workers'}:{ROOT}",
            "PYTHONDEVMODE": "1",
            "PYTHONDONTWRITEBYTECODE": "1",  # a module rewritten within a second looks the same
            **(environment or {}),
        }
        self._seen = 0
        self._owner = os.getpid()

    def __enter__(self) -> Self:
        self._pipe, write = os.pipe()
        os.set_blocking(self._pipe, False)
        try:
            self.process = subprocess.Popen(
                [*self._prefix, sys.executable, "-m", "asgi_supervise", *self.words],
                stdin=self._stdin,
                stdout=write,
                stderr=write,
                env=self._environment,
                pass_fds=self._fds,
                start_new_session=True,
            )
        finally:
            os.close(write)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._pipe, selectors.EVENT_READ)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        if os.getpid() != self._owner:
            return
        try:
            if kind is None and self.process.poll() is None:
                self.process.send_signal(signal.SIGTERM)
                self.ended()
        except BaseException:
            kind = AssertionError
            raise
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            if self.process.stdin is not None:
                self.process.stdin.close()
            self._selector.close()
            os.close(self._pipe)
            if kind is not None:
                sys.stderr.write(f"--- log of {' '.join(self.words)}\n{self.log}\n---\n")
        if kind is None and not self.errors_expected:
            bad = [line for line in self.log.splitlines() if BAD.search(line)]
            assert not bad, self.log

    def wait_line(
        self, pattern: str, within_s: float = PATIENCE_S, *, anywhere: bool = False
    ) -> re.Match[str]:
        """The next line that matches, after those already waited for, or before if ``anywhere``."""
        deadline = time.monotonic() + within_s
        while True:
            begin = 0 if anywhere else self._seen
            if match := re.compile(pattern, re.MULTILINE).search(self.log, begin):
                self._seen = max(self._seen, match.end())
                return match
            alive = self._read(deadline)
            assert alive, f"{pattern!r} was not logged before the end"

    def read_on(self, seconds: float) -> None:
        """Read the log for a while, so that who writes to it is not held up."""
        deadline = time.monotonic() + seconds
        while (left_s := deadline - time.monotonic()) > 0 and self._selector.select(left_s):
            assert self._read(deadline + PATIENCE_S), "all processes have ended"

    def serving(self) -> tuple[str, int]:
        """Wait until it serves: host and port of its (last) TCP address."""
        line = self.wait_line(r"serving on (.*) with .*$")
        found = re.findall(r"http://([^ ,]+):(\d+)", line[1])
        return (found[-1][0].strip("[]"), int(found[-1][1])) if found else ("", 0)

    def ready(self) -> tuple[int, int]:
        """Wait for the next worker to be ready: slot and pid."""
        line = self.wait_line(r"worker slot=(\d+) gen=\d+ pid=(\d+) ready$")
        return int(line[1]), int(line[2])

    def ended(self, within_s: float = PATIENCE_S) -> int:
        """Wait until the last descendant has ended; the master's exit status."""
        deadline = time.monotonic() + within_s
        while self._read(deadline):
            pass
        return self.process.wait()

    def crew(self) -> list[Crewman]:
        """The running workers, as ps shows them: the oldest of a slot first."""
        found = []
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.Error):
                if match := re.search(r"worker slot=(\d+) gen=(\d+)", " ".join(child.cmdline())):
                    found.append(Crewman(int(match[1]), int(match[2]), child.pid))
        return sorted(found)

    def workers(self) -> dict[int, int]:
        """Pids of the running workers by slot: of two in one slot, that of the newer generation."""
        return {one.slot: one.pid for one in self.crew()}

    def hang_up(self) -> None:
        """SIGHUP to the master."""
        self.process.send_signal(signal.SIGHUP)

    def reload(self, within_s: float = PATIENCE_S) -> re.Match[str]:
        """SIGHUP, and the line that says how that ended."""
        self.hang_up()
        return self.wait_line(OUTCOME, within_s)

    def listening(self) -> set[tuple[str, int]]:
        """Where the master listens, whether it serves yet or not."""
        return {
            (str(found.laddr[0]), int(found.laddr[1]))
            for found in psutil.Process(self.process.pid).net_connections("tcp")
            if found.status == psutil.CONN_LISTEN
        }

    def template(self, generation: int | None = None) -> int:
        """The pid of the running template (of ``generation``), which may take a moment to be."""
        title = ": template" if generation is None else f": template gen={generation} "
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            for child in psutil.Process(self.process.pid).children():
                with contextlib.suppress(psutil.Error):
                    if title in " ".join(child.cmdline()):
                        return child.pid
            time.sleep(0.005)
        raise AssertionError("there is no template")

    def _read(self, deadline: float) -> bool:
        """Read what there is, or wait for it; false at end-of-file."""
        if self._log_file is not None:
            return self._read_file(self._log_file, deadline)
        left_s = deadline - time.monotonic()
        if left_s <= 0 or not self._selector.select(left_s):
            raise AssertionError("nothing more was logged in time")
        data = os.read(self._pipe, 65536)
        self.log += data.decode(errors="replace")
        return bool(data)

    def _read_file(self, path: Path, deadline: float) -> bool:
        """The same where the log is a file, which says nothing when it grows."""
        while time.monotonic() < deadline:
            ended = self._selector.select(0.01) and not os.read(self._pipe, 65536)
            log = path.read_text(errors="replace") if path.exists() else ""
            if ended or log != self.log:
                self.log = log
                return not ended
        raise AssertionError("nothing more was logged in time")


def request(address: tuple[str, int] | str, path: str = "/", timeout_s: float = 20.0) -> str:
    """GET ``path`` on a new connection; the body of the answer, which must be 200."""
    with connected(address, timeout_s) as client:
        return ask(client, path)


def connected(address: tuple[str, int] | str, timeout_s: float = 20.0) -> socket.socket:
    """A new connection: to TCP, or to the path of a unix socket."""
    if isinstance(address, tuple):
        return socket.create_connection(address, timeout_s)
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(timeout_s)
    client.connect(address)
    return client


def send(client: socket.socket, path: str) -> None:
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n".encode())


def answer(client: socket.socket) -> str:
    data = b""
    while piece := client.recv(65536):
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), data
    return body.decode()


def ask(client: socket.socket, path: str = "/") -> str:
    send(client, path)
    return answer(client)


def until(condition: object, what: str, within_s: float = PATIENCE_S) -> None:
    """Look again and again: for what the kernel shows but does not announce."""
    assert callable(condition)
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.005)


def leaves(pid: int) -> bool:
    """Whether this worker drains, or is gone."""
    try:
        return "(draining)" in " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return True


def state(pid: int) -> str:
    """``T`` stopped, ``Z`` zombie, ``S`` … as in proc(5); "" when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""
