"""Log files: what lands in them, rotation as logrotate does it, and everything that may refuse."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from asgi_supervise.host.logs import LogFileError, LogFiles
from tests.host.test_logs import ROOT, START, records

OPENED = """
files = logs.LogFiles(sys.argv[1] or None, sys.argv[2] or None)
def line(text):
    os.write(files.access_log, text.encode() + b"\\n")
"""


def run(directory: Path, code: str, log: str = "error.log", access: str = "access.log") -> str:
    """Run ``code`` with both files open; what it wrote to its first standard error."""
    done = subprocess.run(
        [sys.executable, "-c", START + OPENED + textwrap.dedent(code), log, access],
        cwd=directory,
        env=os.environ | {"PYTHONPATH": f"{ROOT / 'supervisor'}:{ROOT / 'workers'}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    return done.stderr


def test_all_that_goes_to_standard_error_is_in_the_file(tmp_path: Path) -> None:
    code = """
    import ctypes
    log.info("ours")
    print("the application's", file=sys.stderr)
    os.system("echo a program\\\\'s >&2")
    ctypes.CDLL(None).perror(b"libc's")
    if os.fork() == 0:
        log.info("a child's")
        os._exit(0)
    os.wait()
    line("a request")
    """
    assert run(tmp_path, code) == ""
    ours, printed, echoed, libc, child = (tmp_path / "error.log").read_text().splitlines()
    assert records(f"{ours}\n{child}") == ["ours", "a child's"]
    assert (printed, echoed) == ("the application's", "a program's")
    assert libc.startswith("libc's: ")
    assert (tmp_path / "access.log").read_text() == "a request\n"


def test_without_files_all_stays_as_it_is(tmp_path: Path) -> None:
    code = 'assert files.access_log == 1; log.info("here"); assert files.reopen() == {}'
    told = records(run(tmp_path, code, "", ""))
    assert told == [
        "here",
        "there are no log files to reopen: neither log-file nor access-log-file is set",
    ]
    assert not list(tmp_path.iterdir())


def test_files_are_appended_to_and_not_for_everybody(tmp_path: Path) -> None:
    (tmp_path / "error.log").write_text("before\n")
    run(tmp_path, 'log.info("after")')
    assert (tmp_path / "error.log").read_text().startswith("before\n2")
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "access.log").stat().st_mode & 0o777 == 0o640 & ~umask


def test_programs_of_the_application_get_standard_error_alone(tmp_path: Path) -> None:
    code = """
    assert os.get_inheritable(2)
    assert files.access_log > 2
    files.reopen()
    assert os.get_inheritable(2)
    assert not os.get_inheritable(files.access_log)
    open_now = set(os.listdir("/proc/self/fd"))
    for _ in range(20):
        files.reopen()
    assert set(os.listdir("/proc/self/fd")) == open_now
    """
    assert run(tmp_path, code) == ""


def test_a_file_that_was_moved_away_is_made_anew(tmp_path: Path) -> None:
    code = """
    number = files.access_log
    log.info("old"); line("old")
    for name in ("error.log", "access.log"):
        os.rename(name, name + ".1")
    log.info("still old"); line("still old")
    assert files.reopen() == {2: 2, number: number} and files.access_log == number
    log.info("new"); line("new")
    """
    assert run(tmp_path, code) == ""
    assert records((tmp_path / "error.log.1").read_text()) == ["old", "still old"]
    new = records((tmp_path / "error.log").read_text())
    assert new == ["reopened access.log, error.log", "new"]
    assert (tmp_path / "access.log.1").read_text() == "old\nstill old\n"
    assert (tmp_path / "access.log").read_text() == "new\n"


def test_a_file_that_was_copied_and_truncated_goes_on_at_its_start(tmp_path: Path) -> None:
    code = """
    log.info("old"); line("old")
    os.truncate("error.log", 0); os.truncate("access.log", 0)
    log.info("new"); line("new")
    """
    run(tmp_path, code)
    assert records((tmp_path / "error.log").read_text()) == ["new"]
    assert (tmp_path / "access.log").read_text() == "new\n"


def test_what_cannot_be_opened_anew_goes_on_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    code = """
    os.rename("a", "b")
    number = files.access_log
    assert files.reopen() == {number: number}
    log.info("going on"); line("going on")
    """
    run(tmp_path, code, "a/error.log")
    assert records((tmp_path / "b/error.log").read_text()) == [
        "cannot open a/error.log: No such file or directory (see --log-file); the old file goes on",
        "reopened access.log",
        "going on",
    ]
    assert (tmp_path / "access.log").read_text() == "going on\n"


def test_no_descriptors_left_to_reopen_with(tmp_path: Path) -> None:
    code = """
    import resource
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    assert files.reopen() == {}
    log.info("going on"); line("going on")
    """
    run(tmp_path, code)
    told = records((tmp_path / "error.log").read_text())
    assert [line.split(" (")[0] for line in told[:2]] == [
        "cannot open access.log: Too many open files",
        "cannot open error.log: Too many open files",
    ]
    assert told[2:] == ["going on"]


def test_a_file_that_cannot_be_opened_at_the_start(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    open_now = set(os.listdir("/proc/self/fd"))
    for name, reason in (
        ("no/where", "No such file or directory"),
        (".", "Is a directory"),
        ("pipe", "No such device or address"),
    ):
        path = f"{tmp_path}/{name}"
        with pytest.raises(LogFileError) as caught:
            LogFiles(path, None)
        assert str(caught.value) == f"cannot open {path}: {reason} (see --log-file)"
        with pytest.raises(LogFileError, match="see --access-log-file"):
            LogFiles(None, path)
        with pytest.raises(LogFileError, match="see --log-file"):
            LogFiles(path, str(tmp_path / "access"))
    assert set(os.listdir("/proc/self/fd")) == open_now


def test_a_pipe_with_a_reader_is_as_good_as_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "error.log")
    lines: list[str] = []

    def read() -> None:
        with (tmp_path / "error.log").open() as pipe:
            lines.extend(pipe)

    reader = threading.Thread(target=read)
    # Linux lets a pipe be opened for both, so that the child finds a reader whatever comes first.
    both = os.open(tmp_path / "error.log", os.O_RDWR)
    reader.start()
    assert run(tmp_path, 'log.info("told"); assert os.get_blocking(2)') == ""
    os.close(both)
    reader.join(60)
    assert records("".join(lines)) == ["told"]


def test_closing_twice_does_no_harm(tmp_path: Path) -> None:
    files = LogFiles(None, str(tmp_path / "access.log"))
    number = files.access_log
    files.close()
    files.close()
    assert files.access_log == 1
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)
