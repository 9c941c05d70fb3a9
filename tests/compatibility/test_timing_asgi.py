"""timing-asgi: wall and processor time of each request, by route, with status and method; streams,
errors, WebSocket let through.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

from tests.compatibility.serving import PATIENCE_S, Site, serving

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def site(files: Path) -> Iterator[Site]:
    with serving("timing_asgi_site:app", files) as found:
        yield found


@pytest.fixture
def client(site: Site) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=site.url, timeout=PATIENCE_S) as found:
        yield found


def timed(site: Site, name: str, status: int, method: str) -> float:
    """The wall time that was told, after the processor time is found to be told, too."""
    wall, cpu = json.loads(site.witness.next()), json.loads(site.witness.next())
    assert {wall["name"], cpu["name"]} == {f"site.{name}"}
    tags = [f"http_status:{status}", f"http_method:{method}"]
    assert wall["tags"] == [*tags, "time:wall"]
    assert cpu["tags"] == [*tags, "time:cpu"]
    assert cpu["timing"] >= 0
    return float(wall["timing"])


def test_routes(client: httpx.Client, site: Site) -> None:
    assert client.get("/").text == "home"
    assert timed(site, "timing_asgi_site.home", 200, "GET") > 0
    assert client.get("/inner/home").text == "home"
    assert timed(site, "__mount__.inner", 200, "GET") > 0
    assert client.get("/none").status_code == 404
    assert timed(site, "none", 404, "GET") > 0


def test_slow(client: httpx.Client, site: Site) -> None:
    assert client.post("/slow").status_code == 201
    assert timed(site, "timing_asgi_site.slow", 201, "POST") >= 0.05


def test_a_stream_is_timed_to_its_end(client: httpx.Client, site: Site) -> None:
    assert client.get("/stream").text == "piece" * 5
    assert timed(site, "timing_asgi_site.stream", 200, "GET") >= 0.05


def test_exception(client: httpx.Client, site: Site) -> None:
    site.expected.append("ZeroDivisionError: timed by statsd")
    assert client.get("/crash").status_code == 500
    assert timed(site, "timing_asgi_site.crash", 500, "GET") > 0


def test_websocket_is_let_through(site: Site) -> None:
    with connect(f"{site.ws_url}/echo") as ws:
        ws.send("hello")
        assert ws.recv(PATIENCE_S) == "hello"
