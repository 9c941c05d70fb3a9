"""How many CPUs this process may use: affinity and the quota of its control groups.

``os.cpu_count()`` tells what the machine has; a container limited to two of sixty-four CPUs would
start sixty-four workers. Both versions of control groups are read, from the process's own group up
to the root, because a limit anywhere above counts too.
"""

from __future__ import annotations

import math
import os
from pathlib import Path


def usable_cpus(root: Path = Path("/")) -> int:
    """At least 1. ``root`` is where ``proc`` and the control groups are looked for."""
    allowed = len(os.sched_getaffinity(0))
    quota = cpu_quota(root)
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """The smallest limit in CPUs that applies, or ``None`` when there is none."""
    try:
        limits = [_limit_v2(group) or _limit_v1(group) for group in _groups(root)]
    except ValueError:  # a kernel that writes these files in another way: nothing is known
        return None
    return min((limit for limit in limits if limit is not None), default=None)


def _groups(root: Path) -> list[Path]:
    """Every directory, own group to root, of the hierarchies that can limit the CPU."""
    own = {}
    for line in _lines(root / "proc/self/cgroup"):  # hierarchy:controllers:path
        _, controllers, path = line.split(":", 2)
        if not controllers or "cpu" in controllers.split(","):
            own["cgroup" if controllers else "cgroup2"] = path
    directories = []
    for line in _lines(root / "proc/self/mountinfo"):
        mount, _, filesystem = line.partition(" - ")
        kind, _, options = filesystem.split(" ", 2)
        if kind not in own or (kind == "cgroup" and "cpu" not in options.split(" ")[-1].split(",")):
            continue
        mounted, where = mount.split(" ")[3:5]
        top = root / where.lstrip("/")
        inside = os.path.relpath(own[kind], mounted) if own[kind].startswith(mounted) else "."
        group = top / inside
        directories += [group, *(p for p in group.parents if p.is_relative_to(top))]
    return directories


def _limit_v2(directory: Path) -> float | None:
    for line in _lines(directory / "cpu.max"):
        quota, period = line.split()
        return None if quota == "max" else int(quota) / int(period)
    return None


def _limit_v1(directory: Path) -> float | None:
    quota = _lines(directory / "cpu.cfs_quota_us")
    period = _lines(directory / "cpu.cfs_period_us")
    return int(quota[0]) / int(period[0]) if quota and period and int(quota[0]) > 0 else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
