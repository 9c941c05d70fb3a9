"""What the operating system is asked: processor time of a tree of processes, cores, ports."""

from __future__ import annotations

import os
import platform
import socket
import time
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_CPUCLOCK_SCHED = 2


class CannotMeasure(Exception):
    """This machine, or what is installed on it, does not allow the measurement."""


def two_cores() -> tuple[int, int]:
    """One for the server, one for the load."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise CannotMeasure(
            "cannot measure on one processor core: the load would compete with the server; "
            "give the benchmark two cores"
        )
    return cores[0], cores[1]


def tree(root: int) -> list[int]:
    """``root`` and all its descendants that are alive."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [root]
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def cpu_s(root: int) -> float:
    """Processor seconds, user and system, of the tree of processes under ``root``.

    Those alive are asked by their clock (nanoseconds, threads that ended included); what they
    have reaped is added from /proc (hundredths of a second, but hardly ever other than 0).
    """
    return sum(map(process_cpu_s, tree(root)))


def process_cpu_s(pid: int) -> float:
    """The same of one process and those it has reaped; 0 when it is gone."""
    try:
        alive = time.clock_gettime(~pid << 3 | _CPUCLOCK_SCHED)  # clock_getcpuclockid(3)
    except OSError:
        return 0.0
    fields = _stat(pid)
    return alive + (int(fields[13]) + int(fields[14])) / _TICKS if fields else alive


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; empty when the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return []


def free_port() -> int:
    """A port of 127.0.0.1 that was free a moment ago; who gets "in use" asks again."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def description() -> str:
    model = "processor unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return f"{model}, {os.cpu_count()} cores, Linux {platform.release()}"
