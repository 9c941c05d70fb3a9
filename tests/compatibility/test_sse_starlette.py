"""sse-starlette: events, pings, clients that leave, errors; streams end when the service stops, may
say goodbye, and go on for a while at a reload.
"""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.compatibility.serving import PATIENCE_S, Site, serving

pytestmark = pytest.mark.process

PROMPT_S = 10.0
"""Less than the time that requests have when a worker stops."""


@pytest.fixture(scope="module")
def site(files: Path) -> Iterator[Site]:
    with serving("sse_starlette_site:app", files) as found:
        yield found


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=PATIENCE_S) as found:
        yield found


def data(lines: Iterator[str]) -> Iterator[str]:
    return (line.removeprefix("data: ") for line in lines if line.startswith("data: "))


def test_events(site: Site, client: httpx.Client) -> None:
    answer = client.get(f"{site.url}/events")
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.text == (
        "id: 1\r\nevent: first\r\ndata: one\r\ndata: two\r\nretry: 500\r\n\r\n"
        ": a comment\r\ndata: plain\r\n\r\n"
        'data: {"é":[1,2]}\r\n\r\n'
    )


def test_many_events_and_the_connection_is_kept(site: Site, client: httpx.Client) -> None:
    for _ in range(3):
        with client.stream("GET", f"{site.url}/events?count=500") as answer:
            assert list(data(answer.iter_lines()))[-500:] == [str(n) for n in range(500)]


def test_head(site: Site, client: httpx.Client) -> None:
    assert client.head(f"{site.url}/forever").status_code == 200
    assert client.get(f"{site.url}/events").status_code == 200


def test_pings(site: Site, client: httpx.Client) -> None:
    with client.stream("GET", f"{site.url}/silent") as answer:
        lines = answer.iter_lines()
        pings = [next(lines) for _ in range(4)]
    assert [ping[:8] for ping in pings[::2]] == [": ping -"] * 2


@pytest.mark.parametrize("path", ["forever", "asking", "silent"])
def test_a_client_that_leaves(site: Site, client: httpx.Client, path: str) -> None:
    with client.stream("GET", f"{site.url}/{path}?name=it") as answer:
        next(answer.iter_lines())
    if path == "forever":
        assert {site.witness.next(), site.witness.next()} == {
            "it over",
            "it closed: http.disconnect",
        }


def test_exception(site: Site, client: httpx.Client) -> None:
    # Within the group of tasks that it came from, and by itself.
    site.expected += ["ZeroDivisionError: crash in a stream of events"] * 2
    with client.stream("GET", f"{site.url}/crash") as answer:
        lines = answer.iter_lines()
        assert next(lines) == "data: hello"
        with pytest.raises(httpx.RemoteProtocolError):
            list(lines)


def test_stop_ends_streams_at_once(files: Path, client: httpx.Client) -> None:
    with (
        serving("sse_starlette_site:app", files) as site,
        contextlib.ExitStack() as streams,
    ):
        waiting = []
        for path in ("forever?name=it", "silent", "asking"):
            answer = streams.enter_context(client.stream("GET", f"{site.url}/{path}"))
            lines = answer.iter_lines()
            next(lines)
            waiting.append(lines)
        began = time.monotonic()
        site.stop()
        assert time.monotonic() - began < PROMPT_S
        assert site.witness.next() == "it over"


def test_streams_may_say_goodbye(files: Path, client: httpx.Client) -> None:
    with (
        serving("sse_starlette_site:app", files) as site,
        client.stream("GET", f"{site.url}/farewell") as answer,
    ):
        said = data(answer.iter_lines())
        assert next(said) == "hello"
        began = time.monotonic()
        site.process.send_signal(signal.SIGTERM)
        assert list(said) == ["goodbye"]
        site.stop()
        assert time.monotonic() - began < PROMPT_S


def test_a_reload_gives_streams_time_and_sends_clients_to_new_workers(
    files: Path, client: httpx.Client
) -> None:
    words = ("--bake-time", "0", "--graceful-timeout", "6", "--shutdown-reserve", "1")
    with serving("sse_starlette_site:app", files, *words) as site:
        site.expected_lines.append("1 request still runs and is told to stop")
        with client.stream("GET", f"{site.url}/forever?name=it") as answer:
            said = data(answer.iter_lines())
            before = json.loads(next(said))["pid"]
            site.process.send_signal(signal.SIGHUP)
            told_at = time.monotonic()
            with contextlib.suppress(httpx.RemoteProtocolError):
                list(said)
            assert time.monotonic() - told_at > 1.5, "it was broken off at once"
        assert {site.witness.next(), site.witness.next()} == {
            "it over",
            "it closed: http.disconnect",
        }
        with client.stream("GET", f"{site.url}/forever") as answer:
            assert json.loads(next(data(answer.iter_lines())))["pid"] != before
