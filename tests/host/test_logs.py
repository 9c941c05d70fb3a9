"""Our log on real descriptors: files, full devices, pipes and sockets that nobody reads."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import subprocess
import sys
import termios
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

ROOT = Path(__file__).parents[2]
RECORD = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} \[\d+\] [A-Z]+ "
LOST = re.compile(r"(\d+) log records? (?:was|were) lost: its reader does not read")
START = """
import logging, os, sys
from asgi_supervise.host import logs
logs.configure("info")
log = logging.getLogger("asgi_supervise.somewhere")
"""
OLD_KERNEL = """
import errno
def refuse(*_):
    raise OSError(errno.EOPNOTSUPP, "not on this kernel")
os.pwritev = refuse
"""


@contextmanager
def child(code: str, stderr: int | IO[str]) -> Iterator[subprocess.Popen[str]]:
    """A process that runs ``code`` after :data:`START`; ended with its standard input."""
    process = subprocess.Popen(
        [sys.executable, "-c", START + textwrap.dedent(code)],
        env=os.environ | {"PYTHONPATH": f"{ROOT / 'supervisor'}:{ROOT / 'workers'}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )
    with process:
        try:
            yield process
            process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0


def run(code: str, stderr: int | IO[str]) -> str:
    """Run ``code`` to its end; its standard output."""
    with child(code, stderr) as process:
        out, _ = process.communicate(timeout=60)
    return out


def records(text: str) -> list[str]:
    """The messages in a log; everything in it must be a record of ours."""
    lines = text.splitlines()
    assert all(re.match(RECORD, line) for line in lines), text
    return [re.sub(RECORD, "", line) for line in lines]


# --- one record -----------------------------------------------------------------------------------


def test_a_record_says_when_who_and_how_bad(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as log:
        run('log.debug("no"); log.info("%d %s", 1, "ü\\udcff"); print(os.getpid())', log)
    text = (tmp_path / "log").read_text()
    assert re.fullmatch(RECORD + r"1 ü\\udcff\n", text)


def test_the_level_can_be_changed(tmp_path: Path) -> None:
    code = """
    logs.set_level("error"); log.warning("unsaid"); logs.set_level("debug"); log.debug("said")
    logging.getLogger("asgi_worker").debug("said, too")
    logging.getLogger("application").critical("not ours")
    """
    with (tmp_path / "log").open("w") as log:
        run(code, log)
    text = (tmp_path / "log").read_text().replace("not ours\n", "")  # logging's last resort
    assert records(text) == ["said", "said, too"]


MANY = """
import threading
def raises(n):
    try:
        raises(n - 1) if n else 1 / 0
    except Exception as error:
        raise RuntimeError(f"{os.getpid()} " * 8) from error
pids = []
for _ in range(4):
    if (pid := os.fork()) == 0:
        for _ in range(50):
            try:
                raises(DEPTH)
            except RuntimeError:
                log.exception("from %d", os.getpid())
        os._exit(0)
    pids.append(pid)
for pid in pids:
    assert os.waitpid(pid, 0)[1] == 0
"""


def test_tracebacks_of_several_processes_do_not_mix_in_a_file(tmp_path: Path) -> None:
    with (tmp_path / "log").open("a") as log:
        run(MANY.replace("DEPTH", "20"), log)
    blocks = re.split(rf"^(?={RECORD})", (tmp_path / "log").read_text(), flags=re.MULTILINE)[1:]
    assert len(blocks) == 200
    for block in blocks:
        pid = re.findall(r"from (\d+)$", block.splitlines()[0])[0]
        assert set(re.findall(r"RuntimeError: (\d+)", block)) == {pid}
        assert block.count("RuntimeError: ") == 20 + 1
        assert len(block) > 4096


def test_small_records_of_several_processes_do_not_mix_in_a_pipe() -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader) as log, child(MANY.replace("DEPTH", "1"), writer):
        os.close(writer)
        text = log.read()
    blocks = re.split(rf"^(?={RECORD})", text, flags=re.MULTILINE)[1:]
    told = [block for block in blocks if "lost: " not in block]
    assert len(told) + sum(map(int, LOST.findall(text))) == 200
    for block in told:
        pid = re.findall(r"from (\d+)$", block.splitlines()[0])[0]
        assert set(re.findall(r"RuntimeError: (\d+)", block)) == {pid}
        assert len(block) < 4096


# --- trouble --------------------------------------------------------------------------------------


def test_a_full_disk_costs_records_and_nothing_else(tmp_path: Path) -> None:
    code = """
    for number in range(3):
        log.error("lost %d", number)
    os.dup2(os.open(sys.stdin.readline().strip(), os.O_WRONLY | os.O_CREAT), 2)
    log.error("written")
    log.error("more")
    """
    with Path("/dev/full").open("w") as full, child(code, full) as process:
        out, _ = process.communicate(f"{tmp_path / 'log'}\n", timeout=60)
    assert out == ""
    text = (tmp_path / "log").read_text()
    assert records(text) == [
        "3 log records were lost: No space left on device",
        "written",
        "more",
    ]
    assert "WARNING 3 log" in text


def test_a_record_cut_by_a_full_disk_does_not_run_into_the_next(tmp_path: Path) -> None:
    code = """
    import resource
    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    limit(150)
    log.error("a" * 100)
    log.error("b" * 100)
    log.error("c" * 100)
    limit(resource.RLIM_INFINITY)
    log.error("d")
    """
    with (tmp_path / "log").open("a") as log:
        run(code, log)
    first, torn, *rest = (tmp_path / "log").read_text().splitlines()
    assert first.endswith(" " + "a" * 100)
    assert len(first) + len(torn) + 1 == 150
    assert records("\n".join(rest)) == ["2 log records were lost: File too large", "d"]


WITHOUT_READER = """
import time
began = time.monotonic()
for number in range(3000):
    log.info("%d %s", number, "x" * 100)
print("done", flush=True)
sys.stdin.readline()
log.info("again")
"""


@pytest.mark.parametrize("kernel", ["", OLD_KERNEL], ids=["new", "old"])
@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_a_reader_that_does_not_read_stops_nobody(kind: str, kernel: str) -> None:
    if kind == "pipe":
        reader, writer = os.pipe()
    else:
        reader, writer = (each.detach() for each in socket.socketpair())
    with os.fdopen(reader, "rb", 0) as log, child(kernel + WITHOUT_READER, writer) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == "done\n"
        assert not fcntl.fcntl(writer, fcntl.F_GETFL) & os.O_NONBLOCK
        os.close(writer)
        os.set_blocking(reader, False)
        text = b""
        while chunk := log.read(65536):
            text += chunk
        process.stdin.write("go on\n")
        process.stdin.flush()
        os.set_blocking(reader, True)
        while chunk := log.read(65536):
            text += chunk
    told = records(text.decode())
    lost = [int(each[1]) for line in told if (each := LOST.fullmatch(line))]
    numbers = [int(line.split()[0]) for line in told[:-1] if not LOST.fullmatch(line)]
    assert LOST.fullmatch(told[-2])
    assert told[-1] == "again"
    assert numbers == sorted(numbers)
    assert len(numbers) + sum(lost) == 3000
    assert len(numbers) > 10 < sum(lost)


def test_a_reader_that_left_stops_nobody(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    out = run('log.error("into the void"); log.error("again"); print("alive")', writer)
    os.close(writer)
    assert out == "alive\n"


def test_a_terminal_that_was_stopped_stops_nobody() -> None:
    ours, theirs = os.openpty()
    termios.tcflow(theirs, termios.TCOOFF)  # what Ctrl-S does
    out = run('[log.error("x" * 500) for _ in range(100)]; print("alive")', theirs)
    assert out == "alive\n"
    os.close(theirs)
    os.close(ours)


def test_a_child_does_not_tell_what_its_parent_lost(tmp_path: Path) -> None:
    code = """
    log.error("lost")
    os.dup2(os.open(sys.stdin.readline().strip(), os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    if (pid := os.fork()) == 0:
        log.error("child")
        os._exit(0)
    os.waitpid(pid, 0)
    log.error("parent")
    """
    with Path("/dev/full").open("w") as full, child(code, full) as process:
        process.communicate(f"{tmp_path / 'log'}\n", timeout=60)
    assert records((tmp_path / "log").read_text()) == [
        "child",
        "1 log record was lost: No space left on device",
        "parent",
    ]


def test_closed_descriptors_are_not_taken_by_others(tmp_path: Path) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$0" -c "$1" <&- 2>&-', sys.executable, START + CLOSED],
        env=os.environ | {"PYTHONPATH": f"{ROOT / 'supervisor'}:{ROOT / 'workers'}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    number, *rest = done.stdout.split()
    assert int(number) > 2
    assert rest == ["/dev/null", "True", "/dev/null", "True"]


CLOSED = """
log.error("nowhere")
print(os.open("/", os.O_RDONLY))
for number in (0, 2):
    print(os.readlink(f"/proc/self/fd/{number}"), os.get_inheritable(number))
"""
