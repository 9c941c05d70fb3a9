"""HTTPX: as client within an application (to the application itself over the network, as a proxy
that streams both ways, in threads), and ``ASGITransport`` into the application that is served.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.compatibility.serving import PATIENCE_S, Site, serving

pytestmark = pytest.mark.process

BIG = b"".join(bytes([number]) * 10_000 for number in range(100))


@pytest.fixture(scope="module")
def site(files: Path) -> Iterator[Site]:
    with serving("httpx_site:app", files) as found:
        yield found


@pytest.fixture
def client(site: Site) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=site.url, timeout=PATIENCE_S) as found:
        yield found


def test_an_application_asks_itself(client: httpx.Client) -> None:
    assert client.get("/ask-itself").json()["pids"]


def test_streams_through_a_proxy(client: httpx.Client, twenty_mib: bytes) -> None:
    assert client.get("/proxy/inner/big").content == BIG
    answer = client.post("/proxy/proxy/inner/digest", content=twenty_mib)
    assert answer.text == hashlib.sha256(twenty_mib).hexdigest()


def test_a_client_that_leaves_a_proxy(client: httpx.Client) -> None:
    with client.stream("GET", "/proxy/inner/big") as answer:
        next(answer.iter_bytes())
    assert client.get("/proxy/inner/home").status_code == 200


def test_straight_into_the_application(client: httpx.Client) -> None:
    assert client.get("/within").json() == {
        "same": True,
        "client": "192.0.2.1",
        "digest": hashlib.sha256(b"x" * 100_000).hexdigest(),
        "streamed": len(BIG),
        "crashed": 500,
    }


def test_an_error_over_the_network(client: httpx.Client, site: Site) -> None:
    site.expected.append("ZeroDivisionError: crash for a client within")
    assert client.get("/proxy/inner/crash").status_code == 500


def test_in_a_thread(client: httpx.Client) -> None:
    assert client.get("/in-a-thread").text == "200"


def test_nobody_there(client: httpx.Client) -> None:
    answer = client.get("/refused")
    assert (answer.status_code, answer.text) == (502, "ConnectError")
