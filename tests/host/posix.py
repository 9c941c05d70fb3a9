"""What only the real host can show; run like ``contract.py``, each in a process of its own."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from asgi_supervise.host import signals
from asgi_supervise.policy import vocabulary as v
from tests.host import contract
from tests.host.contract import Stage
from tests.host.fake import Script


def descriptors(pid: int | str = "self") -> list[str]:
    """What each descriptor of a process is."""
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(os.readlink(link))
        except FileNotFoundError:  # the one that lists the others
            continue
    return found


def sockets_of(pid: int) -> list[str]:
    return [what for what in descriptors(pid) if what.startswith("socket:")]


def children() -> list[int]:
    return [
        int(pid)
        for pid in Path("/proc/self/task", str(os.getpid()), "children").read_text().split()
    ]


def leave_an_orphan() -> None:
    """A process whose parent ends before it: it becomes ours, and then a zombie."""
    middle = os.fork()
    if middle == 0:
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os._exit(0)
    os.waitpid(middle, 0)


def strays_are_reaped(stage: Stage) -> None:
    for _ in range(3):
        leave_an_orphan()
    stage.nothing_happens()
    assert children() == []


def a_stray_does_not_hide_a_worker_nor_is_a_worker_taken_for_one(stage: Stage) -> None:
    stage.set_scripts([Script.CRASHES])
    stage.with_template()
    for worker in range(1, 21):
        leave_an_orphan()
        stage.host.spawn_worker(worker, 0, 1)
        events = stage.until_exits(worker)
        assert [type(e) for e in events] == [v.WorkerForked, v.WorkerBecameReady, v.WorkerExited]
        assert events[-1] == v.WorkerExited(worker, 7)
    stage.nothing_happens()
    assert len(children()) == 1  # the template


def signals_come_as_what_they_ask_for(stage: Stage) -> None:
    for number, (intent, _) in signals.INTENTS.items():
        signal.raise_signal(number)
        assert stage.until(bool) == [v.Asked(intent, number.name)]


def a_signal_to_a_child_is_not_taken_for_one_to_the_master(stage: Stage) -> None:
    template = stage.with_template()
    (worker,) = stage.with_workers(0)
    for pid in (template, worker):
        os.kill(pid, signal.SIGHUP)
        os.kill(pid, signal.SIGINT)
    stage.nothing_happens()


def without_descriptors_everything_is_refused_and_later_goes_on(stage: Stage) -> None:
    stage.with_template()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    stage.host.spawn_worker(1, 0, 1)
    stage.host.start_template(2)
    refused = stage.until(lambda events: len(events) == 2)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert refused == [
        v.WorkerRefused(1, "socketpair: Too many open files"),
        v.TemplateRefused(2, "socketpair: Too many open files"),
    ]
    stage.host.spawn_worker(2, 0, 1)
    stage.until(lambda events: v.WorkerBecameReady(2) in events)


def nothing_is_left_open_by_the_dead(stage: Stage) -> None:
    before = len(descriptors())
    for _ in range(3):
        template = stage.with_template()
        for worker in range(1, 4):
            stage.host.spawn_worker(worker, worker, 1)
        stage.until(lambda events: sum(isinstance(e, v.WorkerBecameReady) for e in events) == 3)
        stage.host.kill_template(1)
        stage.until_template_exits()
        for worker in range(1, 4):
            stage.host.kill_worker(worker)
        stage.until_exits(1, 2, 3)
        assert not Path(f"/proc/{template}").exists()
    assert len(descriptors()) == before
    assert children() == []


def a_worker_holds_only_what_is_its_own(stage: Stage) -> None:
    """Its channel, its listener, the standard streams; no sibling's channel, above all."""
    template = stage.with_template()
    pids = stage.with_workers(0, 1, 2)
    deadline = time.monotonic() + 20
    while len(sockets_of(template)) != contract.SLOTS + 1:  # listeners, its channel
        assert time.monotonic() < deadline, "the template lets go of what it had for the last fork"
        time.sleep(0.005)
    assert not [what for what in descriptors(template) if "eventpoll" in what]
    for pid in pids:
        assert len(sockets_of(pid)) == 2, sockets_of(pid)
        assert not [what for what in descriptors(pid) if "pidfd" in what or "eventpoll" in what]


def a_pid_is_reaped_even_if_it_was_stopped_and_killed(stage: Stage) -> None:
    stage.with_template()
    (pid,) = stage.with_workers(0)
    os.kill(pid, signal.SIGSTOP)
    stage.nothing_happens()
    stage.host.kill_worker(1)
    assert stage.until_exits(1) == [v.WorkerExited(1, -9)]


def a_closed_host_leaves_nobody(stage: Stage) -> None:
    template = stage.with_template()
    pids = [template, *stage.with_workers(0, 1)]
    stage.host.close()
    deadline = time.monotonic() + contract.PATIENCE_S
    while remaining := [pid for pid in pids if Path(f"/proc/{pid}/exe").exists() and alive(pid)]:
        assert time.monotonic() < deadline, remaining
        time.sleep(0.01)


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


SCENARIOS: dict[str, Callable[[Stage], None]] = {
    scenario.__name__: scenario
    for scenario in (
        strays_are_reaped,
        a_stray_does_not_hide_a_worker_nor_is_a_worker_taken_for_one,
        signals_come_as_what_they_ask_for,
        a_signal_to_a_child_is_not_taken_for_one_to_the_master,
        without_descriptors_everything_is_refused_and_later_goes_on,
        nothing_is_left_open_by_the_dead,
        a_worker_holds_only_what_is_its_own,
        a_pid_is_reaped_even_if_it_was_stopped_and_killed,
        a_closed_host_leaves_nobody,
    )
}

if __name__ == "__main__":
    stage = contract.on_posix_host()
    try:
        SCENARIOS[sys.argv[1]](stage)
    finally:
        if sys.argv[1] != a_closed_host_leaves_nobody.__name__:
            stage.host.close()
