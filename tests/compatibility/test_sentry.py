"""Sentry: its ASGI middleware around plain ASGI and in Starlette: errors, transactions, traces that
go on, what is reported during shutdown; events received by a local server, also with ``--preload``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect

from tests.compatibility.receiving import Receiver, receiving
from tests.compatibility.serving import PATIENCE_S, WORKERS, Site, serving

pytestmark = pytest.mark.process

TRACE = "771a43a4192642f0b136d5159a501700"


class Project:
    """The project that events are sent to: what came and was not asked for yet."""

    def __init__(self, receiver: Receiver) -> None:
        self.dsn = f"http://key@{receiver.netloc}/1"
        self._receiver = receiver
        self._items: list[tuple[str, Any]] = []

    def next(self, kind: str) -> Any:
        """The oldest item of a kind; waits for it."""
        while True:
            for item in self._items:
                if item[0] == kind:
                    self._items.remove(item)
                    return item[1]
            self._items += items(self._receiver)

    def left(self, kind: str) -> list[Any]:
        return [item for found, item in self._items if found == kind]


def items(receiver: Receiver) -> Iterator[tuple[str, Any]]:
    """The items of the next envelope: a line about all, then two for each."""
    request = receiver.next()
    assert request.path == "/api/1/envelope/"
    assert "sentry_key=key" in request.headers["x-sentry-auth"]
    lines = request.body.splitlines()[1:]
    for about, item in zip(lines[::2], lines[1::2], strict=False):
        yield json.loads(about)["type"], json.loads(item)


@pytest.fixture(scope="module", params=[(), ("--preload",)], ids=["each", "preload"])
def options(request: pytest.FixtureRequest) -> tuple[str, ...]:
    found: tuple[str, ...] = request.param
    return found


@pytest.fixture(scope="module")
def project(options: tuple[str, ...]) -> Iterator[Project]:
    with receiving() as receiver:
        yield Project(receiver)


@pytest.fixture(scope="module")
def site(files: Path, project: Project, options: tuple[str, ...]) -> Iterator[Site]:
    with serving("sentry_site:app", files, *options, SITE_DSN=project.dsn) as found:
        yield found
        found.stop()
        for _ in range(WORKERS):
            assert project.next("event")["message"] == "last words"
        assert project.left("event") == []


def test_transaction(site: Site, project: Project) -> None:
    parent = {"sentry-trace": f"{TRACE}-b0e6f15b45c36b12-1"}
    assert httpx.get(f"{site.url}/some/path?a=1", headers=parent).text == "Hello, world!"
    sent = project.next("transaction")
    trace = sent["contexts"]["trace"]
    assert (trace["trace_id"], trace["parent_span_id"]) == (TRACE, "b0e6f15b45c36b12")
    assert (trace["op"], trace["status"]) == ("http.server", "ok")
    assert sent["request"]["url"] == f"{site.url}/some/path"
    assert sent["request"]["query_string"] == "a=1"


def test_exception_is_reported_and_still_ours(site: Site, project: Project) -> None:
    site.expected.append("ZeroDivisionError: crash of the plain one")
    answer = httpx.get(f"{site.url}/crash")
    assert (answer.status_code, answer.text) == (500, "Internal Server Error")
    event = project.next("event")
    (error,) = event["exception"]["values"]
    assert (error["type"], error["value"]) == ("ZeroDivisionError", "crash of the plain one")
    assert error["mechanism"] == {"type": "asgi", "handled": False}
    assert error["stacktrace"]["frames"][-1]["function"] == "plain"
    assert event["request"]["url"] == f"{site.url}/crash"
    assert event["request"]["method"] == "GET"
    assert int(event["tags"]["worker"]) != site.process.pid
    sent = project.next("transaction")
    assert sent["contexts"]["trace"]["status"] == "internal_error"
    assert [(span["op"], span["description"]) for span in sent["spans"]] == [("work", "divide")]


def test_exception_within_the_answer(site: Site, project: Project) -> None:
    site.expected.append("ZeroDivisionError: crash within the plain answer")
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"{site.url}/crash-late")
    assert project.next("event")["exception"]["values"][0]["value"] == (
        "crash within the plain answer"
    )


def test_logged_error(site: Site, project: Project) -> None:
    assert httpx.get(f"{site.url}/logged").status_code == 200
    event = project.next("event")
    assert event["logentry"]["formatted"] == "something is wrong with this"


def test_websocket_exception(site: Site, project: Project) -> None:
    site.expected.append("ZeroDivisionError: crash in a plain WebSocket")
    with connect(f"{site.ws_url}/") as ws, pytest.raises(ConnectionClosedError) as closed:
        ws.recv(PATIENCE_S)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1011
    assert project.next("event")["exception"]["values"][0]["value"] == "crash in a plain WebSocket"


def test_starlette_integration(files: Path) -> None:
    with receiving() as receiver:
        project = Project(receiver)
        with serving("sentry_site:framework", files, SITE_DSN=project.dsn) as site:
            assert httpx.get(f"{site.url}/").text == "home of Starlette"
            assert project.next("transaction")["transaction"] == "/"
            site.expected.append("ZeroDivisionError: crash of Starlette for you")
            assert httpx.get(f"{site.url}/crash/you").status_code == 500
            event = project.next("event")
            assert event["exception"]["values"][-1]["value"] == "crash of Starlette for you"
            with connect(f"{site.ws_url}/echo") as ws:
                ws.send("hello")
                assert ws.recv(PATIENCE_S) == "hello"
            site.stop()
        assert project.left("event") == []
