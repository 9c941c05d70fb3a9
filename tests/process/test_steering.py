"""New connections go where somebody accepts them, as far as the kernel can be told."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.process.boards import Board
from tests.process.faults import failing, needs_strace
from tests.process.service import Service, connected, request, send, state, until

pytestmark = pytest.mark.process
CLIENTS = 60
USERS = 4
SOON_S = 1.5


def asked(address: tuple[str, int], clients: int) -> Counter[int]:
    """Who answers new connections, one after the other, each within moments."""
    slots: Counter[int] = Counter()
    for _ in range(clients):
        began = time.monotonic()
        slots[json.loads(request(address))["slot"]] += 1
        assert time.monotonic() - began < SOON_S
    return slots


def test_a_stopped_worker_gets_no_new_connections_until_it_goes_on() -> None:
    with Service("-w", "2") as service:
        address = service.serving()
        victim = service.workers()[0]
        request(address)
        os.kill(victim, signal.SIGSTOP)
        until(lambda: state(victim) == "T", "the worker is stopped")
        service.wait_line("worker slot=0 .* its loop is stuck .* because it was stopped")
        assert asked(address, CLIENTS) == {1: CLIENTS}
        os.kill(victim, signal.SIGCONT)
        service.wait_line("worker slot=0 .* its loop turns again")
        until(lambda: asked(address, 1) == {0: 1}, "it is asked again")


def test_a_slot_whose_worker_starts_gets_no_new_connections() -> None:
    with Service("-w", "3", environment={"SLOW_IMPORT_S": "3"}) as service:
        address = service.serving()
        victim = service.workers()[1]
        os.kill(victim, signal.SIGKILL)
        until(lambda: service.workers().get(1, victim) != victim, "another starts")
        successor = service.workers()[1]
        os.kill(successor, signal.SIGSTOP)  # so that it starts for as long as we look
        until(lambda: state(successor) == "T", "it is stopped")
        assert set(asked(address, CLIENTS)) == {0, 2}
        os.kill(successor, signal.SIGCONT)
        service.wait_line(f"worker slot=1 gen=1 pid={successor} ready")
        until(lambda: asked(address, 1) == {1: 1}, "it is asked again")


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL])
def test_dear_connections_are_served_also_without_the_worker_whose_queue_they_gather_in(
    how: signal.Signals,
) -> None:
    """What it has in hand waits, or is cut; what is in its queue is served by the others."""
    with Service("-w", "3") as service, ThreadPoolExecutor(USERS) as pool:
        address = service.serving()
        over = threading.Event()
        users = [pool.submit(burning, address, over) for _ in range(USERS)]
        try:
            board = Board(service)
            until(lambda: board.total("gathers") == 3, "they gather")
            time.sleep(SOON_S)  # for the master to have looked, so that all come to slot 0
            victim = service.workers()[0]
            os.kill(victim, how)
            time.sleep(SOON_S)
            if how is signal.SIGSTOP:
                os.kill(victim, signal.SIGCONT)
            else:
                service.wait_line(f"pid={victim} was killed by SIGKILL")
            until(lambda: board.total("gathers") == 3, "they gather again")
        finally:
            over.set()
        counts = [user.result() for user in users]
    for cut, answers in counts:
        assert answers > 3, "each goes on"
        assert cut <= (how is signal.SIGKILL), "at most what was in its hands"


def burning(address: tuple[str, int], over: threading.Event) -> tuple[int, int]:
    """One who asks for something dear again and again: how often it was cut off, and answered."""
    cut = answers = 0
    while not over.is_set():
        with connected(address) as client:
            try:
                send(client, "/burn/0.02")
                served = bool(client.recv(1))
            except ConnectionError:
                served = False
        answers += served
        cut += not served
    return cut, answers


@needs_strace
def test_where_the_kernel_does_not_let_us_it_is_said_once() -> None:
    with Service("-w", "2") as service:
        address = service.serving()
        with failing(service.process.pid, "setsockopt", "error=EPERM") as fault:
            for _ in range(2):
                victim = service.workers()[0]
                os.kill(victim, signal.SIGKILL)
                service.wait_line(f"pid={victim} was killed by SIGKILL")
                service.wait_line("worker slot=0 gen=1 .* ready")
            assert fault.count() == 1, "it is not tried again"
        assert request(address)
    assert service.log.count("cannot steer new connections: Operation not permitted") == 1
