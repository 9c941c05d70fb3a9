"""Channels: consumers (sync, async, JSON, HTTP), session login, origin check, URL routing,
database, groups over the in-memory layer.

That layer is a worker's own: a group reaches the connections of that worker, and no others. With
more workers than one it is for development, as its own documentation says; see Channels over
Redis.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from tests.compatibility.managing import prepared
from tests.compatibility.promises import closed_with
from tests.compatibility.rooms import (
    APPLICATION,
    SETTINGS,
    WORDS,
    ask,
    in_each_worker,
    logged_in,
    open_ws,
)
from tests.compatibility.serving import PATIENCE_S, WORKERS, Site, Witness, serving

pytestmark = pytest.mark.process

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def site(files: Path) -> Iterator[Site]:
    with serving(APPLICATION, files, **prepared(SETTINGS, files)) as found:
        yield found


@pytest.fixture
def client(site: Site) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=site.url, timeout=PATIENCE_S) as found:
        yield found


@pytest.mark.parametrize("path", ["/ws/echo/", "/ws/echo-async/"])
def test_echo(site: Site, witness: Witness, path: str) -> None:
    with open_ws(site, f"{path}?witness={witness.path}", max_size=None) as ws:
        for message in ("hello", "", "é" * 50_000, b"", b"\x00\xff", bytes(MIB)):
            ws.send(message)
            assert ws.recv(PATIENCE_S) == message
        for number in range(200):
            ws.send(str(number))
        assert [ws.recv(PATIENCE_S) for _ in range(200)] == [str(n) for n in range(200)]
    assert witness.next() == "closed 1000"


def test_synchronous_consumer_runs_in_a_thread(site: Site) -> None:
    with open_ws(site, "/ws/echo/") as ws:
        ws.send("thread")
        assert ws.recv(PATIENCE_S) == "other"


def test_subprotocol_and_headers_of_the_handshake(site: Site) -> None:
    offered = [Subprotocol("echo.v1"), Subprotocol("echo.v2")]
    with open_ws(site, "/ws/echo-async/", subprotocols=offered) as ws:
        assert ws.subprotocol == "echo.v2"
        assert ws.response is not None
        assert ws.response.headers["x-offered"] == "echo.v1,echo.v2"
    with open_ws(site, "/ws/echo-async/") as ws:
        assert ws.subprotocol is None


def test_consumers_close_with_code_and_reason(site: Site, witness: Witness) -> None:
    with open_ws(site, "/ws/echo/") as ws:
        ws.send("close")
        assert closed_with(ws) == (4001, "as you wish")
    with open_ws(site, f"/ws/room/closing/?witness={witness.path}") as ws:
        ws.send(json.dumps({"do": "close"}))
        assert closed_with(ws) == (4002, "")
    assert witness.next() == "left closing 4002"


def test_client_that_vanishes(site: Site, witness: Witness) -> None:
    """Without a close frame."""
    for path in ("/ws/echo/", "/ws/echo-async/"):
        with open_ws(site, f"{path}?witness={witness.path}") as ws:
            ws.send("here")
            assert ws.recv(PATIENCE_S) == "here"
            ws.close_socket()
            assert witness.next() == "closed 1006"


def test_refused_handshakes(site: Site) -> None:
    for path, origin in (
        ("/ws/refused/", None),
        ("/ws/members/", None),
        ("/ws/echo/", "http://evil.test"),
        ("/ws/echo/", "http://shop.example.evil.test"),
    ):
        with pytest.raises(InvalidStatus) as refused:
            open_ws(site, path, origin=origin)
        assert refused.value.response.status_code == 403
    with pytest.raises(InvalidStatus) as refused:
        connect(f"{site.ws_url}/ws/echo/")  # without an origin
    assert refused.value.response.status_code == 403
    with open_ws(site, "/ws/echo/", origin="https://www.shop.example") as ws:
        ws.send("let in")
        assert ws.recv(PATIENCE_S) == "let in"


def test_path_without_a_consumer(site: Site) -> None:
    """Channels raises, so this is an error of the application."""
    site.expected.append("ValueError: No route found for path 'ws/none/'.")
    with pytest.raises(InvalidStatus) as refused:
        open_ws(site, "/ws/none/")
    assert refused.value.response.status_code == 500


def test_session_login_reaches_consumers(client: httpx.Client, site: Site) -> None:
    cookie = logged_in(client)
    for _ in range(4):  # whatever the worker
        with open_ws(site, "/ws/members/", cookie) as ws:
            assert ws.recv(PATIENCE_S) == "welcome root"
    with open_ws(site, "/ws/room/login/", cookie) as ws:
        assert ask(ws, do="who")["user"] == "root"
    assert client.post("/leave/").status_code == 204
    with pytest.raises(InvalidStatus):
        open_ws(site, "/ws/members/", cookie)


def test_login_within_a_consumer(client: httpx.Client, site: Site) -> None:
    """The session was there before, as a consumer cannot set cookies once it has accepted."""
    cookie = logged_in(client)
    assert client.post("/enter/", json={**WORDS, "password": "no"}).status_code == 401
    with open_ws(site, "/ws/room/enter/", cookie) as ws:
        assert ask(ws, do="enter", **WORDS) == {"user": "root"}
    assert client.get("/who/").json()["user"] == "root"


def test_database_from_consumers(site: Site) -> None:
    with open_ws(site, "/ws/room/history/") as ws:
        for number in range(20):
            assert ask(ws, do="say", text=f"{number} ü") == {
                "author": "nobody",
                "text": f"{number} ü",
            }
    with open_ws(site, "/ws/room/history/") as ws:
        kept = [f"nobody: {number} ü" for number in range(20)]
        assert ask(ws, do="history") == {"history": kept}


def test_group_reaches_all_of_one_worker_and_none_of_another(site: Site) -> None:
    with contextlib.ExitStack() as stack:
        found = in_each_worker(site, stack, "near")
        for pid, there in found.items():
            there[0].send(json.dumps({"do": "say", "text": f"from {pid}"}))
        for pid, there in found.items():  # the first that each gets is its own worker's
            for ws in there:
                said = json.loads(ws.recv(PATIENCE_S))
                assert said == {"author": "nobody", "text": f"from {pid}"}
        for pid, there in found.items():  # and one that left gets nothing more
            assert ask(there[1], do="leave") == {"left": "near"}
            there[0].send(json.dumps({"do": "say", "text": f"again {pid}"}))
            assert json.loads(there[0].recv(PATIENCE_S))["text"] == f"again {pid}"
            assert ask(there[1], do="who")["pid"] == pid


def test_message_to_one_connection_of_the_worker(site: Site) -> None:
    with contextlib.ExitStack() as stack:
        for there in in_each_worker(site, stack, "whisper").values():
            one, other = there[0], there[1]
            name = ask(one, do="who")["channel"]
            other.send(json.dumps({"do": "whisper", "to": name, "text": "psst"}))
            said = json.loads(one.recv(PATIENCE_S))
            assert said == {"author": "whisper", "text": "psst"}


def test_synchronous_consumers_in_a_group(site: Site) -> None:
    """A class attribute names the group, a keyword of ``as_asgi`` the greeting."""
    with contextlib.ExitStack() as stack:
        by_pid: dict[int, list[Any]] = {}
        for seat in range(200):
            ws = stack.enter_context(open_ws(site, f"/ws/lobby/{seat}/"))
            hello = json.loads(ws.recv(PATIENCE_S))
            assert (hello["greeting"], hello["seat"]) == ("welcome", str(seat))
            by_pid.setdefault(hello["pid"], []).append(ws)
            if len(by_pid[hello["pid"]]) == 3:
                break
        there = max(by_pid.values(), key=len)
        there[0].send(json.dumps({"text": "to all"}))
        for ws in there:
            assert json.loads(ws.recv(PATIENCE_S)) == {"text": "to all", "kept": 1}


def test_view_speaks_to_a_group(site: Site) -> None:
    """Of its own worker: so it asks until the other worker has been told too."""
    with contextlib.ExitStack() as stack:
        found = in_each_worker(site, stack, "views")
        told = set()
        for number in range(200):
            url = f"{site.url}/announce/views/?text={number}"
            pid = httpx.get(url, timeout=PATIENCE_S).json()["pid"]
            for ws in found[pid]:
                said = json.loads(ws.recv(PATIENCE_S))
                assert said == {"author": "the view", "text": str(number)}
            told.add(pid)
            if len(told) == WORKERS:
                return
        pytest.fail(f"only {told} answered 200 new connections")


def test_http_consumer(client: httpx.Client, twenty_mib: bytes) -> None:
    pieces = (twenty_mib[start : start + 70_001] for start in range(0, 20 * MIB, 70_001))
    answer = client.put("/live/digest/", content=pieces)
    sha256 = hashlib.sha256(twenty_mib).hexdigest()
    assert answer.json() == {"size": 20 * MIB, "sha256": sha256}
    assert answer.headers.get_list("x-twice") == ["1", "2"]
    assert client.get("/live/digest/").json()["size"] == 0


def test_http_consumer_in_a_group(client: httpx.Client, site: Site, witness: Witness) -> None:
    path = f"/live/news/evening/?witness={witness.path}"
    assert (client.get(path).status_code, client.get(path).text) == (403, "not for you")
    logged_in(client)
    with contextlib.ExitStack() as stack:
        found = in_each_worker(site, stack, "evening")
        with client.stream("GET", path) as answer:
            assert answer.headers["content-type"] == "text/event-stream"
            lines = answer.iter_lines()
            pid, user = next(lines).removeprefix("data: ").split()
            assert (next(lines), user) == ("", "root")
            for text in ("one", "zwölf", "good night"):
                found[int(pid)][0].send(json.dumps({"do": "say", "text": text}))
                assert [next(lines), next(lines)] == [f"data: {text}", ""]
            assert list(lines) == []
    assert witness.next() == "no more news"


def test_http_consumer_sees_the_client_go(
    client: httpx.Client, site: Site, witness: Witness
) -> None:
    logged_in(client)
    with client.stream("GET", f"/live/news/gone/?witness={witness.path}") as answer:
        assert next(answer.iter_lines()).endswith(" root")
    client.close()
    assert witness.next() == "no more news"


def test_exceptions_in_consumers(client: httpx.Client, site: Site) -> None:
    site.expected += [
        "ZeroDivisionError: crash in a synchronous consumer",
        "ZeroDivisionError: crash in an asynchronous consumer",
        "ZeroDivisionError: crash in an HTTP consumer",
        "ZeroDivisionError: crash in a view beside the consumers",
    ]
    for path in ("/ws/echo/", "/ws/echo-async/"):
        with open_ws(site, path) as ws:
            ws.send("crash")
            assert closed_with(ws)[0] == 1011
    assert client.get("/live/crash/").status_code == 500
    assert client.get("/crash/").status_code == 500
    assert client.get("/who/").status_code == 200


def test_many_clients_at_once(site: Site) -> None:
    def work(number: int) -> None:
        with open_ws(site, f"/ws/room/{number}/") as room, open_ws(site, "/ws/echo/") as echo:
            for turn in range(5):
                mark = f"{number}-{turn}"
                assert ask(room, do="say", text=mark) == {"author": "nobody", "text": mark}
                echo.send(mark)
                assert echo.recv(PATIENCE_S) == mark
                assert httpx.get(f"{site.url}/who/", timeout=PATIENCE_S).status_code == 200
            kept = [f"nobody: {number}-{turn}" for turn in range(5)]
            assert ask(room, do="history") == {"history": kept}

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        list(pool.map(work, range(12)))


def test_stop_tells_clients_and_consumers(files: Path) -> None:
    ending = files / "ending"
    ending.mkdir()
    with serving(APPLICATION, ending, **prepared(SETTINGS, ending)) as site:
        with contextlib.ExitStack() as stack:
            open_now = []
            for kind in ("echo", "echo-async", "room/last"):
                path = f"/ws/{kind}/?witness={site.witness.path}"
                open_now.append(stack.enter_context(open_ws(site, path)))
            site.stop()
            assert [closed_with(ws)[0] for ws in open_now] == [1001] * 3
        said = sorted(site.witness.next() for _ in open_now)
        assert said == ["closed 1001", "closed 1001", "left last 1001"]
