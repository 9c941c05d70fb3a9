from __future__ import annotations

from pathlib import Path

import pytest

from asgi_supervise.host.cgroup import CLAIM_S, MemoryKills, find_counter

V1_GROUPS = "9:name=systemd:/\n4:memory:/docker/abc\n1:cpu,cpuacct:/\n0::/\n"
V1_MOUNTS = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
33 31 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:7 - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""
V1_INSIDE = V1_MOUNTS.replace("0:32 /", "0:32 /docker/abc")
V2_MOUNTS = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1_COUNTER = "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"
V2_COUNTER = "low 0\nhigh 7\nmax 9\noom 5\noom_kill {}\noom_group_kill 8\n"


def machine(root: Path, groups: str, mounts: str, counter: str = "", text: str = "") -> str:
    """A made-up one under ``root``; the path of its counter."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    (root / "proc/self/mountinfo").write_text(mounts)
    if counter:
        (root / counter).parent.mkdir(parents=True)
        (root / counter).write_text(text.format(0))
    return str(root / counter)


@pytest.mark.parametrize(
    ("groups", "mounts", "counter"),
    [
        (V1_GROUPS, V1_MOUNTS, "sys/fs/cgroup/memory/docker/abc/memory.oom_control"),
        (
            "0::/system.slice/web.service\n",
            V2_MOUNTS,
            "sys/fs/cgroup/system.slice/web.service/memory.events",
        ),
        # A container with a view of its own of the groups.
        ("0::/\n", V2_MOUNTS, "sys/fs/cgroup/memory.events"),
        # One without: what is mounted is the group itself, the path the one outside.
        (V1_GROUPS, V1_INSIDE, "sys/fs/cgroup/memory/memory.oom_control"),
        (
            "4:memory:/pod/a b\n",
            "35 31 0:32 /pod /mnt/c\\040d rw - cgroup x rw,memory\n",
            "mnt/c d/a b/memory.oom_control",
        ),
        # Version 1 is there, but memory is counted by version 2.
        ("1:name=systemd:/\n0::/app\n", V2_MOUNTS, "sys/fs/cgroup/app/memory.events"),
    ],
)
def test_the_counter_is_found(tmp_path: Path, groups: str, mounts: str, counter: str) -> None:
    path = machine(tmp_path, groups, mounts, counter, V2_COUNTER)
    assert find_counter(str(tmp_path)) == path


@pytest.mark.parametrize(
    ("groups", "mounts"),
    [
        ("", ""),
        (V1_GROUPS, V1_MOUNTS),  # nothing where it should be
        ("0::/\n", V2_MOUNTS),  # the root group has no counter
        ("0::/../elsewhere\n", V2_MOUNTS),
        ("4:memory:/other\n", V1_INSIDE),
        ("4:memory\n", "no mounts - at\nall"),
    ],
)
def test_without_a_counter_nothing_is_claimed(tmp_path: Path, groups: str, mounts: str) -> None:
    machine(tmp_path, groups, mounts)
    assert find_counter(str(tmp_path)) is None
    assert not MemoryKills(str(tmp_path)).explains(True, 1.0)


def test_without_proc_nothing_is_claimed(tmp_path: Path) -> None:
    assert find_counter(str(tmp_path)) is None


@pytest.fixture(params=[(V1_GROUPS, V1_MOUNTS, V1_COUNTER), ("0::/app\n", V2_MOUNTS, V2_COUNTER)])
def counter(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[MemoryKills, Path, str]:
    groups, mounts, text = request.param
    v1 = "sys/fs/cgroup/memory/docker/abc/memory.oom_control"
    where = v1 if mounts is V1_MOUNTS else "sys/fs/cgroup/app/memory.events"
    path = Path(machine(tmp_path, groups, mounts, where, text.replace("{}", "3")))
    return MemoryKills(str(tmp_path)), path, text


def test_each_kill_explains_one_death(counter: tuple[MemoryKills, Path, str]) -> None:
    kills, path, text = counter
    assert not kills.explains(True, 1.0), "the three were before us"
    path.write_text(text.format(5))
    assert not kills.explains(False, 2.0), "that one exited"
    assert kills.explains(True, 2.1)
    assert kills.explains(True, 2.2)
    assert not kills.explains(True, 2.3)


def test_a_kill_of_long_ago_explains_nothing(counter: tuple[MemoryKills, Path, str]) -> None:
    kills, path, text = counter
    path.write_text(text.format(4))
    assert not kills.explains(False, 1.0)
    assert not kills.explains(True, 1.1 + CLAIM_S)


def test_a_counter_that_disappears_is_no_error(counter: tuple[MemoryKills, Path, str]) -> None:
    kills, path, text = counter
    path.unlink()
    assert not kills.explains(True, 1.0)
    path.write_text("nonsense")
    assert not kills.explains(True, 1.0)
    path.write_bytes(b"\xff\xfe")
    assert not kills.explains(True, 1.0)
    path.write_text(text.format(3))
    assert not kills.explains(True, 1.0), "those three are old"
