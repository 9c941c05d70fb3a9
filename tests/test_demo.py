"""The demo application by itself: what it sends for what it is asked, without any server."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import pytest

from asgi_supervise import demo

Messages = list[dict[str, Any]]
OURS = {"asgi_supervise": {"slot": 2, "generation": 5, "workers": 4}}


def ask(
    path: str,
    *,
    kind: str = "http",
    method: str = "GET",
    receives: Messages | None = None,
    **more: Any,
) -> Messages:
    """What the application sends; when ``receives`` is used up it waits for ever."""
    scope = {
        "type": kind,
        "method": method,
        "path": path,
        "query_string": b"",
        "http_version": "1.1",
        "extensions": OURS,
    }
    waiting = list(receives if receives is not None else [{"type": "http.request", "body": b""}])
    sent: Messages = []

    async def receive() -> dict[str, Any]:
        return waiting.pop(0) if waiting else await asyncio.get_running_loop().create_future()

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(demo.app(scope | more, receive, send))
    return sent


def body(sent: Messages) -> bytes:
    return b"".join(message["body"] for message in sent[1:])


def test_the_page_needs_nothing_from_elsewhere() -> None:
    sent = ask("/")
    assert sent[0]["status"] == 200
    assert (b"content-type", b"text/html; charset=utf-8") in sent[0]["headers"]
    assert (b"content-length", str(len(body(sent))).encode()) in sent[0]["headers"]
    page = body(sent)
    assert page.count(b"http://") == page.count(b"http://www.w3.org/2000/svg")
    assert b"https://" not in page
    assert b"<script src" not in page


def test_who() -> None:
    sent = ask("/who")
    worker = json.loads(body(sent))
    assert (b"connection", b"close") in sent[0]["headers"]
    assert worker.pop("uptime_s") >= 0
    pids = {"pid": os.getpid(), "master": os.getppid()}
    assert worker == {"slot": 2, "generation": 5, "workers": 4, **pids}


def test_another_server_and_http_2_will_do() -> None:
    sent = ask("/who", extensions={}, http_version="2")
    assert json.loads(body(sent))["workers"] == 1
    assert b"connection" not in dict(sent[0]["headers"])


@pytest.mark.parametrize(("query", "status"), [(b"seconds=0", 200), (b"seconds=x", 400)])
def test_slow(query: bytes, status: int) -> None:
    assert ask("/slow", query_string=query)[0]["status"] == status


def test_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "HANG_S", 0.001)
    assert ask("/hang", method="POST")[0]["status"] == 200


def test_error() -> None:
    with pytest.raises(RuntimeError, match="/error"):
        ask("/error")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/crash", 405),
        ("GET", "/hang", 405),
        ("POST", "/who", 405),
        ("HEAD", "/", 200),
    ],
)
def test_other_questions(method: str, path: str, status: int) -> None:
    assert ask(path, method=method)[0]["status"] == status


def test_clock_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "TICK_S", 0.001)
    sent = ask("/clock")
    assert (b"content-type", b"text/event-stream") in sent[0]["headers"]
    events = body(sent).decode().split("\n\n")
    assert events[0] == "retry: 500"
    assert len(events) == demo.TICKS + 2
    assert json.loads(events[1].removeprefix("data: "))["slot"] == 2
    assert sent[-1] == {"type": "http.response.body", "body": b""}


def test_clock_ends_when_nobody_listens() -> None:
    receives: Messages = [{"type": "http.request", "body": b""}, {"type": "http.disconnect"}]
    assert len(ask("/clock", receives=receives)) == 2


def test_echo() -> None:
    receives: Messages = [
        {"type": "websocket.connect"},
        {"type": "websocket.receive", "text": "a"},
        {"type": "websocket.receive", "bytes": b"b", "text": None},
        {"type": "websocket.receive", "text": ""},
        {"type": "websocket.disconnect", "code": 1000},
    ]
    accept, hello, *echoes = ask("/echo", kind="websocket", receives=receives)
    assert accept == {"type": "websocket.accept"}
    assert json.loads(hello["text"])["slot"] == 2
    assert echoes == [
        {"type": "websocket.send", "text": "a"},
        {"type": "websocket.send", "bytes": b"b"},
        {"type": "websocket.send", "text": ""},
    ]


def test_a_websocket_elsewhere_is_refused() -> None:
    sent = ask("/nowhere", kind="websocket", receives=[{"type": "websocket.connect"}])
    assert sent == [{"type": "websocket.close", "code": 1000}]


def test_lifespan() -> None:
    receives: Messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent = ask("", kind="lifespan", receives=receives)
    assert [m["type"] for m in sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
