"""Timing middleware: ``send`` wrapped in 25 layers, some that change messages and some that copy
them, around HTTP, WebSocket and lifespan; streams, errors and disconnects through all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

from tests.compatibility.serving import PATIENCE_S, WORKERS, Site, serving

pytestmark = pytest.mark.process

LAYERS = 20


@pytest.fixture(scope="module")
def site(files: Path) -> Iterator[Site]:
    with serving("timing_site:app", files, "--lifespan", "on") as found:
        yield found
        found.stop()
        said = [found.witness.next() for _ in range(WORKERS)]
        assert {re.sub("slow|quick", "-", word) for word in said} == {
            "lifespan returned - 2 in 2 out"
        }


@pytest.fixture
def client(site: Site) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=site.url, timeout=PATIENCE_S) as found:
        yield found


def layers(headers: httpx.Headers) -> list[str]:
    return [re.sub(r";dur=\d+\.\d+", "", value) for value in headers.get_list("server-timing")]


def test_every_layer_adds_its_field(client: httpx.Client) -> None:
    answer = client.get("/")
    assert answer.text == "Hello, world!"
    assert layers(answer.headers) == [f"layer{number}" for number in range(LAYERS)]
    inner, outer = map(float, answer.headers.get_list("x-process-time"))
    assert 0 < inner < outer


def test_a_start_without_headers(client: httpx.Client) -> None:
    answer = client.get("/no-headers")
    assert (answer.text, len(layers(answer.headers))) == ("bare", LAYERS)


def test_the_time_is_that_of_the_application(client: httpx.Client) -> None:
    answer = client.get("/slow")
    assert all(float(took) >= 0.1 for took in answer.headers.get_list("x-process-time"))
    first = re.search(r"dur=([0-9.]+)", answer.headers.get_list("server-timing")[0])
    assert first is not None
    assert float(first[1]) >= 100


def test_the_field_is_not_left_in_later_answers(client: httpx.Client) -> None:
    for _ in range(5):
        assert len(client.get("/").headers.get_list("x-process-time")) == 2


def test_streams_in_both_directions(client: httpx.Client, twenty_mib: bytes) -> None:
    mib = twenty_mib[: 1024 * 1024]  # more would need a client that reads while it writes
    pieces = (mib[start : start + 9_991] for start in range(0, len(mib), 9_991))
    assert client.post("/echo", content=pieces).content == mib


def test_the_whole_call_is_timed(client: httpx.Client, site: Site) -> None:
    assert client.get("/slow?witness").text == "slow"
    assert site.witness.next() == "http returned slow 0 in 2 out"


def test_exception(client: httpx.Client, site: Site) -> None:
    site.expected.append("ZeroDivisionError: timed crash\n")
    answer = client.get("/crash?witness")
    assert (answer.status_code, answer.text) == (500, "Internal Server Error")
    assert site.witness.next().startswith("http ZeroDivisionError ")


def test_exception_within_the_answer(client: httpx.Client, site: Site) -> None:
    site.expected.append("ZeroDivisionError: timed crash within the answer")
    with pytest.raises(httpx.RemoteProtocolError):
        client.get("/crash-late")
    assert client.get("/").text == "Hello, world!"


def test_disconnect_goes_through_all_layers(client: httpx.Client, site: Site) -> None:
    with client.stream("GET", "/endless?witness") as answer:
        next(answer.iter_bytes())
    assert re.fullmatch(r"http \w*Disconnect\w* \w+ \d+ in \d+ out", site.witness.next())


def test_websocket(site: Site) -> None:
    with connect(f"{site.ws_url}/?witness") as ws:
        assert ws.response is not None
        timings = ws.response.headers.get_all("server-timing")
        assert len(timings) == LAYERS
        for number in range(3):
            ws.send(f"tick {number}")
            assert ws.recv(PATIENCE_S) == f"tick {number}"
    # connect, three messages, disconnect; accept and three echoes
    assert re.fullmatch(r"websocket returned \w+ 5 in 4 out", site.witness.next())
