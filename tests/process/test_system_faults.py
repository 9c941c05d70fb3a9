"""The system says no – no descriptors, no processes, no space – or not yet, and nobody notices."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.process.faults import failing, needs_strace
from tests.process.loaded import complaints, kill, spend, under_load
from tests.process.service import ROOT, until

pytestmark = [pytest.mark.process, pytest.mark.slow, needs_strace]

EVERY_WAIT = "epoll_wait,epoll_pwait,poll,ppoll,select,pselect6"
EVERY_TRANSFER = "accept,accept4,read,readv,recvfrom,recvmsg,write,writev,sendto,sendmsg"
EVERY_WRITE = "write,writev,pwritev2"
EVERY_FORK = "fork,vfork,clone,clone3"


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("error", ["EMFILE", "ENOBUFS", "ECONNABORTED"])
def test_a_worker_that_can_accept_nothing_for_a_while(error: str, loop: str) -> None:
    """Who connects waits, or is served by somebody else; it is told once."""
    title = f"{error} in accept, {loop}"
    with under_load(title, "--loop", loop, errors_expected=True) as (service, crowd, _):
        with failing(service.workers()[0], "accept,accept4", f"error={error}:when=1..4") as fault:
            crowd.until(lambda _: fault.count() == 4, "four times nothing was accepted")
            spend(1)
        assert crowd.stop().lost == 0
    told = [line for line in complaints(service.log) if "cannot accept connections" in line]
    assert told == complaints(service.log)
    assert len(told) == (error != "ECONNABORTED")  # that is the matter of one connection


def test_a_template_that_cannot_fork() -> None:
    """The death of a worker cuts what it had; that another is late costs nothing."""
    with under_load("EAGAIN in the template's fork", errors_expected=True) as (service, crowd, _):
        victim = service.workers()[0]
        with failing(service.template(), EVERY_FORK, "error=EAGAIN:when=1..2") as fault:
            deaths = kill(victim)
            service.wait_line(r"cannot fork worker slot=0 gen=1.*: fork: Resource temporarily")
            service.wait_line(r"worker slot=0 gen=1 pid=\d+ ready")
            assert fault.count() == 2
        assert not crowd.stop().beyond(deaths)
    assert service.log.count("cannot fork worker") == 2


def test_a_master_that_cannot_fork() -> None:
    with under_load("EAGAIN in the master's fork", errors_expected=True) as (service, crowd, _):
        before = service.workers()
        with failing(service.process.pid, EVERY_FORK, "error=EAGAIN:when=1..2") as fault:
            os.kill(service.template(), signal.SIGKILL)
            service.wait_line(r"cannot fork template gen=1.*: .*Resource temporarily")
            until(lambda: fault.count() == 2, "it tried again")
            service.template()
        assert service.workers() == before
        assert crowd.stop().lost == 0


@pytest.mark.parametrize("call", ["socketpair", "memfd_create"])
@pytest.mark.parametrize("error", ["EMFILE", "ENOMEM"])
def test_a_master_that_cannot_make_what_a_worker_needs(error: str, call: str) -> None:
    with under_load(f"{error} in the master's {call}", errors_expected=True) as (service, crowd, _):
        victim = service.workers()[1]
        with failing(service.process.pid, call, f"error={error}:when=1") as fault:
            deaths = kill(victim)
            service.wait_line(r"cannot fork worker slot=1 gen=1.*: ")
            service.wait_line(r"worker slot=1 gen=1 pid=\d+ ready")
            assert fault.count() == 1
        assert not crowd.stop().beyond(deaths)
    assert service.log.count("cannot fork worker") == 1


def test_a_log_that_is_full(tmp_path: Path) -> None:
    """What the master wants to say meanwhile is lost, counted and told of; nothing else is."""
    path = tmp_path / "log"
    with under_load("ENOSPC in the master's log", log_file=path) as (service, crowd, _):
        before = service.workers()
        with failing(service.process.pid, EVERY_WRITE, "error=ENOSPC", on=path) as fault:
            deaths = kill(before[0])
            until(lambda: service.workers().get(0, before[0]) != before[0], "it is replaced")
            until(lambda: fault.count() >= 3, "it wanted to say so")
        deaths |= kill(before[1])
        service.wait_line(r"WARNING \d+ log records were lost: No space left on device")
        service.wait_line(rf"pid={before[1]} was killed by SIGKILL")
        service.wait_line(r"slot=1 .* ready$")
        assert not crowd.stop().beyond(deaths)
    assert service.log.count("were lost") == 1


def test_an_access_log_that_is_full(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    words = ["--access-log", "--access-log-file", str(path)]
    title = "ENOSPC in the access log"
    with under_load(title, *words, errors_expected=True) as (service, crowd, _):
        with failing(service.workers()[0], EVERY_WRITE, "error=ENOSPC", on=path) as fault:
            until(lambda: fault.count() >= 3, "lines could not be written")
        begin = path.stat().st_size
        crowd.until(lambda _: path.stat().st_size > begin, "lines are written again")
        assert crowd.stop().lost == 0
    # A worker that is traced may also be reported as late.
    broken, mended = [line for line in complaints(service.log) if "access log" in line]
    assert "ERROR cannot write the access log: No space left on device" in broken
    assert re.search(r"WARNING \d+ lines of the access log were lost", mended)


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_every_call_of_a_worker_is_interrupted_now_and_then(loop: str) -> None:
    calls = f"{EVERY_WAIT},{EVERY_TRANSFER}"
    with under_load(f"EINTR in a worker, {loop}", "--loop", loop) as (service, crowd, _):
        with failing(service.workers()[0], calls, "error=EINTR:when=2+3") as fault:
            until(lambda: fault.count() > 300, "calls were interrupted")
        assert crowd.stop().lost == 0
    assert not complaints(service.log)


def test_every_call_of_master_and_template_is_interrupted_now_and_then() -> None:
    calls = f"{EVERY_WAIT},{EVERY_TRANSFER},wait4,waitid,pidfd_send_signal,openat"
    with under_load("EINTR in master and template") as (service, crowd, _):
        with (
            failing(service.process.pid, calls, "error=EINTR:when=1+2") as in_master,
            failing(service.template(), calls, "error=EINTR:when=1+2") as in_template,
        ):
            deaths = kill(service.workers()[0])
            service.wait_line(r"worker slot=0 gen=1 pid=\d+ ready")
            until(lambda: in_master.count() > 5 and in_template.count() > 2, "interrupted")
        assert not crowd.stop().beyond(deaths)


def test_no_process_for_reading_the_command_line() -> None:
    tracer = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={EVERY_FORK}"]
    tracer += ["-e", f"inject={EVERY_FORK}:error=EAGAIN"]
    done = subprocess.run(
        [*tracer, sys.executable, "-m", "asgi_supervise", "--version"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{ROOT / 'supervisor'}:{ROOT / 'workers'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 70
    assert done.stdout == ""
    assert done.stderr.startswith("asgi-supervise: cannot read the command line: [Errno 11]")
    assert done.stderr.count("\n") == 1
