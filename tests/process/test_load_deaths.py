"""What clients see when processes die, hang, or are told to stop, while a crowd is served.

Allowed: a killed worker cuts its own connections, and nothing else; who asks a worker that hangs
waits; a service that stops refuses new connections once its sockets are closed.
"""

from __future__ import annotations

import os
import signal

import pytest

from tests.process.loaded import FULL, kill, spend, stopped, under_load
from tests.process.service import until

pytestmark = [pytest.mark.process, pytest.mark.slow]


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
