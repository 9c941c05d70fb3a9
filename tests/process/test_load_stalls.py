"""Workers that hang, or say that they are not well, while a crowd is served.

Allowed: clients of a worker that hangs wait; of one that is killed for it, connections are cut.
"""

from __future__ import annotations

import os
import re
import signal
import time

import pytest

from tests.process.loaded import spend, under_load
from tests.process.service import connected, request, send, state, until

pytestmark = [pytest.mark.process, pytest.mark.slow]


@pytest.mark.parametrize("how", ["sleep", "c", "regex"])
def test_the_line_at_which_the_loop_hangs_is_logged(how: str) -> None:
    words = ["--stall-warn", "0.25"]
    with under_load(f"a loop blocked in {how}", *words) as (service, crowd, _):
        before = service.workers()
        with connected((crowd.plan.host, crowd.plan.port)) as client:
            send(client, f"/block/{how}")
            line = service.wait_line(
                r"WARNING worker slot=(\d) gen=1 pid=(\d+): its loop (is|was) stuck for (\S+) s "
                rf"at (\S+):(\d+) in block_in_{how}$"
            )
            assert client.recv(1)  # it was answered in the end
        assert service.workers() == before
        result = crowd.stop()
    assert before[int(line[1])] == int(line[2])
    assert line[5].endswith("releases.py")
    assert function_at(line[5], int(line[6])) == f"block_in_{how}"
    assert re.search(r"^(Current thread|Thread|Stack)", service.log[line.end() :], re.MULTILINE)
    assert result.lost == 0


def function_at(path: str, number: int) -> str:
    with open(path) as source:
        lines = source.read().splitlines()[:number]
    return next(found[1] for text in reversed(lines) if (found := re.match(r"def (\w+)", text)))


def test_a_deadlocked_worker_is_replaced() -> None:
    words = ["--worker-timeout", "2", "--stall-warn", "1"]
    with under_load("a deadlock", *words, errors_expected=True) as (service, crowd, _):
        with connected((crowd.plan.host, crowd.plan.port)) as client:
            send(client, "/block/lock")
            line = service.wait_line(
                r"ERROR worker slot=(\d) gen=1 pid=(\d+): its loop is stuck for \S+ s "
                r"\(worker-timeout\) at \S+releases\.py:\d+ in block_in_lock; aborting it"
            )
            died_at = time.monotonic()
            service.wait_line(rf"pid={line[2]} was killed by SIGABRT")
            service.wait_line(rf"worker slot={line[1]} gen=1 pid=\d+ ready")
        spend(0.5)
        assert not crowd.stop().beyond({int(line[2]): died_at})
    assert service.log.count("aborting it") == 1


def test_a_machine_that_slept_judges_nobody() -> None:
    words = ["--worker-timeout", "2", "--stall-warn", "1"]
    with under_load("SIGSTOP of all for 5 s", *words) as (service, crowd, _):
        before = service.workers()
        os.killpg(service.process.pid, signal.SIGSTOP)
        until(lambda: all(state(pid) == "T" for pid in before.values()), "all are stopped")
        spend(5)
        os.killpg(service.process.pid, signal.SIGCONT)
        spend(3)
        assert service.workers() == before
        assert crowd.stop().lost == 0
    assert not re.search(r"stuck for ([2-9]|\d\d)|aborting", service.log)


def test_a_worker_that_is_not_well_is_replaced_before_it_leaves() -> None:
    words = ["--health-path", "/healthz", "--health-interval", "0.2", "--health-failures", "2"]
    with under_load("a sick worker", *words) as (service, crowd, _):
        sick = int(re.search(r"pid=(\d+)", request((crowd.plan.host, crowd.plan.port), "/sick"))[1])  # type: ignore[index]
        line = service.wait_line(
            rf"worker slot=(\d) gen=1 pid={sick} is unhealthy: .*500.*; replac"
        )
        service.wait_line(rf"worker slot={line[1]} gen=1 pid=\d+ ready$")
        service.wait_line(rf"worker slot={line[1]} gen=1 pid={sick} exited with status 0")
        assert sick not in service.workers().values()
        assert len(service.workers()) == 2
        assert crowd.stop().unnoticed


def test_load_balancers_are_given_time_to_turn_away() -> None:
    """During the shutdown delay all is served but health checks from outside."""
    words = ["--shutdown-delay", "2", "--health-path", "/healthz"]
    with under_load("shutdown delay", *words, stops=True, may_close=[1001]) as (service, crowd, _):
        address = crowd.plan.host, crowd.plan.port
        assert request(address, "/healthz")
        begun = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        until(lambda: status_of(address, "/healthz") == 503, "health checks fail")
        spend(1)
        assert crowd.so_far().lost == 0
        assert status_of(address, "/") == 200
        assert service.ended() == 0
        assert time.monotonic() - begun > 2
        result = crowd.stop()
    assert result.lost == result.refused > 0


def status_of(address: tuple[str, int], path: str) -> int:
    with connected(address) as client:
        send(client, path)
        return int(client.recv(4096).split()[1])
