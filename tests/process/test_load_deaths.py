"""What clients see when processes die, hang, or are told to stop, while a crowd is served.

Allowed: a killed worker cuts its own connections, and nothing else; who asks a worker that hangs
waits; a service that stops refuses new connections once its sockets are closed.
"""

from __future__ import annotations

import contextlib
import os
import signal

import pytest

from tests.process.loaded import FULL, kill, spend, stopped, under_load
from tests.process.service import Service, connected, leaves, until

pytestmark = [pytest.mark.process, pytest.mark.slow]

REQUEST = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"


def test_a_killed_worker_cuts_only_its_own_connections() -> None:
    with under_load("SIGKILL of two workers", workers=4, plan=FULL) as (service, crowd, _):
        deaths: dict[int, float] = {}
        for slot in (0, 2):
            victim = service.workers()[slot]
            deaths |= kill(victim)
            service.wait_line(rf"slot={slot} .*pid={victim} was killed by SIGKILL")
            service.wait_line(rf"slot={slot} .* ready$")
        spend(1)
        result = crowd.stop()
    assert not result.beyond(deaths)
    assert result.lost + result.reconnects > 0


def test_a_stopped_worker_lets_its_clients_wait() -> None:
    with under_load("SIGSTOP of a worker for 5 s", plan=FULL, workers=4) as (service, crowd, _):
        before = service.workers()
        with stopped(before[1]):
            spend(5)
        spend(0.5)
        result = crowd.stop()
        assert service.workers() == before
    assert result.lost == 0
    assert 4900 < result.worst_ms < 9000


@pytest.mark.parametrize("how", ["TERM", "INT"])
def test_a_service_that_stops_loses_nothing_it_has_begun(how: str) -> None:
    """New connections are refused once the sockets are closed; WebSockets are closed with 1001."""
    with under_load(f"SIG{how}", workers=4, plan=FULL, stops=True, may_close=[1001]) as (
        service,
        crowd,
        _,
    ):
        service.process.send_signal(signal.Signals[f"SIG{how}"])
        assert service.ended() == 0
        result = crowd.stop()
    assert result.lost == result.refused > 0


def test_the_template_is_killed() -> None:
    with under_load("SIGKILL of the template") as (service, crowd, _):
        template = service.template()
        os.kill(template, signal.SIGKILL)
        service.wait_line("its workers go on")
        until(lambda: service.template() != template, "there is a new template")
        spend(0.5)
        assert crowd.stop().lost == 0


def test_what_was_sent_to_a_stopped_worker_is_answered_though_its_time_is_over() -> None:
    """It was leaving, and woke up when it should have been gone, but had not been killed yet."""
    words = ["-w", "1", "--bake-time", "0.1", "--graceful-timeout", "8", "--shutdown-reserve", "4"]
    words += ["--balance", "off"]  # else they would have gone to its successor
    with Service(*words) as service, contextlib.ExitStack() as stack:
        address = service.serving()
        leaving = service.workers()[0]
        clients = [stack.enter_context(connected(address)) for _ in range(10)]
        for client in clients:
            client.sendall(REQUEST)
            assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
        service.hang_up()
        until(lambda: leaves(leaving), "it leaves")
        with stopped(leaving):
            for client in clients:
                client.sendall(REQUEST)
            spend(4.5)
        assert [client.recv(4096)[:13] for client in clients] == [b"HTTP/1.1 200 "] * 10
        service.wait_line("reload complete")
