"""Processes as ``/proc`` shows them."""

from __future__ import annotations

import os
import re
import resource
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

PATIENCE_S = 20.0
Pid = int | str


def descriptors(pid: Pid = "self") -> dict[int, str]:
    """What each descriptor of a process is."""
    found = {}
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found[int(link.name)] = os.readlink(link)
        except FileNotFoundError:  # the one that lists the others
            continue
    return found


def kinds(pid: Pid) -> dict[str, int]:
    """How many descriptors of each kind a process has, the standard streams apart."""
    names = {
        r"socket:.*": "socket",
        r"/memfd:stacks.*": "stacks",
        r"(anon_inode:.)?pidfd.*": "pidfd",
    }
    return Counter(
        next((kind for pattern, kind in names.items() if re.fullmatch(pattern, what)), what)
        for number, what in descriptors(pid).items()
        if number > 2
    )


def closed_on_exec(pid: Pid) -> bool:
    """Whether a program it starts gets only the standard streams."""
    flags = [
        int(re.findall(r"^flags:\s+(\d+)$", path.read_text(), re.MULTILINE)[0], 8)
        for path in Path(f"/proc/{pid}/fdinfo").iterdir()
        if int(path.name) > 2
    ]
    return bool(flags) and all(flag & os.O_CLOEXEC for flag in flags)


def limit_descriptors(more: int, pid: int = 0) -> tuple[int, int]:
    """Let a process open so many more than it has now; gives the limits of before."""
    used = descriptors(pid or "self")
    free = [number for number in range(len(used) + more + 1) if number not in used]
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (free[more], before[1]))
    return before


def children() -> list[int]:
    """Ours, ended ones included."""
    found = Path("/proc/self/task", str(os.getpid()), "children").read_text()
    return [int(pid) for pid in found.split()]


def alive(pid: int) -> bool:
    """It exists and is not only waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def await_that(what: Callable[[], object], wanted: object) -> None:
    """Until ``what`` is as ``wanted``."""
    deadline = time.monotonic() + PATIENCE_S
    while (seen := what()) != wanted:
        assert time.monotonic() < deadline, f"in vain: {seen}, not {wanted}"
        time.sleep(0.005)
