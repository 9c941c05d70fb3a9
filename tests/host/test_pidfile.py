from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from asgi_supervise.host.pidfile import PidFile, PidFileError, PidFileTaken
from tests.host.test_contract import ROOT

HOLD = """
import sys
from asgi_supervise.host.pidfile import PidFile
held = PidFile(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


def test_written_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    held = PidFile(str(path))
    assert path.read_text() == f"{os.getpid()}\n"
    held.close()
    assert not path.exists()


def test_a_stale_one_is_replaced_even_if_such_a_process_runs(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    path.write_text("1\nand more that was there\n")
    held = PidFile(str(path))
    assert path.read_text() == f"{os.getpid()}\n"
    held.close()


def test_a_live_one_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        cwd=ROOT,
        env={"PYTHONPATH": "supervisor:workers"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(PidFileTaken, match=f"pid {other.pid} is running and holds it"):
            PidFile(str(path))
        assert path.read_text() == f"{other.pid}\n"
        other.kill()
        other.wait()
        held = PidFile(str(path))  # killed: the file stayed, the lock did not
        assert path.read_text() == f"{os.getpid()}\n"
        held.close()


def test_somebody_elses_file_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    held = PidFile(str(path))
    path.unlink()
    path.write_text("77\n")
    held.close()
    assert path.read_text() == "77\n"


def test_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(PidFileError, match="No such file or directory; choose another place"):
        PidFile(str(tmp_path / "missing" / "pid"))
    with pytest.raises(PidFileError, match="Is a directory"):
        PidFile(str(tmp_path))


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "pid").symlink_to(tmp_path / "victim")
    with pytest.raises(PidFileError, match="symbolic link"):
        PidFile(str(tmp_path / "pid"))
    assert not (tmp_path / "victim").exists()


def test_what_is_no_file_is_neither_written_nor_removed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PidFileError, match=r"cannot write pid file .*: it is not a regular file"):
        PidFile(str(tmp_path / "pipe"))
    assert (tmp_path / "pipe").exists()


FULL = """
import os, resource, sys
from asgi_supervise.host.pidfile import PidFile, PidFileError
resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))  # as a full disk
before = os.listdir("/proc/self/fd")
try:
    PidFile(sys.argv[1])
except PidFileError as error:
    print(error)
assert os.listdir("/proc/self/fd") == before
"""


def test_what_cannot_be_written_for_want_of_space_is_not_left_behind(tmp_path: Path) -> None:
    said = subprocess.check_output(
        [sys.executable, "-c", FULL, str(tmp_path / "pid")],
        cwd=ROOT,
        text=True,
        env={"PYTHONPATH": "supervisor:workers"},
    )
    assert said.startswith(f"cannot write pid file {tmp_path}/pid: File too large; choose another")
    assert list(tmp_path.iterdir()) == []
