"""What only the real host can show; run like ``contract.py``, each in a process of its own."""

from __future__ import annotations

import dataclasses
import gc
import logging
import os
import re
import resource
import select
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from asgi_supervise.host import preload, signals, sockets
from asgi_supervise.host.posix import PosixHost
from asgi_supervise.host.sockets import NEIGHBOURS
from asgi_supervise.policy import vocabulary as v
from asgi_worker.inbox import Handed, Kind
from tests.host import contract, standin
from tests.host.contract import Stage
from tests.host.fake import Script
from tests.host.proc import (
    alive,
    await_that,
    children,
    closed_on_exec,
    descriptors,
    kinds,
    limit_descriptors,
)


def leave_an_orphan() -> None:
    """A process whose parent ends before it: it becomes ours, and then a zombie."""
    middle = os.fork()
    if middle == 0:
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os._exit(0)
    os.waitpid(middle, 0)


def only_child(stage: Stage, pid: int) -> None:
    """Nobody else is left, which the host sees to when it waits."""

    def others() -> list[int]:
        assert stage.host.wait(stage.host.now()) == []
        return [child for child in children() if child != pid]

    await_that(others, [])


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
        stage.host.spawn_worker(worker, 0, 0, 1)
        events = stage.until_exits(worker)
        assert [type(e) for e in events] == [v.WorkerForked, v.WorkerBecameReady, v.WorkerExited]
        assert events[-1] == v.WorkerExited(worker, 7)
    stage.nothing_happens()
    assert len(children()) == 1  # the template


def signals_come_as_what_they_ask_for(stage: Stage) -> None:
    for number, (intent, sentence) in signals.INTENTS.items():
        signal.raise_signal(number)
        assert stage.until(bool) == [v.Asked(intent, number.name)]
        assert sentence


def a_resized_terminal_does_not_disturb(stage: Stage) -> None:
    template = stage.with_template()
    (worker,) = stage.with_workers(0)
    for pid in (os.getpid(), template, worker):
        os.kill(pid, signal.SIGWINCH)
    stage.nothing_happens()


def no_signal_is_lost_in_a_storm(stage: Stage) -> None:
    for _ in range(2000):
        signal.raise_signal(signal.SIGHUP)
    signal.raise_signal(signal.SIGTERM)
    assert stage.until(bool)[-1] == v.Asked(v.Intent.STOP, "SIGTERM")


def a_signal_to_a_child_is_not_taken_for_one_to_the_master(stage: Stage) -> None:
    template = stage.with_template()
    (worker,) = stage.with_workers(0)
    for pid in (template, worker):
        os.kill(pid, signal.SIGHUP)
        os.kill(pid, signal.SIGINT)
    stage.nothing_happens()


def without_descriptors_everything_is_refused_and_later_goes_on(stage: Stage) -> None:
    stage.with_template()
    before = descriptors()
    reasons = []
    for worker, more in enumerate((0, 1, 2, 3), 1):
        limits = limit_descriptors(more)
        stage.host.spawn_worker(worker, 0, 0, 1)
        event, *_ = stage.until(bool)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert isinstance(event, v.WorkerRefused | v.WorkerForked)
        reasons.append(event.reason if isinstance(event, v.WorkerRefused) else "")
    assert reasons == [
        f"{call}: Too many open files" for call in ("socketpair",) * 2 + ("memfd_create",)
    ] + [""]
    stage.host.kill_worker(4)
    stage.until_exits(4)
    for generation, more in enumerate((0, 1, 2), 2):
        limits = limit_descriptors(more)
        stage.host.start_template(generation, stage.blueprint)
        event, *_ = stage.until(bool)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert isinstance(event, v.TemplateRefused)
        assert event.reason.endswith(": Too many open files")
    assert descriptors() == before
    stage.with_worker(5, 0, 1)


def a_worker_whose_pidfd_finds_no_place_is_killed_and_refused(stage: Stage) -> None:
    template = stage.with_template()
    before = descriptors()
    os.kill(template, signal.SIGSTOP)
    stage.host.spawn_worker(1, 0, 0, 1)
    limits = limit_descriptors(0)
    os.kill(template, signal.SIGCONT)
    assert stage.until(bool) == [v.WorkerRefused(1, "pidfd_open: Too many open files")]
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    only_child(stage, template)
    assert descriptors() == before
    stage.with_worker(2, 0, 1)


def a_template_without_descriptors_refuses_and_later_goes_on(stage: Stage) -> None:
    template = stage.with_template()
    stage.nothing_happens()
    before = descriptors(template)
    refused = 0
    later: list[v.Event] = []
    for worker in range(1, 20):
        limits = limit_descriptors(worker - 1, template)
        stage.host.spawn_worker(worker, 0, 0, 1)
        event, *later = stage.until(bool)
        resource.prlimit(template, resource.RLIMIT_NOFILE, limits)
        if isinstance(event, v.WorkerForked):
            break
        assert isinstance(event, v.WorkerRefused)
        assert event.reason in ("recvmsg: no descriptors left", "fork: Too many open files")
        refused += 1
        only_child(stage, template)
        await_that(lambda: descriptors(template), before)  # it tells first, then it closes
    assert refused >= 4
    if not later:  # it may have come together
        assert stage.until(bool) == [v.WorkerBecameReady(worker)]


def nothing_is_left_open_by_the_dead(stage: Stage) -> None:
    before = len(descriptors())
    for _ in range(3):
        template = stage.with_template()
        for worker in range(1, 4):
            stage.host.spawn_worker(worker, worker, worker, 1)
        stage.until(lambda events: sum(isinstance(e, v.WorkerBecameReady) for e in events) == 3)
        stage.host.kill_template(1)
        stage.until_template_exits()
        for worker in range(1, 4):
            stage.host.kill_worker(worker)
        stage.until_exits(1, 2, 3)
        assert not Path(f"/proc/{template}").exists()
    assert len(descriptors()) == before
    assert children() == []


def nothing_is_kept_for_good_of_the_dead(stage: Stage) -> None:
    """Every fork makes immortal what there is, and in a year there are many."""

    def templates(count: int) -> int:
        for _ in range(count):
            stage.with_template()
            stage.host.kill_template(1)
            stage.until_template_exits()
        gc.collect()
        return gc.get_freeze_count() + len(gc.get_objects())

    before = templates(3)
    grown = templates(20) - before
    assert grown <= 20, grown  # a variable of with_template, which is a cell


def a_child_holds_only_what_is_its_own(stage: Stage) -> None:
    """A worker: its channel, its listener and those of its neighbours, the giving ends of all
    inboxes, its own inbox and a descriptor to spare, its stacks and the standard streams. A
    template: its channel, all listeners, all inboxes and one to spare, its stacks, a pidfd of each
    of its workers. Nobody else's, above all.
    """
    templates = [stage.with_template(1)]
    pids = [stage.with_worker(worker, worker, 1) for worker in (1, 2, 3)]
    templates.append(stage.with_template(2))
    pids.append(stage.with_worker(4, 3, 2))
    for template, workers in zip(templates, (3, 1), strict=True):
        ends = 1 + contract.SLOTS + 2 * contract.SEATS + 1
        wanted = {"socket": ends, "stacks": 1, "pidfd": workers}
        await_that(partial(kinds, template), wanted)
        assert closed_on_exec(template)
    for pid in pids:
        assert kinds(pid) == {"socket": 1 + (1 + NEIGHBOURS) + 2 * contract.SEATS + 1, "stacks": 1}
        assert closed_on_exec(pid)


def a_worker_is_told_which_listeners_are_its_own(stage: Stage) -> None:
    writer = stage.blueprint.scoreboard.writer
    told = standin.OWN, standin.SHARED, standin.NEIGHBOURS
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as given:
        binds = [f"unix:@{os.getpid()}", f"fd://{os.dup(given.fileno())}", "127.0.0.1:0"]
        listeners = sockets.listen(binds, slots=3, backlog=8, uds_mode=0o600, owner=None)
        stage.blueprint = dataclasses.replace(stage.blueprint, listeners=listeners)
        stage.with_template()
        stage.with_workers(1, 0)
        stage.blueprint = dataclasses.replace(
            stage.blueprint,
            settings=msgspec.structs.replace(stage.blueprint.settings, balance="kernel"),
        )
        stage.with_template(2)
        stage.with_worker(3, 2, 2)
    listeners.close()
    said = [[writer(seat)[word] for word in told] for seat in (0, 1, 2)]
    assert said == [[1, 2, 2], [1, 2, 2], [1, 2, 0]]


def one_that_cannot_be_told_that_its_trial_is_over_is_told_to_leave(stage: Stage) -> None:
    """Else it would stay on trial for ever, and all others would take it for one of theirs."""
    stage.with_template()
    pid = stage.with_worker(1, 0, 1)
    os.kill(pid, signal.SIGSTOP)
    for _ in range(2000):  # more than its channel holds
        stage.host.withdraw_worker(1)
    stage.host.promote_worker(1)
    os.kill(pid, signal.SIGCONT)
    assert stage.until_exits(1) == [v.WorkerExited(1, 0)]


def with_one_that_waits(stage: Stage) -> tuple[list[int], socket.socket]:
    """Workers in the slots 0 and 1, their pids, and a connection in the queue of the first."""
    stage.with_template()
    pids = stage.with_workers(0, 1)
    stage.host.steer([1] + [0] * (contract.SLOTS - 1))
    address = stage.blueprint.listeners.by_slot[0][0].getsockname()
    return pids, socket.create_connection(address)


def others(stage: Stage, seat: int) -> list[object]:
    """The other ends of what waits in the inbox of ``seat``."""
    found = []
    while (taken := stage.blueprint.inboxes.take(seat)) is not None:
        with socket.socket(fileno=taken[1]) as connection:
            found.append(connection.getpeername())
    return found


def what_waits_for_who_hangs_is_given_to_another(stage: Stage) -> None:
    pids, client = with_one_that_waits(stage)
    with client:
        os.kill(pids[0], signal.SIGSTOP)
        stage.host.rescue((0,), (0,), (2,))
        assert stage.host.wait(stage.host.now()) == []
        assert others(stage, 1) == [client.getsockname()]


def what_waits_for_who_died_is_given_to_another(stage: Stage) -> None:
    _, client = with_one_that_waits(stage)
    with client:
        assert stage.blueprint.inboxes.give(0, Handed(Kind.FRESH), client.fileno())
        stage.host.kill_worker(1)
        stage.until_exits(1)
        stage.host.rescue((0,), (0,), (2,))
        assert stage.host.wait(stage.host.now()) == []
        assert len(others(stage, 1)) == 2


def fill(stage: Stage, seat: int) -> None:
    """Until its inbox takes nothing more."""
    one, other = socket.socketpair()
    with one, other:
        while stage.blueprint.inboxes.give(seat, Handed(Kind.FRESH), one.fileno()):
            pass


def while_nobody_has_room_the_host_rests_and_looks_again_by_itself(stage: Stage) -> None:
    _, client = with_one_that_waits(stage)
    with client:
        fill(stage, 1)
        stage.host.rescue((0,), (0,), (2,))
        before_s = time.process_time()
        stage.nothing_happens()
        assert time.process_time() - before_s < contract.QUIET_S / 3
        others(stage, 1)
        reader = stage.blueprint.inboxes.reader(1)

        def tell() -> None:
            select.select([reader], [], [])
            os.kill(os.getpid(), signal.SIGHUP)

        threading.Thread(target=tell).start()
        began = stage.host.now()
        assert stage.until(bool) == [v.Asked(v.Intent.RELOAD, "SIGHUP")]
        assert stage.host.now() < began + contract.PATIENCE_S / 2
        assert others(stage, 1) == [client.getsockname()]


def what_is_in_hand_is_not_kept_open_by_a_child(stage: Stage) -> None:
    _, client = with_one_that_waits(stage)
    inboxes = stage.blueprint.inboxes
    room, inboxes._room_bytes = inboxes._room_bytes, 2**30  # as if it filled up only now
    fill(stage, 1)
    stage.host.rescue((0,), (0,), (2,))
    stage.nothing_happens()
    inboxes._room_bytes = room
    template = stage.with_template(2)
    ends = 1 + contract.SLOTS + 2 * contract.SEATS + 1
    with client:  # of which it has a copy, as this test is the master
        await_that(partial(kinds, template), {"socket": ends + 1, "stacks": 1})


def nobody_dies_of_being_asked_for_stacks_however_early(stage: Stage) -> None:
    stage.host.start_template(1, stage.blueprint)
    for _ in range(20):
        stage.host.dump_stacks(1, None)
    stage.until(lambda events: v.TemplateBecameReady(1) in events)
    for worker in range(1, 21):
        stage.host.spawn_worker(worker, 0, 0, 1)
        events = stage.until(bool)
        for _ in range(20):
            stage.host.dump_stacks(1, worker)
        if v.WorkerBecameReady(worker) not in events:
            assert stage.until(bool) == [v.WorkerBecameReady(worker)]
        assert 'File "' in stacks_at_last(stage, worker)
        stage.host.kill_worker(worker)
        stage.until_exits(worker)
    assert stage.read_stacks(1, None).text != ""


def stacks_at_last(stage: Stage, worker: int) -> str:
    await_that(lambda: 'File "' in stage.read_stacks(1, worker).text, True)  # it comes in pieces
    return stage.read_stacks(1, worker).text


def stacks_name_the_line_that_hangs(stage: Stage) -> None:
    stage.set_scripts([Script.STUCK])
    stage.with_template()
    (pid,) = stage.with_workers(0)
    stage.until_stuck(1)
    text = stage.stacks(1, 1).text
    assert re.search(r'File ".*standin.py", line \d+ in hang\n', text)
    os.kill(pid, signal.SIGSTOP)
    await_that(lambda: stage.read_stacks(1, 1).state, "T")
    assert stage.stacks(1, 1) == v.StacksRead(1, 1, "", "T")


def a_crash_in_native_code_comes_with_its_stacks(stage: Stage) -> None:
    template = stage.with_template()
    pids = stage.with_workers(0, 1)
    assert stage.stacks(1, 1).text
    assert stage.stacks(1, 2).text
    os.kill(pids[0], signal.SIGSEGV)
    (crashed,) = stage.until_exits(1)
    assert isinstance(crashed, v.WorkerExited)
    assert crashed.status == -11
    assert crashed.stacks.startswith("Fatal Python error: Segmentation fault")
    assert "standin.py" in crashed.stacks
    stage.host.kill_worker(2)
    assert stage.until_exits(2) == [v.WorkerExited(2, -9)], "stacks asked for before are no crash"
    os.kill(template, signal.SIGABRT)
    (exited,) = stage.until_template_exits()
    assert isinstance(exited, v.TemplateExited)
    assert exited.status == -6
    assert "template.py" in exited.stacks


def standard_streams(pid: int) -> list[str]:
    return [descriptors(pid)[1], descriptors(pid)[2]]


def log_files_are_put_in_the_place_of_others_everywhere(stage: Stage) -> None:
    pids = [stage.with_template(1), stage.with_worker(1, 0, 1)]
    pids += [stage.with_template(2), stage.with_worker(2, 0, 2)]
    stage.host.spawn_worker(3, 1, 2, 2)  # may be forked before its template hears of it, or after
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as access:
        files = [descriptors()[file.fileno()] for file in (access, out)]
        stage.host.pass_on({2: out.fileno(), 1: access.fileno()})
    events = stage.until(lambda events: v.WorkerBecameReady(3) in events)
    pids += [event.pid for event in events if isinstance(event, v.WorkerForked)]
    for pid in pids:
        await_that(partial(standard_streams, pid), files)
        assert set(kinds(pid)) <= {"socket", "stacks", "pidfd"}


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
    stage.close()
    await_that(lambda: [pid for pid in pids if alive(pid)], [])


PRELOADED = """
import logging.config, socket, threading
logging.config.dictConfig({"version": 1})  # which switches off whoever logs already
threading.Thread(target=threading.Event().wait, name="poller", daemon=True).start()
here, there = socket.socketpair()
async def app(scope, receive, send): ...
"""


def what_preloading_loses_is_said_once_and_workers_work(stage: Stage) -> None:
    logging.basicConfig(format="%(levelname)s %(message)s")
    with tempfile.TemporaryDirectory() as directory, tempfile.TemporaryFile("w+") as errors:
        Path(directory, "preloaded.py").write_text(PRELOADED)
        settings = msgspec.structs.replace(
            stage.blueprint.settings, app="preloaded:app", app_dir=directory
        )
        stage.blueprint = dataclasses.replace(stage.blueprint, settings=settings, preload=True)
        stderr = os.dup(2)
        os.dup2(errors.fileno(), 2)
        stage.with_template()
        stage.with_workers(0, 1, 2)  # without a word about forks with threads
        os.dup2(stderr, 2)
        os.close(stderr)
        errors.seek(0)
        said = re.sub(r"[0-9]+", "N", errors.read())
    assert said == (
        'WARNING --preload: what "preloaded:app" started at import does not work in the workers:\n'
        '  thread "poller" running threading.Event.wait (THREADING)\n'
        "  descriptor N: socket pair\n"
        "  descriptor N: socket pair\n"
        f"{preload.ADVICE}\n"
    ).replace("THREADING", re.sub(r"[0-9]+", "N", threading.__file__) + ":N")


GROUPS = Path("/sys/fs/cgroup/memory")


def a_kill_for_want_of_memory_is_told_from_another(stage: Stage) -> None:
    """In a control group of version 1 made for it, which needs root; else there is no telling."""
    group = GROUPS / f"asgi-supervise-test-{os.getpid()}"
    home = re.findall(r"^\d+:memory:(.*)$", Path("/proc/self/cgroup").read_text(), re.MULTILINE)
    if not home or not os.access(GROUPS, os.W_OK):
        return
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(128 * 1024 * 1024))
        (group / "cgroup.procs").write_text(str(os.getpid()))
        made_of = msgspec.structs.replace(stage.blueprint.settings, app=standin.HUNGRY)
        stage.host.close()
        stage.host = PosixHost(
            stage.blueprint.scoreboard, stage.blueprint.listeners, stage.blueprint.inboxes
        )
        stage.with_template(1)
        stage.with_worker(1, 0, 1)
        stage.blueprint = dataclasses.replace(stage.blueprint, settings=made_of)
        stage.with_template(2)
        stage.host.spawn_worker(2, 1, 1, 2)
        (*_, exited) = stage.until_exits(2)
        assert exited == v.WorkerExited(2, -9, out_of_memory=True)
        stage.host.kill_worker(1)
        assert stage.until_exits(1) == [v.WorkerExited(1, -9, out_of_memory=False)]
        stage.host.close()
        stage.host = PosixHost(
            stage.blueprint.scoreboard, stage.blueprint.listeners, stage.blueprint.inboxes
        )
        only_child(stage, -1)
    finally:
        (GROUPS / home[0].lstrip("/") / "cgroup.procs").write_text(str(os.getpid()))
        group.rmdir()


SCENARIOS: dict[str, Callable[[Stage], None]] = {
    scenario.__name__: scenario
    for scenario in (
        strays_are_reaped,
        a_stray_does_not_hide_a_worker_nor_is_a_worker_taken_for_one,
        signals_come_as_what_they_ask_for,
        a_resized_terminal_does_not_disturb,
        no_signal_is_lost_in_a_storm,
        a_signal_to_a_child_is_not_taken_for_one_to_the_master,
        without_descriptors_everything_is_refused_and_later_goes_on,
        a_worker_whose_pidfd_finds_no_place_is_killed_and_refused,
        a_template_without_descriptors_refuses_and_later_goes_on,
        nothing_is_left_open_by_the_dead,
        nothing_is_kept_for_good_of_the_dead,
        a_child_holds_only_what_is_its_own,
        a_worker_is_told_which_listeners_are_its_own,
        what_waits_for_who_hangs_is_given_to_another,
        what_waits_for_who_died_is_given_to_another,
        one_that_cannot_be_told_that_its_trial_is_over_is_told_to_leave,
        while_nobody_has_room_the_host_rests_and_looks_again_by_itself,
        what_is_in_hand_is_not_kept_open_by_a_child,
        nobody_dies_of_being_asked_for_stacks_however_early,
        stacks_name_the_line_that_hangs,
        a_crash_in_native_code_comes_with_its_stacks,
        log_files_are_put_in_the_place_of_others_everywhere,
        a_pid_is_reaped_even_if_it_was_stopped_and_killed,
        a_closed_host_leaves_nobody,
        what_preloading_loses_is_said_once_and_workers_work,
        a_kill_for_want_of_memory_is_told_from_another,
    )
}

if __name__ == "__main__":
    stage = contract.on_posix_host()
    try:
        SCENARIOS[sys.argv[1]](stage)
    finally:
        if sys.argv[1] != a_closed_host_leaves_nobody.__name__:
            stage.close()
