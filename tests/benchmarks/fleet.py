"""Fleets of eight workers: what they hold in memory, what they use while idle, how soon they heal.

The workers of all servers run the application of ``shop.py``, on all cores. Memory is measured of
one fleet at a time, because what two fleets share would be halved; for the other two cases all
fleets stand ready, so that the machine is the same for all.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import selectors
import signal
import socket
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from tests.benchmarks.load import Failed
from tests.benchmarks.machine import tree
from tests.benchmarks.servers import CannotServe, Running, Server
from tests.benchmarks.shop import STARTED
from tests.benchmarks.trials import CRASH, IDLE, MEMORY, Findings, Sample, Trial

WORKERS = 8
REQUESTS = 50
"""That each worker has answered before its memory is looked at; see the titles of the trials."""
SETTLE_S = 5.0
IDLE_S = 20.0
GROWN_UP_S = 11.0
"""Only workers of this age are killed: one that died young may be replaced later, on purpose."""
KILLS = 5
_BOOT_S = 90.0
_HEAL_S = 30.0
_CONNECTIONS = 2000
_AT_ONCE = 16
_MIB = 1024.0

OURS = "asgi-supervise, preload"
_SHOP = "tests.benchmarks.shop:app"
_GUNICORN = "gunicorn --no-control-socket -w 8 -b 127.0.0.1:{port} "

FLEETS = (
    Server(
        name=OURS,
        kind="ours",
        command="asgi-supervise -w 8 --preload --no-access-log --bind 127.0.0.1:{port} " + _SHOP,
        versions=("asgi_supervise", "fastapi", "pydantic"),
    ),
    Server(
        name="asgi-supervise",
        kind="ours",
        command="asgi-supervise -w 8 --no-access-log --bind 127.0.0.1:{port} " + _SHOP,
        versions=("asgi_supervise",),
    ),
    Server(
        name="gunicorn",
        command=f"{_GUNICORN} -k asgi --asgi-loop uvloop {_SHOP}",
        versions=("gunicorn",),
    ),
    Server(
        name="gunicorn, preload",
        command=f"{_GUNICORN} -k asgi --asgi-loop uvloop --preload {_SHOP}",
        versions=("gunicorn",),
    ),
    Server(
        name="gunicorn, uvicorn",
        command=f"{_GUNICORN} -k uvicorn_worker.UvicornWorker {_SHOP}",
        versions=("gunicorn", "uvicorn_worker"),
    ),
    Server(
        name="uvicorn",
        command="uvicorn --workers 8 --no-access-log --port {port} " + _SHOP,
        versions=("uvicorn",),
    ),
    Server(
        name="granian",
        command="granian --interface asgi --loop uvloop --workers 8 --respawn-failed-workers"
        " --no-access-log --port {port} " + _SHOP,
        versions=("granian",),
    ),
)


class Start(NamedTuple):
    """A worker whose application has started, and when (``time.monotonic``)."""

    pid: int
    at: float


class Fleet:
    """A running server whose eight workers have all started."""

    def __init__(self, server: Server, cores: Collection[int], directory: Path) -> None:
        directory.mkdir(parents=True)
        self.server = server
        self.running = Running(server, access_log=False, cores=cores, directory=directory)
        self._pipe_at = directory / STARTED

    def __enter__(self) -> Self:
        os.mkfifo(self._pipe_at)
        # Also for writing, so that there is no end-of-file between two writers.
        self._pipe = os.open(self._pipe_at, os.O_RDWR | os.O_NONBLOCK)
        self._unread = b""
        self.starts: list[Start] = []
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._pipe, selectors.EVENT_READ)
        self.running.__enter__()
        try:
            self.running.wait_until_listening()
            deadline = time.monotonic() + _BOOT_S
            while len(self.starts) < WORKERS:
                self.next_start(deadline)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.running.__exit__(kind, error, trace)
        self._selector.close()
        os.close(self._pipe)

    def next_start(self, deadline: float) -> Start:
        """Wait until another application has started. Raises CannotServe."""
        while b"\n" not in self._unread:
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not self._selector.select(left_s):
                raise CannotServe(f"only {len(self.starts)} workers: {self.running.last_words(1)}")
            self._unread += os.read(self._pipe, 4096)
        line, _, self._unread = self._unread.partition(b"\n")
        pid, at_ns = map(int, line.split())
        self.starts.append(Start(pid, at_ns / 1e9))
        return self.starts[-1]

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.running.port, timeout=5)


# --- memory ---------------------------------------------------------------------------------------

_ORDER = {
    "customer": {"name": "Ada", "mail": "ada@example.org", "addresses": []},
    "positions": [{"article": 3, "amount": 2}, {"article": 5}],
}
_TOUR = (
    ("GET", "/articles/", None, 200),
    ("GET", "/articles/?category=garden&offset=20&limit=50", None, 200),
    ("GET", "/articles/7", None, 200),
    ("GET", "/articles/7000", None, 404),
    ("GET", "/articles/seven", None, 422),
    ("POST", "/orders/", json.dumps(_ORDER), 201),
    ("GET", "/orders/count", None, 200),
)


def memory(fleet: Fleet) -> Sample:
    """PSS of the whole tree: in all, anonymous, of workers; and how many processes it has."""
    _make_use_of(fleet)
    workers = {start.pid for start in fleet.starts}
    pids = tree(fleet.running.process.pid)
    found = {pid: _rollup(pid) for pid in pids}
    total = sum(one.get("Pss", 0.0) for one in found.values())
    anonymous = sum(one.get("Pss_Anon", 0.0) for one in found.values())
    in_workers = sum(one.get("Pss", 0.0) for pid, one in found.items() if pid in workers)
    return total, anonymous, in_workers, float(len(pids))


def _make_use_of(fleet: Fleet) -> None:
    """Let each worker answer its requests. Which of them gets a connection is the kernel's choice:
    those that have had theirs stay connected, and others are tried.
    """
    missing = {start.pid for start in fleet.starts}
    with contextlib.ExitStack() as stack:
        for _ in range(_CONNECTIONS):
            if not missing:
                return
            connection = stack.enter_context(contextlib.closing(fleet.connect()))
            pid = int(_ask(connection, "GET", "/pid", None, 200))
            if pid in missing:
                missing.discard(pid)
                for number in range(REQUESTS - 1):
                    _ask(connection, *_TOUR[number % len(_TOUR)])
    raise Failed(f"{len(missing)} of {WORKERS} workers got none of {_CONNECTIONS} connections")


def _ask(
    connection: http.client.HTTPConnection, method: str, path: str, body: str | None, status: int
) -> bytes:
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        response = connection.getresponse()
        answer = response.read()
    except (OSError, http.client.HTTPException) as reason:
        raise Failed(f"{method} {path}: {reason!r}") from reason
    if response.status != status:
        raise Failed(f"{method} {path}: {response.status} instead of {status}")
    return answer


def _rollup(pid: int) -> dict[str, float]:
    """/proc/PID/smaps_rollup in MiB; empty when the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in lines)
    return {name: int(value.split()[0]) / _MIB for name, value in pairs}


# --- idle -----------------------------------------------------------------------------------------


def idle(fleets: Sequence[Fleet], findings: Findings) -> None:
    """The share of one core that each uses while nobody asks for anything."""
    time.sleep(SETTLE_S)
    before = [(fleet.running.cpu_s(), time.monotonic()) for fleet in fleets]
    time.sleep(IDLE_S)
    for fleet, (used_s, since) in zip(fleets, before, strict=True):
        with findings.noting(IDLE, fleet.server):
            share = (fleet.running.cpu_s() - used_s) / (time.monotonic() - since)
            findings.add(IDLE, fleet.server, (100 * share,))


# --- crash ----------------------------------------------------------------------------------------


def crash(fleet: Fleet) -> Iterator[Sample]:
    """Milliseconds from SIGKILL until another worker's application has started, and until that
    worker has answered its first connection.
    """
    _make_use_of(fleet)  # a first request costs more than all others
    victims = [start.pid for start in fleet.starts]
    youngest = max(start.at for start in fleet.starts)
    time.sleep(max(0.0, youngest + GROWN_UP_S - time.monotonic()))
    for victim in random.sample(victims, KILLS):
        killed_at = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        start = fleet.next_start(killed_at + _HEAL_S)
        answered_at = _answered_by(fleet, start.pid, killed_at + _HEAL_S)
        yield (1000 * (start.at - killed_at), 1000 * (answered_at - killed_at))
        time.sleep(0.5)  # the next one dies alone


def _answered_by(fleet: Fleet, pid: int, deadline: float) -> float:
    """When the first answer of ``pid`` came. Several ask at once: not all will be served by it."""
    request = b"GET /pid HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    while time.monotonic() < deadline:
        with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
            for _ in range(_AT_ONCE):
                sock = stack.enter_context(socket.socket())
                with contextlib.suppress(OSError):
                    sock.connect(("127.0.0.1", fleet.running.port))
                    sock.sendall(request)
                    selector.register(sock, selectors.EVENT_READ)
            while selector.get_map() and (ready := selector.select(1.0)):
                at = time.monotonic()
                for key, _ in ready:
                    with contextlib.suppress(OSError):
                        answer = key.fileobj.recv(4096)  # type: ignore[union-attr]
                        if answer.endswith(b"\r\n\r\n%d" % pid):
                            return at
                    selector.unregister(key.fileobj)
    raise Failed(f"worker {pid} started, but answered no connection in {_HEAL_S:.0f} s")


# --- all of it ------------------------------------------------------------------------------------


def measure_all(
    trials: Sequence[Trial],
    servers: Sequence[Server],
    rounds: int,
    cores: Collection[int],
    directory: Path,
) -> Findings:
    """Try each fleet, ``rounds`` times; each round begins with another one."""
    findings = Findings()
    together = [trial for trial in trials if trial is not MEMORY]
    for number in range(rounds):
        start = number % len(servers)
        order = [*servers[start:], *servers[:start]]
        if MEMORY in trials:
            for index, server in enumerate(order):
                place = directory / f"memory-{number}-{index}"
                with findings.noting(MEMORY, server), Fleet(server, cores, place) as fleet:
                    findings.add(MEMORY, server, memory(fleet))
        if together:
            with contextlib.ExitStack() as stack:
                fleets = []
                for index, server in enumerate(order):
                    with findings.noting(together[0], server):
                        fleet = Fleet(server, cores, directory / f"fleet-{number}-{index}")
                        fleets.append(stack.enter_context(fleet))
                if IDLE in together:
                    idle(fleets, findings)
                for fleet in fleets if CRASH in together else ():
                    with findings.noting(CRASH, fleet.server):
                        for sample in crash(fleet):
                            findings.add(CRASH, fleet.server, sample)
    return findings
