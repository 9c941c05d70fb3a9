from __future__ import annotations

import json
import os
import re
import signal
import socket
import time
from pathlib import Path

import psutil
import pytest

from tests.process.service import (
    Service,
    answer,
    connected,
    request,
    send,
    state,
    until,
)

pytestmark = pytest.mark.process
CLIENTS = 60


@pytest.mark.parametrize("workers", [1, 2])
def test_what_waits_in_the_queue_of_a_killed_worker_is_served_by_the_next(workers: int) -> None:
    """Also where nobody else may take it."""
    with Service("-w", str(workers), "--balance", "off") as service:
        address = service.serving()
        victim = service.workers()[0]
        os.kill(victim, signal.SIGSTOP)
        until(lambda: state(victim) == "T", "the worker is stopped")
        clients = [connected(address) for _ in range(CLIENTS)]
        for client in clients:
            send(client, "/")
        os.kill(victim, signal.SIGKILL)
        answers = [json.loads(answer(client)) for client in clients]
        for client in clients:
            client.close()
        successor = service.workers()[0]
    by_slot = {slot: {a["pid"] for a in answers if a["slot"] == slot} for slot in range(workers)}
    assert len(answers) == CLIENTS
    assert by_slot[0] == {successor}  # some waited there, and nobody else served them
    assert victim != successor
    assert f"pid={victim} was killed by SIGKILL after" in service.log


def test_what_waits_in_the_queue_of_a_stopped_worker_is_served_by_the_others() -> None:
    with Service("-w", "2") as service:
        address = service.serving()
        victim, other = service.workers()[0], service.workers()[1]
        os.kill(victim, signal.SIGSTOP)
        until(lambda: state(victim) == "T", "the worker is stopped")
        clients = [connected(address) for _ in range(CLIENTS)]
        for client in clients:
            send(client, "/")
        answers = [json.loads(answer(client)) for client in clients]
        for client in clients:
            client.close()
        assert {a["pid"] for a in answers} == {other}
        os.kill(victim, signal.SIGCONT)


def test_a_killed_worker_cuts_its_own_requests_and_no_others() -> None:
    with Service("-w", "2") as service:
        address = service.serving()
        clients = [connected(address) for _ in range(20)]
        victim = service.workers()[0]
        for client in clients:
            send(client, "/slow/4")
        for _ in clients:
            service.wait_line("slow request begins")
        os.kill(victim, signal.SIGKILL)
        served = [json.loads(body) for body in map(answer_or_nothing, clients) if body]
        for client in clients:
            client.close()
        assert {a["slot"] for a in served} == {1}
        assert service.ready()[0] in (0, 1)
        until(lambda: service.workers().get(0, victim) != victim, "it is replaced")
        assert json.loads(request(address))["slot"] in (0, 1)


def answer_or_nothing(client: socket.socket) -> str:
    try:
        return answer(client)
    except (ConnectionResetError, AssertionError):
        return ""


@pytest.mark.parametrize("case", ["idle", "blocked", "stuck at import", "deaf client"])
def test_a_killed_master_leaves_no_process_and_no_port(case: str) -> None:
    graceful_s = 2.0
    words = ["-w", "4", "--graceful-timeout", f"{graceful_s:g}"]
    app = "tests.process.stuck:app" if case == "stuck at import" else "tests.process.apps:app"
    with Service(*words, app=app) as service, socket.socket() as client:
        if case == "stuck at import":
            service.wait_line("stuck at import")
            for slot in (1, 2, 3):
                service.wait_line(rf"slot={slot} .* ready$", anywhere=True)
            (address,) = service.listening()
        else:
            address = service.serving()
            client.connect(address)
            if case == "blocked":
                send(client, "/block/1000")
                service.wait_line("^blocked$")
            elif case == "deaf client":
                send(client, "/slow/1000")
                service.wait_line("slow request begins")
        killed_at = time.monotonic()
        service.process.kill()
        assert service.ended(within_s=graceful_s + 5) == -signal.SIGKILL
        assert time.monotonic() - killed_at < graceful_s + 3  # nobody waits for ever
        with socket.create_server(address):
            pass


def test_workers_outlive_their_template_and_are_still_replaced() -> None:
    with Service("-w", "2") as service:
        address = service.serving()
        before, template = service.workers(), service.template()
        os.kill(template, signal.SIGKILL)
        service.wait_line(f"template gen=1 pid={template} was killed by SIGKILL; its workers go on")
        assert json.loads(request(address))["pid"] in before.values()
        until(lambda: service.workers() == before, "the workers stayed")
        os.kill(before[1], signal.SIGKILL)
        assert service.ready()[0] == 1
        assert service.workers()[0] == before[0]
        assert service.template() != template
        # The new template does not know the old worker; the master does.
        service.process.send_signal(signal.SIGTERM)
        assert service.ended() == 0


def test_template_and_worker_killed_in_one_moment() -> None:
    with Service("-w", "2") as service:
        address = service.serving()
        before, template = service.workers(), service.template()
        os.kill(template, signal.SIGKILL)
        os.kill(before[0], signal.SIGKILL)
        assert service.ready()[0] == 0
        assert json.loads(request(address))["slot"] in (0, 1)


def test_a_hung_template_is_found_out_when_it_is_needed() -> None:
    with Service("-w", "2", "--startup-timeout", "5", errors_expected=True) as service:
        service.serving()
        template = service.template()
        os.kill(template, signal.SIGSTOP)
        os.kill(service.workers()[0], signal.SIGKILL)
        service.wait_line(f"template gen=1 pid={template} does not fork what it is asked for")
        assert service.ready()[0] == 0
        assert service.template() != template


def test_a_killed_master_whose_template_was_killed_before() -> None:
    """Only the workers' own lifelines are left to end them."""
    with Service("-w", "2", "--graceful-timeout", "2") as service:
        service.serving()
        os.kill(service.process.pid, signal.SIGSTOP)  # so that it makes no new template
        until(lambda: state(service.process.pid) == "T", "the master is stopped")
        os.kill(service.template(), signal.SIGKILL)
        service.process.kill()
        service.ended(within_s=5)


def test_a_worker_of_a_dead_template_is_no_orphan_either() -> None:
    """It is stuck, so its lifeline does not end it; the new template does."""
    with Service("--graceful-timeout", "2") as service, socket.socket() as client:
        client.connect(service.serving())
        template = service.template()
        os.kill(template, signal.SIGKILL)
        service.wait_line("its workers go on")
        until(lambda: service.template() != template, "there is a new template")
        send(client, "/block/1000")
        service.wait_line("^blocked$")
        service.process.kill()
        assert service.ended(within_s=5) == -signal.SIGKILL


def test_a_crash_loop_with_nobody_serving_ends_with_70() -> None:
    words = ["--max-restarts", "3", "--log-level", "info"]
    with Service(*words, app="tests.process.broken:dies_later", errors_expected=True) as service:
        assert service.ended() == 70
    assert "serving on" in service.log
    assert "no worker serves and 3 processes died within 60 s" in service.log


def test_one_worker_that_crashes_for_ever_does_not_stop_the_others() -> None:
    words = ["-w", "2", "--max-restarts", "1", "--log-level", "info"]
    app = "tests.process.broken:dies_in_slot_0"
    with Service(*words, app=app, errors_expected=True) as service:
        address = service.serving()
        for _ in range(4):
            service.wait_line(r"slot=0 gen=1 pid=\d+ exited with status 9")
        until(lambda: answering_slot(address) == 1, "the other one serves")


def answering_slot(address: tuple[str, int]) -> int | None:
    """``None`` where the connection lands in the queue of the one that crashes."""
    try:
        return int(json.loads(request(address, timeout_s=0.5))["slot"])
    except (OSError, AssertionError):
        return None


def test_strays_of_the_application_are_reaped() -> None:
    with Service("-w", "2") as service:
        address = service.serving()
        for _ in range(5):
            request(address, "/orphan")
        master = psutil.Process(service.process.pid)
        ours = {service.template(), *service.workers().values()}
        until(lambda: {child.pid for child in master.children()} == ours, "strays are gone")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a pid namespace")
def test_it_can_be_process_1() -> None:
    with Service("-w", "2", prefix=["unshare", "--pid", "--fork", "--mount-proc"]) as service:
        address = service.serving()
        assert re.search(r"\(pid 1\)", service.log)
        for _ in range(3):
            request(address, "/orphan")
        init = psutil.Process(service.process.pid).children()[0]
        until(lambda: len(init.children()) == 3, "template and workers are left")
        init.send_signal(signal.SIGTERM)
        assert service.ended() == 0


def test_the_master_keeps_no_descriptor_of_the_dead() -> None:
    with Service("-w", "2") as service:
        service.serving()
        master = Path(f"/proc/{service.process.pid}/fd")
        template = Path(f"/proc/{service.template()}/fd")
        # A template learns of deaths when it forks, so compare after a first replacement.
        counts = []
        for _ in range(3):
            os.kill(service.workers()[0], signal.SIGKILL)
            service.ready()
            counts.append((len(list(master.iterdir())), len(list(template.iterdir()))))
        assert len(set(counts)) == 1, counts


def test_a_worker_told_to_end_by_others_is_replaced_before_it_has_finished() -> None:
    with Service("-w", "1") as service:
        address = service.serving()
        victim = service.workers()[0]
        with connected(address) as client:
            send(client, "/slow/6")
            service.wait_line("slow request begins")
            os.kill(victim, signal.SIGTERM)
            service.wait_line(
                rf"pid={victim} is unhealthy: it got SIGTERM, and not from the master"
            )
            service.wait_line(r"worker slot=0 gen=1 pid=\d+ ready")
            assert json.loads(request(address))["pid"] != victim
            assert state(victim) in ("S", "R"), "it still has a request to finish"
            assert json.loads(answer(client))["pid"] == victim
        service.wait_line(rf"pid={victim} exited with status 0")
