"""Quart-Trio: routing, blueprints, templates and streamed templates, WebSocket, streaming, SSE,
sessions, uploads, tasks in nurseries, background tasks, sync handlers, before_serving,
while_serving, after_serving, cancellation on disconnect.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from tests.compatibility import promises
from tests.compatibility.serving import PATIENCE_S, WORKERS, Site, serving

pytestmark = pytest.mark.process

ON_TRIO = ("--loop", "trio")
MIB = 1024 * 1024
GOODBYE = "after serving, no more"


@pytest.fixture(scope="module")
def site(files: Path) -> Iterator[Site]:
    with serving("quart_trio_site:app", files, *ON_TRIO) as found:
        yield found
        promises.stopped(found, GOODBYE)


@pytest.fixture
def client(site: Site) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=site.url, timeout=PATIENCE_S) as found:
        yield found


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_plain_answer(client: httpx.Client) -> None:
    answer = client.get("/")
    assert (answer.status_code, answer.text) == (200, "Hello from Quart-Trio!")
    assert answer.headers["x-signed"] == "trio"
    promises.head_has_no_body(client, "/")


def test_all_workers_serve(site: Site) -> None:
    pids = set()
    for _ in range(400):
        facts = httpx.get(f"{site.url}/who?a=%C3%A9", timeout=PATIENCE_S).json()
        pids.add(facts["pid"])
        assert facts.pop("started_in") == facts.pop("pid")
        url = f"{site.url}/who?a=é"
        assert facts == {"during": "serving", "library": "trio", "url": url}
        if len(pids) == WORKERS:
            return
    pytest.fail(f"only {pids} answered 400 new connections")


def test_blueprint(client: httpx.Client) -> None:
    facts = {"number": 42, "till": "open", "here": "/shop/thing/42"}
    assert client.get("/shop/thing/42").json() == facts
    gone = client.get("/shop/missing")
    assert (gone.status_code, gone.text) == (404, "sold out")
    assert client.post("/shop/thing/42").status_code == 405


def test_templates(client: httpx.Client) -> None:
    assert client.get("/page").text == (
        "<title>&lt;Page&gt;</title>\n<p>Good day, Jürgen &amp; Söhne!</p>\n"
        '<a href="/shop/thing/7">The shop</a>'
    )
    rows = "".join(f"<tr><td>{row}</td></tr>\n" for row in range(1000))
    assert client.get("/rows").text == rows


def test_handler_in_a_thread(client: httpx.Client) -> None:
    assert client.get("/sync").text == "GET, main thread: False"


def test_many_sleep_at_once(site: Site) -> None:
    promises.sleeps_at_once(site, "/sleep", 0.5)


def test_tasks_of_a_nursery(client: httpx.Client) -> None:
    assert client.get("/together?base=10").json() == {"found": [10, 11, 12, 13, 14]}


def test_json_and_form(client: httpx.Client) -> None:
    value = {"a": [1, 2.5, None, True], "é": "😀" * 1000}
    assert client.post("/json", json=value).json() == value
    content = bytes(range(256)) * 8192
    answer = client.post("/form", data={"title": "Größe"}, files={"file": ("ä.bin", content)})
    assert answer.json() == {"title": "Größe", "size": 2 * MIB, "sha256": sha(content)}


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_request_stream(client: httpx.Client, twenty_mib: bytes, chunked: bool) -> None:
    data = twenty_mib if chunked else twenty_mib[: 10 * MIB]
    pieces = (data[start : start + 99_991] for start in range(0, len(data), 99_991))
    answer = client.put("/digest", content=pieces if chunked else data).json()
    assert answer == {"size": len(data), "sha256": sha(data)}


@pytest.mark.parametrize(("count", "size"), [(1000, 64), (30, 65_536), (1, 5 * MIB), (0, 1)])
def test_response_stream(client: httpx.Client, count: int, size: int) -> None:
    answer = client.get(f"/stream?count={count}&size={size}")
    assert sha(answer.content) == sha(b"".join(bytes([n % 251]) * size for n in range(count)))


def test_disconnect_ends_a_stream(client: httpx.Client, site: Site) -> None:
    with client.stream("GET", "/events") as answer:
        assert next(answer.iter_lines()) == "data: 0"
    client.close()
    assert site.witness.next() == "stream over"


def test_disconnect_cancels_a_handler(client: httpx.Client, site: Site) -> None:
    with pytest.raises(httpx.ReadTimeout):
        client.get("/linger", timeout=0.3)
    client.close()
    assert [site.witness.next(), site.witness.next()] == ["waiting", "client gone"]


def test_background_task(client: httpx.Client, site: Site) -> None:
    assert client.get("/background").text == "answered"
    assert site.witness.next() == "worked on"


def test_sessions_hold_across_workers(site: Site) -> None:
    jar = httpx.Cookies()
    for visit in range(1, 6):
        with httpx.Client(base_url=site.url, cookies=jar, timeout=PATIENCE_S) as client:
            assert client.get("/session").json() == {"visits": visit}
            jar = client.cookies


def test_exceptions(client: httpx.Client, site: Site) -> None:
    for path in ("/refused", "/refused-in-a-nursery"):
        answer = client.get(path)
        assert (answer.status_code, answer.json()) == (403, {"refused": "not for you"})
    site.expected.append("ZeroDivisionError: crash before the answer")
    assert client.get("/crash").status_code == 500
    assert client.get("/").status_code == 200


def test_websocket_echo(site: Site) -> None:
    with connect(f"{site.ws_url}/ws/echo", max_size=None) as ws:
        for sent in ("é" * 100, b"\0\xff" * 1000, "x" * MIB):
            ws.send(sent)
            assert ws.recv(PATIENCE_S) == sent
    # On every server: to Quart-Trio a client that leaves is an exception of who waits for it.
    site.expected.append("quart.wrappers.base.ClientDisconnectedError")


def test_websocket_both_ways(site: Site) -> None:
    with connect(f"{site.ws_url}/ws/clock") as ws:
        ticks: list[int] = []
        answers: list[str] = []
        for word in ("one", "two", "three"):
            ws.send(word)
        while len(ticks) < 10 or len(answers) < 3:
            message = str(ws.recv(PATIENCE_S))
            if message.startswith("{"):
                ticks.append(json.loads(message)["tick"])
            else:
                answers.append(message)
        assert ticks == list(range(len(ticks)))
        assert answers == ["ONE", "TWO", "THREE"]
    assert site.witness.next() == "clock stopped"


def test_websocket_ends(site: Site) -> None:
    with connect(f"{site.ws_url}/ws/over", subprotocols=[Subprotocol("chat.v2")]) as ws:
        assert ws.subprotocol == "chat.v2"
        assert ws.recv(PATIENCE_S) == "that is all"
        assert promises.closed_with(ws) == (4001, "seen enough")
    with pytest.raises(InvalidStatus) as refused, connect(f"{site.ws_url}/ws/refuse"):
        pass
    assert refused.value.response.status_code == 401
    site.expected.append("ZeroDivisionError: crash in a WebSocket")
    with connect(f"{site.ws_url}/ws/crash") as ws:
        assert promises.closed_with(ws) == (1000, "")  # Quart itself answers for it


def test_reload_without_loss(files: Path) -> None:
    with serving("quart_trio_site:app", files, *ON_TRIO, *promises.RELOAD_QUICKLY) as found:
        promises.reloads_without_loss(found, "/pid", GOODBYE)
        promises.stopped(found, GOODBYE)
