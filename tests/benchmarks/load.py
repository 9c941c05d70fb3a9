"""One measurement: is what comes back right, then what does it cost."""

from __future__ import annotations

import http.client
import subprocess
import sys
import time
from dataclasses import dataclass

from tests.benchmarks.cases import Case
from tests.benchmarks.environment import tool
from tests.benchmarks.servers import SOURCES, Running

_PATIENCE_S = 15.0


class Failed(Exception):
    """The server does not do, or not always, what the case asks for."""


@dataclass(frozen=True)
class Sample:
    """``count`` requests or messages answered; latencies are of one, or of a batch of messages."""

    count: int
    seconds: float
    cpu_s: float
    p50_ms: float
    p99_ms: float
    lost: int
    """Connections that broke; what was on them is not counted."""

    @property
    def rate(self) -> float:
        return self.count / self.seconds

    @property
    def cpu_us(self) -> float:
        return self.cpu_s * 1e6 / self.count


def measure(case: Case, running: Running, seconds: int) -> Sample:
    """Raises Failed, CannotServe."""
    try:
        if case.frame_bytes:
            return _measure_echo(case, running, seconds)
        verify(case, running.port)
        logged_before = running.lines_logged() if case.access_log else 0
        sample = measure_http(case, running, seconds)
        if case.access_log:
            _expect_lines(running, logged_before + sample.count)
        return sample
    except Failed:
        running.cpu_s()  # raises when the reason is that the server is gone
        raise


def verify(case: Case, port: int) -> None:
    """Ask `case.warm_up` times and look at each answer. Raises Failed."""
    body = b"x" * case.body_bytes if case.body_bytes else None
    fields = dict(line.split(": ", 1) for line in case.headers)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE_S)
    try:
        for _ in range(case.warm_up):
            connection.request("POST" if body else "GET", case.path, body, fields)
            response = connection.getresponse()
            if response.status != 200:
                raise Failed(f"answered {response.status}")
            if response.read() != case.expected:
                raise Failed("answered with a wrong body")
            # Closed by http.client when that was announced; some just do it.
            if case.closes and connection.sock is not None:
                if connection.sock.recv(1):
                    raise Failed("answered more than it was asked")
                connection.close()
    except (OSError, http.client.HTTPException) as reason:
        raise Failed(f"answered badly: {reason!r}") from reason
    finally:
        connection.close()


def measure_http(case: Case, running: Running, seconds: int) -> Sample:
    """Only the load, nothing of which is looked at but the statuses. Raises CannotServe, Failed."""
    command = [tool("wrk") or "wrk", "-t1", f"-c{case.connections}", f"-d{seconds * case.length}s"]
    command += ["--timeout", "10s", "-s", str(SOURCES / "load.lua")]
    for line in case.headers:
        command += ["-H", line]
    command += [f"http://127.0.0.1:{running.port}{case.path}"]
    if case.body_bytes:
        command += ["--", "post", str(case.body_bytes)]
    elif case.varies:
        command += ["--", "vary"]
    before = running.cpu_s()
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    after = running.cpu_s()
    return _sample(said.stdout, after - before)


def _measure_echo(case: Case, running: Running, seconds: int) -> Sample:
    numbers = (running.port, case.frame_bytes, case.connections, case.depth, seconds)
    command = [sys.executable, str(SOURCES / "echo_load.py"), *map(str, numbers)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        first = client.stdout.readline()
        if first != "READY\n":
            _, error = client.communicate()
            raise Failed(_reason(first, error))
        before = running.cpu_s()
        client.stdin.write("\n")
        client.stdin.flush()
        result = client.stdout.readline()
        after = running.cpu_s()
        rest, error = client.communicate()
    if client.returncode:
        raise Failed(_reason(result + rest, error))
    return _sample(result, after - before)


def _reason(said: str, error: str) -> str:
    told = said.partition("FAILED ")[2].strip()
    return told or (error.strip().splitlines() or ["the load ended without a word"])[-1]


def _sample(said: str, cpu_s: float) -> Sample:
    words = said.partition("RESULT ")[2].split()
    if len(words) < 8:
        raise Failed(f"no result from the load: {said.strip()}")
    count, microseconds, p50, p99, refused, broken, bad, late = map(int, words[:8])
    if bad:
        raise Failed(f"{bad} of {count} answers had an error status")
    if not count:
        raise Failed(f"nothing answered; {refused} connections refused, {broken} broken")
    return Sample(count, microseconds / 1e6, cpu_s, p50 / 1e3, p99 / 1e3, refused + broken + late)


def _expect_lines(running: Running, wanted: int) -> None:
    """An access log that is not written would be a cheap one."""
    give_up_at = time.monotonic() + 5.0
    while (logged := running.lines_logged()) < wanted:
        if time.monotonic() > give_up_at:
            raise Failed(f"{wanted} requests answered, {logged} lines logged")
        time.sleep(0.1)
