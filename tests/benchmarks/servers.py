"""The servers: how each is started with one worker, and one running server from start to end.

All that can use uvloop does; what concerns proxies, time-outs and limits is left as it comes.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from tests.benchmarks.environment import BIN, ROOT, tool
from tests.benchmarks.machine import cpu_s, free_port, process_cpu_s, tree

APP = "tests.benchmarks.app:app"
SOURCES = ROOT / "tests" / "benchmarks"
_BOOT_S = 30.0
_STOP_S = 5.0

_NGINX = """
daemon off; worker_processes 1; pid {directory}/nginx.pid; error_log stderr;
events {{ worker_connections 1024; }}
http {{
  access_log {log}; keepalive_requests 1000000000;
  client_body_temp_path {directory}; proxy_temp_path {directory}; fastcgi_temp_path {directory};
  uwsgi_temp_path {directory}; scgi_temp_path {directory};
  server {{
    listen 127.0.0.1:{port};
    location /hello {{ default_type text/plain; return 200 "Hello, world!"; }}
  }}
}}
"""


class CannotServe(Exception):
    """A server did not start, or ended."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """``command`` with what is added when the access log is off (``quiet``) or on (``logs``)."""

    name: str
    kind: Literal["ours", "peer", "floor"] = "peer"
    command: str
    quiet: str = ""
    logs: str = ""
    versions: tuple[str, ...]
    """Names of distributions whose versions tell what was measured."""


OURS = "asgi-supervise"

SERVERS = (
    Server(
        name=OURS,
        kind="ours",
        command="asgi-supervise -w 1 --loop uvloop --bind 127.0.0.1:{port} {app}",
        quiet="--no-access-log",
        logs="--access-log",
        versions=("asgi_supervise", "uvloop", "httptools", "websockets"),
    ),
    Server(
        name="uvicorn",
        command="uvicorn --workers 1 --loop uvloop --http httptools --port {port} {app}",
        quiet="--no-access-log",
        logs="--access-log",
        versions=("uvicorn", "httptools"),
    ),
    Server(
        name="uvicorn, zttp",
        command="uvicorn --workers 1 --loop uvloop --http zttp --port {port} {app}",
        quiet="--no-access-log",
        logs="--access-log",
        versions=("uvicorn", "zttp"),
    ),
    Server(
        name="granian",
        command="granian --interface asgi --loop uvloop --workers 1 --port {port} {app}",
        quiet="--no-access-log",
        logs="--access-log",
        versions=("granian",),
    ),
    Server(
        name="gunicorn",
        command="gunicorn -k asgi --asgi-loop uvloop --http-parser fast -w 1"
        " --no-control-socket -b 127.0.0.1:{port} {app}",
        logs="--access-logfile -",
        versions=("gunicorn", "gunicorn_h1c"),
    ),
    Server(
        name="hypercorn",
        command="hypercorn -k uvloop -w 1 -b 127.0.0.1:{port} {app}",
        logs="--access-logfile -",
        versions=("hypercorn", "h11"),
    ),
    Server(
        name="daphne",
        command="daphne -b 127.0.0.1 -p {port} {app}",
        quiet="-v 0",
        logs="--access-log -",
        versions=("daphne", "twisted"),
    ),
    Server(
        name="raw uvloop",
        kind="floor",
        command="python -m tests.benchmarks.floors {port}",
        versions=("uvloop",),
    ),
    Server(name="nginx", kind="floor", command="nginx -c {config}", versions=("nginx",)),
)


class Running:
    """A server that runs on the given cores, until the ``with`` block is left."""

    def __init__(
        self, server: Server, *, access_log: bool, cores: Collection[int], directory: Path
    ) -> None:
        self.server = server
        self.access_log = access_log
        self.cores = cores
        self.directory = directory
        self.output = directory / "output"
        self.port = 0

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        self._start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def wait_until_listening(self) -> None:
        """Raises CannotServe. A port that was taken meanwhile is replaced by another one."""
        for _ in range(3):
            if self._listens():
                return
            if "in use" not in self.last_words(20).lower():
                break
            self.restart()
        raise CannotServe(f"did not start: {self.last_words(1) or 'it says nothing'}")

    def restart(self) -> None:
        self._stop()
        self._start()

    def cpu_s(self) -> float:
        """Of all its processes, since it started. Raises CannotServe."""
        if self.process.poll() is not None:
            raise CannotServe(f"ended by itself: {self.last_words(1)}")
        return cpu_s(self.process.pid)

    def worker(self) -> int:
        """The process that serves: the one that has used most."""
        return max(tree(self.process.pid), key=process_cpu_s)

    def lines_logged(self) -> int:
        with self.output.open("rb") as output:
            return sum(block.count(b"\n") for block in iter(lambda: output.read(1 << 20), b""))

    def last_words(self, lines: int) -> str:
        said = self.output.read_text("utf-8", "replace").strip().splitlines()
        return " / ".join(line.strip() for line in said[-lines:])

    def _start(self) -> None:
        self.port = free_port()
        config = self.directory / "nginx.conf"
        log = self.directory / "output" if self.access_log else "off"
        config.write_text(_NGINX.format(directory=self.directory, port=self.port, log=log))
        extra = self.server.logs if self.access_log else self.server.quiet
        words = f"{self.server.command} {extra}".format(
            port=self.port, app=APP, config=config
        ).split()
        inside = BIN / words[0]
        words[0] = str(inside) if inside.exists() else tool(words[0]) or words[0]
        # A child inherits on which cores it runs: nothing of it ever runs elsewhere.
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, self.cores)
        try:
            with self.output.open("wb") as output:
                self.process = subprocess.Popen(
                    words,
                    cwd=self.directory,
                    env=_environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as reason:
            raise CannotServe(f"cannot start {words[0]}: {reason.strerror}") from reason
        finally:
            os.sched_setaffinity(0, before)

    def _listens(self) -> bool:
        give_up_at = time.monotonic() + _BOOT_S
        while self.process.poll() is None and time.monotonic() < give_up_at:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                time.sleep(0.05)
            else:
                return True
        return False

    def _stop(self) -> None:
        family = [_pidfd(pid) for pid in tree(self.process.pid)[1:]]
        self.process.terminate()
        try:
            self.process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pidfd in filter(None, family):
            try:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it went with the others
            os.close(pidfd)


def _pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def _environment() -> dict[str, str]:
    """Nothing that would configure a server, or Python; our own is that of this checkout."""
    kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
    path = f"{BIN}:{os.environ.get('PATH', os.defpath)}"
    roots = ":".join(map(str, (ROOT, ROOT / "supervisor", ROOT / "workers")))
    return kept | {"PATH": path, "PYTHONPATH": roots, "PYTHONDONTWRITEBYTECODE": "1"}
