"""CPUs that may be used, read from made-up control groups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from asgi_supervise.settings.cpus import cpu_quota, usable_cpus

V2 = "25 1 0:22 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V1 = "30 25 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct"
V1_MEMORY = "31 25 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"
V1_INSIDE = "30 25 0:27 /docker/abc /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu"


def machine(root: Path, cgroup: str, mountinfo: str, files: dict[str, str]) -> Path:
    for name, content in {
        "proc/self/cgroup": cgroup,
        "proc/self/mountinfo": mountinfo,
        **files,
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    return root


@pytest.mark.parametrize(
    ("cgroup", "mountinfo", "files", "quota"),
    [
        ("0::/", V2, {}, None),
        ("0::/", V2, {"sys/fs/cgroup/cpu.max": "max 100000"}, None),
        ("0::/", V2, {"sys/fs/cgroup/cpu.max": "150000 100000"}, 1.5),
        (
            "0::/a/b",
            V2,
            {
                "sys/fs/cgroup/cpu.max": "max 100000",
                "sys/fs/cgroup/a/cpu.max": "200000 100000",
                "sys/fs/cgroup/a/b/cpu.max": "400000 100000",
            },
            2.0,
        ),
        (
            "4:memory:/m\n3:cpu,cpuacct:/a",
            f"{V1_MEMORY}\n{V1}",
            {
                "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "50000",
                "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "100000",
            },
            0.5,
        ),
        (
            "3:cpu,cpuacct:/a",
            V1,
            {
                "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "100000",
            },
            None,
        ),
        (  # in a container only the own group is mounted, at the top
            "3:cpu:/docker/abc",
            V1_INSIDE,
            {
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            3.0,
        ),
        ("", "", {}, None),
        ("nonsense", "nonsense", {}, None),
        ("0::/", V2, {"sys/fs/cgroup/cpu.max": "nonsense"}, None),
    ],
)
def test_quota(
    tmp_path: Path, cgroup: str, mountinfo: str, files: dict[str, str], quota: float | None
) -> None:
    assert cpu_quota(machine(tmp_path, cgroup, mountinfo, files)) == quota


def test_a_part_of_a_cpu_counts_as_one(tmp_path: Path) -> None:
    files = {"sys/fs/cgroup/cpu.max": "10000 100000"}
    assert usable_cpus(machine(tmp_path, "0::/", V2, files)) == 1


def test_never_more_than_affinity_allows(tmp_path: Path) -> None:
    files = {"sys/fs/cgroup/cpu.max": "99900000 100000"}
    root = machine(tmp_path, "0::/", V2, files)
    assert usable_cpus(root) == len(os.sched_getaffinity(0))


def test_this_machine_has_at_least_one() -> None:
    assert 1 <= usable_cpus() <= len(os.sched_getaffinity(0))
