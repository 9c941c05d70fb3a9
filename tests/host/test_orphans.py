"""However and whenever the master dies: nobody stays behind."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.host.faults import FORK, injected
from tests.host.test_contract import ROOT

pytestmark = pytest.mark.process

PATIENCE_S = 30.0
CALLS = (FORK, "socketpair", "memfd_create", "epoll_ctl", "pidfd_open", "sendmsg", "recvmsg")


@contextmanager
def master(*words: str) -> Iterator[subprocess.Popen[bytes]]:
    """One that waits to be told to begin; its standard output is held by all its children."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.host.orphans", *words],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": "supervisor:workers:."},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == b"here\n"
        yield process


def go(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin
    process.stdin.write(b"go\n")
    process.stdin.flush()


def assert_nobody_stays_behind(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout
    assert process.stderr
    assert select.select([process.stdout], [], [], PATIENCE_S)[0], "somebody holds it still"
    assert process.stdout.read() == b""
    assert process.stderr.read() == b""
    assert process.wait() == -9


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.parametrize("number", [1, 4])
@pytest.mark.parametrize("call", CALLS)
def test_a_master_killed_in_a_system_call(call: str, number: int) -> None:
    with (
        master("go_through_everything") as process,
        injected(process.pid, f"{call}:signal=KILL:when={number}"),
    ):
        go(process)
        assert_nobody_stays_behind(process)


def test_a_master_killed_in_the_end() -> None:
    with master("go_through_everything") as process:
        go(process)
        assert_nobody_stays_behind(process)


@pytest.mark.parametrize("template", ["living", "retired", "successor"])
def test_a_worker_that_hangs_is_ended_by_its_template(template: str) -> None:
    with master("hang", template) as process:
        go(process)
        assert process.stdout
        assert process.stdout.readline() == b"hanging\n"
        assert_nobody_stays_behind(process)


def test_a_template_that_imports_for_ever_goes_with_its_master(tmp_path: Path) -> None:
    code = "import time\nprint('importing', flush=True)\nwhile True: time.sleep(60)\n"
    (tmp_path / "endless.py").write_text(code)
    with master("import_for_ever", str(tmp_path)) as process:
        go(process)
        assert process.stdout
        assert process.stdout.readline() == b"importing\n"
        process.kill()
        assert_nobody_stays_behind(process)
