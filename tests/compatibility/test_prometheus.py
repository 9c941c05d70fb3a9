"""Prometheus: ``make_asgi_app`` mounted, prometheus-fastapi-instrumentator and starlette-exporter
around streams and errors; multi-process mode: sums over all workers, also after one was killed, and
with ``--preload``.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.compatibility.serving import PATIENCE_S, WORKERS, Site, serving

pytestmark = pytest.mark.process


@pytest.fixture(params=[(), ("--preload",)], ids=["each", "preload"])
def site(files: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    environ = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    with serving("prometheus_site:app", files, *request.param, **environ) as found:
        yield found
        found.stop()
        # With --preload there is one more: of the process that imported the application.
        workers = set(re.findall(r"pid=(\d+) ready", found.log))
        left = {path.stem.rpartition("_")[2] for path in tmp_path.glob("gauge_live*")}
        assert not left & workers
        assert len(left) == bool(request.param)


def metrics(site: Site, path: str = "/metrics/") -> dict[str, float]:
    answer = httpx.get(f"{site.url}{path}", timeout=PATIENCE_S)
    assert answer.headers["content-type"].startswith("text/plain; version=")
    lines = (line for line in answer.text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def visit_all(site: Site) -> tuple[int, set[str]]:
    """New connections until every worker has answered; how many that took, and which those are."""
    pids: set[str] = set()
    for count in range(1, 400):
        pids.add(httpx.get(site.url, timeout=PATIENCE_S).text)
        if len(pids) == WORKERS:
            return count, pids
    pytest.fail(f"only {pids} answered 400 new connections")


def test_sums_over_all_workers(site: Site) -> None:
    count, _ = visit_all(site)
    assert httpx.get(f"{site.url}/?kind=other").status_code == 200
    for _ in range(5):  # whoever answers
        found = metrics(site)
        assert found['site_hits_total{kind="plain"}'] == count
        assert found['site_hits_total{kind="other"}'] == 1
        assert found["site_here"] == WORKERS


def test_middleware_of_frameworks(site: Site) -> None:
    count, _ = visit_all(site)
    assert httpx.get(f"{site.url}/stream").content == b"piece" * 100
    assert httpx.get(f"{site.url}/none").status_code == 404
    site.expected.append("ZeroDivisionError: crash that is counted")
    assert httpx.get(f"{site.url}/crash").status_code == 500
    found = metrics(site, "/fastapi-metrics")
    name = "http_requests_total"
    assert found[f'{name}{{handler="/",method="GET",status="2xx"}}'] == count
    assert found[f'{name}{{handler="/crash",method="GET",status="5xx"}}'] == 1
    assert found['http_response_size_bytes_count{handler="/"}'] == count
    found = metrics(site, "/starlette-metrics")
    name = "starlette_requests_total"
    labels = 'app_name="site",method="GET",path="/stream",status_code="200"'
    assert found[f"{name}{{{labels}}}"] == 1


def test_a_killed_worker_is_counted_on_but_not_as_one_that_runs(site: Site) -> None:
    count, pids = visit_all(site)
    site.expected_lines.append("was killed by SIGKILL")
    with contextlib.suppress(httpx.RemoteProtocolError):
        httpx.get(f"{site.url}/die")
    site.wait_for(re.compile("was killed by SIGKILL"))
    site.wait_for(re.compile(rf"pid=(?!({'|'.join(pids)}) )\d+ ready"))
    found = metrics(site)
    assert found['site_hits_total{kind="plain"}'] == count
    assert found["site_here"] == WORKERS
