"""A service whose application runs on trio, while a crowd is served."""

from __future__ import annotations

import psutil
import pytest

from tests.process.loaded import complaints, spend, under_load
from tests.process.service import Service, connected, request, send, until
from tests.process.test_load_stalls import function_at

pytestmark = [pytest.mark.process, pytest.mark.slow]

ON_TRIO = ["--loop", "trio"]


@pytest.mark.parametrize("preload", [False, True])
def test_nobody_notices_reloads(preload: bool) -> None:
    words = [*ON_TRIO, "--bake-time", "0.3", *["--preload"] * preload]
    title = f"3 reloads on trio{' with --preload' * preload}"
    with under_load(title, *words) as (service, crowd, releases):
        for version in ("v2", "v3", "v4"):
            spend(1)
            releases.install(version)
            assert service.reload()["outcome"] == "complete"
        crowd.until(lambda seen: "v4" in seen.versions, "the last version serves")
        result = crowd.stop()
    assert result.unnoticed
    assert result.opened["kept-alive"] == crowd.plan.kept
    assert not complaints(service.log)


def test_the_line_at_which_a_task_of_trio_hangs_is_logged() -> None:
    words = [*ON_TRIO, "--stall-warn", "0.25"]
    with under_load("a blocked trio", *words) as (service, crowd, _):
        before = service.workers()
        with connected((crowd.plan.host, crowd.plan.port)) as client:
            send(client, "/block/sleep")
            line = service.wait_line(
                r"WARNING worker slot=(\d) gen=1 pid=(\d+): its loop (is|was) stuck for (\S+) s "
                r"at (\S+):(\d+) in block_in_sleep$"
            )
            assert client.recv(1)  # it was answered in the end
        assert service.workers() == before
        assert crowd.stop().lost == 0
    assert before[int(line[1])] == int(line[2])
    assert line[5].endswith("releases.py")
    assert function_at(line[5], int(line[6])) == "block_in_sleep"


def test_a_worker_that_nobody_uses_rests() -> None:
    """No thread, and as few turns as on any other loop: one tick a second."""
    with Service(*ON_TRIO, "-w", "1", app="tests.process.on_trio:app") as service:
        address = service.serving()
        assert request(address, "/once") == "GET /once"
        (pid,) = service.workers().values()
        worker = psutil.Process(pid)
        # Threads of the application's own, which trio keeps for ten seconds.
        until(lambda: worker.num_threads() == 1, "no thread is left")
        before = worker.num_ctx_switches().voluntary, sum(worker.cpu_times()[:2])
        spend(5)
        after = worker.num_ctx_switches().voluntary, sum(worker.cpu_times()[:2])
        assert after[0] - before[0] < 20
        assert after[1] - before[1] < 0.1


def test_a_worker_whose_trio_crashes_is_replaced_and_says_why() -> None:
    words = [*ON_TRIO, "-w", "2"]
    with Service(*words, app="tests.process.on_trio:app", errors_expected=True) as service:
        address = service.serving()
        before = set(service.workers().values())
        with connected(address) as client:
            send(client, "/crash")
            service.wait_line(r"ERROR trio has crashed, and this worker ends: LookupError: of a")
            service.wait_line("in crash$")
            assert client.recv(100).startswith(b"HTTP/1.1 500 ")
        until(lambda: len(set(service.workers().values()) - before) == 1, "another takes over")
        assert request(address, "/") == "GET /"
    assert service.log.count("trio has crashed, and this worker ends") == 1
