"""Whether the kernel killed for want of memory: counted for the control group we are in.

A process killed so dies of SIGKILL like any other; only the counter tells. It is raised before the
signal is sent, so it has risen by the time the dead process is reaped. Where it cannot be read – no
control group, a kernel or container that hides it – nothing is known, and nothing is claimed.

Considered and refused: the kernel's log (needs privilege), guessing from the memory figures of the
dead (they are gone).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

CLAIM_S = 2.0
"""How long a kill that was counted may wait for the death it explains."""


class MemoryKills:
    """Explains deaths by SIGKILL. ``root`` is where ``proc`` is, for tests."""

    def __init__(self, root: str = "/") -> None:
        self._counter = find_counter(root)
        self._seen = self._count()
        self._seen_at = 0.0
        self._unexplained = 0

    def explains(self, killed: bool, now: float) -> bool:
        """Whether a death, by SIGKILL or (not ``killed``) another one, was for want of memory.

        Each kill explains one death: two workers killed for it are two kills, and a third that
        somebody else killed is none.
        """
        count = self._count()
        if now - self._seen_at > CLAIM_S:
            self._unexplained = 0
        if count is not None:
            if self._seen is not None and count > self._seen:
                self._unexplained += count - self._seen
                self._seen_at = now
            self._seen = count
        if not killed or not self._unexplained:
            return False
        self._unexplained -= 1
        return True

    def _count(self) -> int | None:
        if self._counter is None:
            return None
        try:
            with open(self._counter, encoding="ascii") as file:
                found = re.search(r"^oom_kill (\d+)$", file.read(), re.MULTILINE)
        except (OSError, ValueError):
            return None
        return int(found[1]) if found else None


def find_counter(root: str = "/") -> str | None:
    """The file that counts for our control group: ``memory.oom_control`` of version 1, or
    ``memory.events`` of version 2; ``None`` if there is none.
    """
    try:
        groups = _lines(os.path.join(root, "proc/self/cgroup"))
        mounts = _lines(os.path.join(root, "proc/self/mountinfo"))
        return next(filter(os.path.exists, _candidates(root, groups, mounts)), None)
    except (OSError, ValueError):
        return None


def _candidates(root: str, groups: list[str], mounts: list[str]) -> Iterator[str]:
    for version, path in _memory_groups(groups):
        name = "memory.oom_control" if version == 1 else "memory.events"
        for mounted, where in _memory_mounts(mounts, version):
            inside = os.path.relpath(path, mounted)
            if inside != ".." and not inside.startswith("../"):
                yield os.path.normpath(os.path.join(root, where.lstrip("/"), inside, name))


def _memory_groups(lines: list[str]) -> Iterator[tuple[int, str]]:
    """Version and path of the groups that may count our memory, the surer ones first (proc(5),
    cgroups(7): ``hierarchy:controllers:path``). Where both versions are there, memory is in one.
    """
    fields = [line.split(":", 2) for line in lines]
    yield from ((1, path) for _, names, path in fields if "memory" in names.split(","))
    yield from ((2, path) for number, names, path in fields if (number, names) == ("0", ""))


def _memory_mounts(lines: list[str], version: int) -> Iterator[tuple[str, str]]:
    """What is mounted, as a path among the groups, and where (proc(5), *mountinfo*)."""
    for line in lines:
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if version == 1:
            ours = kind == "cgroup" and "memory" in options.split(",")
        else:
            ours = kind == "cgroup2"
        if ours:
            mounted, where = before.split(" ")[3:5]
            yield _plain(mounted), _plain(where)


def _plain(path: str) -> str:
    """A path of *mountinfo*, in which blanks are written as ``\\040``."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)


def _lines(path: str) -> list[str]:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read().splitlines()
