"""What the system refuses, injected by strace into the real host and its templates; run like
``contract.py``, each in a process of its own.
"""

from __future__ import annotations

import io
import itertools
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from asgi_supervise.host.rescue import REFUSED_S
from asgi_supervise.policy import vocabulary as v
from tests.host import contract
from tests.host.contract import Stage
from tests.host.posix import only_child, others, with_one_that_waits
from tests.host.proc import await_that, children, descriptors

FORK = "fork,vfork,clone,clone3"


@contextmanager
def injected(pid: int, what: str, *, also_children: bool = False) -> Iterator[None]:
    """``what`` (strace(1), *inject*) happens to a process, from its next system call on."""
    words = ["strace", "-o", "/dev/null", *(["-f"] if also_children else [])]
    words += ["-p", str(pid), "-e", f"trace={what.partition(':')[0]}", "-e", f"inject={what}"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as strace:
        assert strace.stderr
        line = strace.stderr.readline()
        assert " attached" in line, line
        try:
            yield
        finally:
            strace.terminate()
            strace.stderr.read()


def refusals(stage: Stage, generation: int) -> str:
    """Why a template cannot be started."""
    stage.host.start_template(generation, stage.blueprint)
    (event,) = stage.until(bool)
    assert isinstance(event, v.TemplateRefused), event
    return event.reason


def refusal(stage: Stage, worker: int) -> str:
    """Why a worker cannot be spawned."""
    stage.host.spawn_worker(worker, 0, 0, 1)
    (event,) = stage.until(bool)
    assert isinstance(event, v.WorkerRefused), event
    return event.reason


def the_master_survives_what_is_refused(stage: Stage) -> None:
    template = stage.with_template()
    before = descriptors()
    for call, error, reason in (
        (FORK, "EAGAIN", "fork: Resource temporarily unavailable"),
        ("socketpair", "EMFILE", "socketpair: Too many open files"),
        ("memfd_create", "ENFILE", "memfd_create: Too many open files in system"),
        ("pidfd_open", "ENFILE", "pidfd_open: Too many open files in system"),
        ("epoll_ctl", "ENOSPC", "epoll_ctl: No space left on device"),
        ("epoll_ctl", "ENOMEM:when=2", "epoll_ctl: Cannot allocate memory"),
    ):
        with injected(os.getpid(), f"{call}:error={error}"):
            said = refusals(stage, 2)
        assert said == reason
        only_child(stage, template)
        assert descriptors() == before
    for worker, (call, error, reason) in enumerate(
        (
            ("socketpair", "EMFILE", "socketpair: Too many open files"),
            ("memfd_create", "ENFILE", "memfd_create: Too many open files in system"),
            ("epoll_ctl", "ENOSPC", "epoll_ctl: No space left on device"),
            ("epoll_ctl", "ENOSPC:when=2", "epoll_ctl: No space left on device"),
            ("sendmsg", "ETOOMANYREFS", "the template of generation 1 takes no orders"),
        ),
        1,
    ):
        with injected(os.getpid(), f"{call}:error={error}"):
            said = refusal(stage, worker)
        assert said == reason
        only_child(stage, template)
        assert descriptors() == before
    stage.with_worker(5, 0, 1)
    stage.with_template(2)


def a_template_survives_what_is_refused(stage: Stage) -> None:
    template = stage.with_template()
    stage.nothing_happens()
    before, masters = descriptors(template), descriptors()
    workers = itertools.count(1)
    for what, reason in (
        # The first time to the template, the second time to the process between it and the worker.
        (f"{FORK}:error=EAGAIN:when=1", "fork: Resource temporarily unavailable"),
        ("socketpair:error=ENFILE", "fork: Too many open files in system"),
        ("pidfd_open:error=EMFILE", "fork: Too many open files"),
        ("pidfd_open:error=EMFILE:signal=KILL", "fork: the child was killed"),
    ):
        with injected(template, what, also_children=True):
            said = [refusal(stage, next(workers)) for _ in range(2)]
        assert said == [reason, reason], what
        only_child(stage, template)
        await_that(partial(descriptors, template), before)
        assert descriptors() == masters
    stage.with_worker(1, 0, 1)


def interruptions_go_unnoticed(stage: Stage) -> None:
    calls = "recvmsg,sendmsg,epoll_wait,poll,ppoll,wait4,read,write,shutdown,dup2,dup3"
    with injected(os.getpid(), f"{calls}:error=EINTR:when=2+3", also_children=True):
        stage.with_template()
        stage.with_workers(0, 1, 2)
        stage.host.pass_on({2: 2})
        stage.host.kill_worker(1)
        assert stage.until_exits(1) == [v.WorkerExited(1, -9)]
        stage.host.drain_worker(2, 5.0, successor=True)
        assert stage.until_exits(2) == [v.WorkerExited(2, 0)]
        stage.host.stop_template(1)
        stage.host.drain_worker(3, 5.0, successor=True)
        assert stage.until_template_exits() == [v.WorkerExited(3, 0), v.TemplateExited(1, 0)]
    only_child(stage, -1)
    assert children() == []


def who_cannot_be_rescued_now_waits_on(stage: Stage) -> None:
    said = io.StringIO()
    logging.basicConfig(stream=said, format="%(message)s")
    _, client = with_one_that_waits(stage)
    with client:
        for what, wait_s in (
            ("epoll_ctl:error=ENOSPC:when=2", REFUSED_S / 2),
            ("accept4:error=ENFILE", 3 * REFUSED_S),
        ):
            stage.host.rescue((), (), ())
            with injected(os.getpid(), what):
                before_s = time.process_time()
                stage.host.rescue((0,), (0,), (2,))
                assert stage.host.wait(stage.host.now() + wait_s) == []
                assert time.process_time() - before_s < wait_s / 3
            assert stage.blueprint.inboxes.waiting(1) == 0, what
        stage.nothing_happens()
        assert others(stage, 1) == [client.getsockname()]
    assert [line.split(": ")[1].split(";")[0] for line in said.getvalue().splitlines()] == [
        "No space left on device",
        "Too many open files in system",
    ]


SCENARIOS: dict[str, Callable[[Stage], None]] = {
    scenario.__name__: scenario
    for scenario in (
        the_master_survives_what_is_refused,
        a_template_survives_what_is_refused,
        interruptions_go_unnoticed,
        who_cannot_be_rescued_now_waits_on,
    )
}

if __name__ == "__main__":
    stage = contract.on_posix_host()
    try:
        SCENARIOS[sys.argv[1]](stage)
    finally:
        stage.close()
