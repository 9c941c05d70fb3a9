"""System calls that fail in a running process: ``strace -e inject``, attached from outside.

Every fault is proved to have happened: strace writes down each call it spoiled.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.service import until


class Injection:
    """What strace has written down of the faults until now."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def count(self) -> int:
        return self._path.read_text(errors="replace").count("(INJECTED")


@functools.cache
def why_not() -> str:
    """Why there can be no faults here; "" if there can be."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    done = subprocess.run(
        ["strace", "-qq", "-o", "/dev/null", "true"], capture_output=True, text=True, check=False
    )
    return f"strace cannot trace: {done.stderr.strip()}" if done.returncode else ""


needs_strace = pytest.mark.skipif(bool(why_not()), reason=why_not() or "strace works")


@contextlib.contextmanager
def failing(pid: int, calls: str, how: str, *, on: Path | None = None) -> Iterator[Injection]:
    """Let ``calls`` (names, separated by commas) of ``pid`` fail as ``how`` says, meanwhile.

    ``on``: only those that concern this file.
    ``how`` is what follows the names in ``-e inject=``; processes forked meanwhile are not traced.
    """
    with tempfile.TemporaryDirectory(prefix="strace") as directory:
        path = Path(directory, "calls")
        path.touch()
        words = ["-e", f"trace={calls}", "-e", f"inject={calls}:{how}", "-o", str(path)]
        words += [] if on is None else ["-P", str(on)]
        tracer = subprocess.Popen(
            ["strace", "-qq", "-p", str(pid), *words], stderr=subprocess.PIPE, text=True
        )
        try:
            until(lambda: is_traced(pid) or tracer.poll() is not None, "strace is attached")
            assert tracer.poll() is None, tracer.communicate()[1]
            yield Injection(path)
        finally:
            end(tracer, pid, path)


def end(tracer: subprocess.Popen[str], pid: int, path: Path) -> None:
    """Let ``pid`` be stopped meanwhile: strace that ends in the midst of a call it was about to
    spoil lets it fail as a call that the system does not know.
    """
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
    try:
        until(
            lambda: b"--- stopped by SIGSTOP" in path.read_bytes() or tracer.poll() is not None,
            "the process that is traced is in no call",
        )
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.communicate(timeout=10)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def is_traced(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
    return bool(re.search(r"^TracerPid:\t[1-9]", text, re.MULTILINE))
