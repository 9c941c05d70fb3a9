"""A real ``asgi-supervise`` in a process of its own, and what a test wants to know of it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

SITES = Path(__file__).parent / "sites"
"""Where the applications are: the directory that a user would start the server in."""
PYTHON = os.environ.get("COMPATIBILITY_PYTHON") or sys.executable
"""Of the environment that the system is installed in; that of the tests in the default run."""
WORKERS = 2
PATIENCE_S = 30.0
"""For what must happen; reaching it is a failure, so it may be long."""

_address = re.compile(r"http://127\.0\.0\.1:(\d+)")
_trouble = re.compile(r"\[\d+\] (WARNING|ERROR|CRITICAL) ")
_application_failed = "exception in the application"


class Witness:
    """Where applications say what happened to them: a datagram a word."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.settimeout(PATIENCE_S)

    def next(self) -> str:
        """The next word; waits for it."""
        return self._socket.recv(4096).decode()

    def close(self) -> None:
        self._socket.close()


@contextlib.contextmanager
def witnessing() -> Iterator[Witness]:
    """A witness on a path short enough for a socket, whatever the temporary folder is called."""
    with tempfile.TemporaryDirectory(prefix="asgi-", dir="/tmp") as folder:
        witness = Witness(Path(folder) / "w")
        try:
            yield witness
        finally:
            witness.close()


class Site:
    """A served application. ``expected`` are the last lines of tracebacks that a test has caused on
    purpose, ``expected_lines`` what stands in warnings and errors without one; as often as they
    are to come.
    """

    def __init__(self, process: subprocess.Popen[str], files: Path, witness: Witness) -> None:
        self.process = process
        self.files = files
        self.witness = witness
        self.expected: list[str] = []
        self.expected_lines: list[str] = []
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.port = int(self.wait_for(_address)[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.ws_url = f"ws://127.0.0.1:{self.port}"

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as log:
            for line in log:
                with self._news:
                    self.lines.append(line.rstrip("\n"))
                    self._news.notify_all()

    def wait_for(self, pattern: re.Pattern[str]) -> re.Match[str]:
        """The first line of the log that matches; waits for it."""
        found: list[re.Match[str]] = []

        def look() -> bool:
            found.extend(match for line in self.lines if (match := pattern.search(line)))
            return bool(found) or self.process.poll() is not None

        with self._news:
            self._news.wait_for(look, PATIENCE_S)
        assert found, f"no line like {pattern.pattern!r} in the log:\n{self.log}"
        return found[0]

    @property
    def log(self) -> str:
        return "\n".join(self.lines)

    def stop(self) -> None:
        """TERM, and everything that a clean end consists of: the log ends with the last process."""
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            pytest.fail(f"did not stop:\n{self.log}")
        assert status == 0, f"exit status {status}:\n{self.log}"
        self._reader.join(PATIENCE_S)
        assert not self._reader.is_alive(), f"a process was left behind:\n{self.log}"

    def check_log(self) -> None:
        """No trouble in the log but what was caused on purpose, with one traceback each."""
        log = self.log
        caused = self.expected + self.expected_lines
        for text in caused:
            times = caused.count(text)
            assert log.count(text) == times, f"{text!r} not {times} times in the log:\n{log}"
        tracebacks = log.count("Traceback (most recent call last)")
        tracebacks -= log.count("Exception Group Traceback (most recent call last)")
        assert tracebacks == len(self.expected), f"other tracebacks than expected:\n{log}"
        trouble = [line for line in self.lines if _trouble.search(line)]
        own = [_application_failed, *self.expected_lines]
        others = [line for line in trouble if not any(text in line for text in own)]
        assert not others, f"trouble that is not the application's: {others}"


def sources() -> dict[str, str]:
    """``PYTHONPATH`` for the project where it is not installed: in the default run."""
    if sys.executable != PYTHON:
        return {}
    return {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


@contextlib.contextmanager
def serving(app: str, files: Path, *options: str, **environ: str) -> Iterator[Site]:
    """Serve ``app``, which is in ``sites/``, until the block ends; its end and its log have to be
    clean.
    """
    with witnessing() as witness:
        process = subprocess.Popen(
            [
                *(PYTHON, "-m", "asgi_supervise", app, "--app-dir", str(SITES)),
                *("--workers", str(WORKERS), "--host", "127.0.0.1", "--port", "0"),
                *("--stall-warn", "20", *options),  # this machine may be busy with other tests
            ],
            cwd=files,
            env={
                **os.environ,
                **sources(),
                "SITE_FILES": str(files),
                "SITE_WITNESS": witness.path,
                **environ,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            site = Site(process, files, witness)
            yield site
            if process.poll() is None:
                site.stop()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        site.check_log()
