"""Reloads under load: nobody may notice one, whether it succeeds or not.

Allowed: WebSockets are closed with 1012 and come again; a service that is stopped meanwhile refuses
new connections. Nothing else: whoever is kept alive never has to connect again.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.process.loaded import FULL, kill, spend, under_load
from tests.process.service import OUTCOME, Service, request, until

pytestmark = [pytest.mark.process, pytest.mark.slow]

BAKE = ["--bake-time", "0.3"]
RELOADS, WITHIN_S = 6, 22.0


def preloading(preload: bool) -> list[str]:
    return ["--preload"] if preload else []


def generations(service: Service) -> set[int]:
    return {one.generation for one in service.crew()}


@pytest.mark.parametrize("preload", [False, True])
def test_six_reloads_in_22_seconds(preload: bool) -> None:
    title = f"{RELOADS} reloads in {WITHIN_S:g} s{' with --preload' * preload}"
    words = [*BAKE, *preloading(preload)]
    with under_load(title, *words, plan=FULL, workers=4) as (service, crowd, releases):
        begun = time.monotonic()
        for number in range(RELOADS):
            spend(max(0.0, begun + number * WITHIN_S / RELOADS - time.monotonic()))
            releases.install(f"v{number + 2}")
            service.hang_up()
        spend(max(0.0, begun + WITHIN_S - time.monotonic()))
        crowd.until(lambda seen: f"v{RELOADS + 1}" in seen.versions, "the last version serves")
        result = crowd.stop()
    assert result.unnoticed
    assert result.opened["kept-alive"] == FULL.kept
    assert result.renewals > 0
    assert service.log.count("reload complete") >= 3
    assert "reload failed" not in service.log


FAULTS = {
    "import error": "this release cannot be imported",
    "lifespan error": "version v2 finds no database",
    "hang at import": r"not ready within 5 s \(startup-timeout\); it hangs at .*shop\.py:3 in",
    "hang at start": r"did not complete lifespan startup within \S+ s \(see --startup-timeout\)",
    "crash": r"exited with status 9 after \S+ s",
}


@pytest.mark.parametrize("preload", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_release_is_refused_and_the_next_good_one_is_not(
    fault: str, preload: bool
) -> None:
    words = ["--bake-time", "2", "--startup-timeout", "5", *preloading(preload)]
    title = f"reload with {fault}{', --preload' * preload}"
    with under_load(title, *words, errors_expected=True) as (service, crowd, releases):
        before = service.crew()
        releases.install("v2", fault)
        assert service.reload()["outcome"] == "failed"
        service.wait_line(FAULTS[fault], anywhere=True)
        assert set(service.crew()) >= set(before)
        seen = set(crowd.so_far().versions)
        assert seen <= {"v1", "v2"} if fault == "crash" else seen == {"v1"}
        releases.install("v3")
        assert service.reload()["outcome"] == "complete"
        crowd.until(lambda seen: "v3" in seen.versions, "the next release serves")
        result = crowd.stop()
    assert service.log.count("reload failed, generation 1 serves on: ") == 1
    if fault == "crash":  # the canary served, so what it served is cut
        assert not [one for one in result.failures if one.pid in {man.pid for man in before}]
    else:
        assert result.unnoticed


def test_settings_that_cannot_be_read_change_nothing(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text('bake-time = "0.3 s"\nheader = ["x-settings: first"]\n')
    words = ["--config", str(path)]
    with under_load("broken settings", *words, errors_expected=True) as (service, crowd, releases):
        before = service.crew()
        releases.install("v2")
        for text in ("workers = [", "head-timeout = 'often'\n", "nonsense = 1\n"):
            path.write_text(text)
            assert service.reload()["outcome"] == "failed"
        path.unlink()
        assert service.reload()["outcome"] == "failed"
        assert service.crew() == before
        assert set(crowd.so_far().versions) == {"v1"}
        path.write_text('bake-time = "0.1 s"\n')
        assert service.reload()["outcome"] == "complete"
        assert "watched for 0.1 s" in service.log
        assert crowd.stop().unnoticed


def test_a_hundred_reloads_in_a_second_are_harmless() -> None:
    with under_load("HUP x 100 in a second", *BAKE) as (service, crowd, releases):
        releases.install("v2")
        most = 0
        for _ in range(100):
            service.hang_up()
            most = max(most, len(service.crew()))
            spend(0.005)
        while "reload complete: generation 3" not in service.log:  # the last HUP came later than 2
            service.wait_line(OUTCOME)
            most = max(most, len(service.crew()))
        crowd.until(lambda seen: "v2" in seen.versions, "the new version serves")
        result = crowd.stop()
    assert result.unnoticed
    assert most <= 3
    assert "reload failed" not in service.log


MOMENTS = {
    "trying": "trying generation 2",
    "baking": "its first worker is ready and watched",
    "rolling": "generation 2 accepted",
    "half-way": r"worker slot=\d gen=2 .* ready(?s:.*)gen=2 .* ready",
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_told_to_stop_during_a_reload_it_stops(moment: str) -> None:
    """At once, and what it has begun to serve it serves."""
    words = ["--bake-time", "30" if moment == "baking" else "0.3"]
    with under_load(
        f"TERM while {moment}", *words, workers=4, stops=True, may_close=[1001, 1012]
    ) as (service, crowd, releases):
        releases.install("v2", "hang at start" if moment == "trying" else "")
        service.hang_up()
        service.wait_line(MOMENTS[moment])
        service.process.send_signal(signal.SIGTERM)
        assert service.ended(within_s=15) == 0
        result = crowd.stop()
    assert result.lost == result.refused > 0


@pytest.mark.parametrize("generation", [1, 2])
def test_the_template_is_killed_during_a_reload(generation: int) -> None:
    """The new one's death may end the reload; then the old version serves on."""
    title = f"SIGKILL of the template of generation {generation} during a reload"
    with under_load(title, *BAKE, workers=3, errors_expected=True) as (service, crowd, releases):
        releases.install("v2")
        service.hang_up()
        service.wait_line("trying generation 2")
        os.kill(service.template(generation), signal.SIGKILL)
        service.wait_line(OUTCOME)
        releases.install("v3")
        assert service.reload()["outcome"] == "complete"
        crowd.until(lambda seen: "v3" in seen.versions, "the next release serves")
        until(lambda: len(generations(service)) == 1, "the old ones have left")
        assert crowd.stop().unnoticed


def test_a_killed_worker_in_the_middle_of_a_reload_is_one_of_the_new() -> None:
    with under_load("SIGKILL of a worker during a reload", *BAKE, workers=4) as (
        service,
        crowd,
        releases,
    ):
        releases.install("v2")
        service.hang_up()
        service.wait_line("generation 2 accepted")
        victim = next(one.pid for one in service.crew() if one.generation == 1)
        deaths = kill(victim)
        assert service.wait_line(OUTCOME)["outcome"] == "complete"
        until(lambda: generations(service) == {2}, "the old ones have left")
        assert not crowd.stop().beyond(deaths)


def test_a_version_with_another_number_of_workers_waits_for_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text('bake-time = "0.1 s"\n')
    with under_load("workers changed", "--config", str(path)) as (service, crowd, releases):
        del releases
        host, port = crowd.plan.host, crowd.plan.port
        path.write_text('bake-time = "0.1 s"\nheader = ["x-settings: second"]\n')
        assert service.reload()["outcome"] == "complete"
        assert request((host, port))
        assert crowd.stop().unnoticed
