"""trio: a plain ASGI application with nurseries, cancel scopes, deadlines, threads, processes,
sockets, memory channels as chat over WebSocket, a background nursery in its lifespan; Starlette by
way of anyio.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.compatibility import promises
from tests.compatibility.serving import PATIENCE_S, WORKERS, Site, serving

pytestmark = pytest.mark.process

ON_TRIO = ("--loop", "trio")
MIB = 1024 * 1024
GOODBYE = "lifespan over"


@pytest.fixture(scope="module")
def site(files: Path) -> Iterator[Site]:
    with serving("trio_site:app", files, *ON_TRIO) as found:
        yield found
        promises.stopped(found, GOODBYE)


@pytest.fixture
def client(site: Site) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=site.url, timeout=PATIENCE_S) as found:
        yield found


@pytest.fixture(scope="module")
def starlette(files: Path) -> Iterator[Site]:
    with serving("trio_starlette_site:app", files, *ON_TRIO) as found:
        yield found
        promises.stopped(found, GOODBYE)


@pytest.fixture
def visitor(starlette: Site) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=starlette.url, timeout=PATIENCE_S) as found:
        yield found


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_plain_answer(client: httpx.Client) -> None:
    answer = client.get("/")
    assert (answer.status_code, answer.text) == (200, "Hello from trio!")
    assert client.get("/elsewhere").status_code == 404
    promises.head_has_no_body(client, "/")


def test_all_workers_serve_on_trio(site: Site) -> None:
    pids = set()
    for _ in range(400):
        facts = httpx.get(f"{site.url}/who?a=1", timeout=PATIENCE_S).json()
        pids.add(facts.pop("pid"))
        assert facts == {"library": "trio", "task": "GET /who", "query": "a=1"}
        if len(pids) == WORKERS:
            return
    pytest.fail(f"only {pids} answered 400 new connections")


def test_many_sleep_at_once(site: Site) -> None:
    promises.sleeps_at_once(site, "/sleep", 0.5)


def test_what_runs_in_the_background(client: httpx.Client) -> None:
    assert int(client.get("/beats").text) >= 3


def test_nursery(client: httpx.Client) -> None:
    assert client.get("/race").json() == {"winners": ["tortoise"], "cancelled": ["hare", "snail"]}


def test_deadlines(client: httpx.Client) -> None:
    assert client.get("/in-time").json() == {"outer": False, "inner": True, "late": True}


def test_threads(client: httpx.Client) -> None:
    assert client.get("/thread").json() == ["THERE and trio"] * 5


def test_sockets_of_trio(client: httpx.Client) -> None:
    word = "word" * 500
    assert client.get("/shout", params={"word": word}).text == word.upper()


def test_process(client: httpx.Client) -> None:
    assert client.get("/process").text == "through a process"


def test_file(client: httpx.Client, files: Path) -> None:
    assert sha(client.get("/file").content) == sha((files / "large.bin").read_bytes())


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_request_stream(client: httpx.Client, twenty_mib: bytes, chunked: bool) -> None:
    pieces = (twenty_mib[start : start + 99_991] for start in range(0, len(twenty_mib), 99_991))
    answer = client.put("/digest", content=pieces if chunked else twenty_mib).json()
    assert answer == {"size": len(twenty_mib), "sha256": sha(twenty_mib)}


@pytest.mark.parametrize(("count", "size"), [(1000, 64), (30, 65_536), (1, 5 * MIB), (0, 1)])
def test_response_stream(client: httpx.Client, count: int, size: int) -> None:
    answer = client.get(f"/stream?count={count}&size={size}")
    assert sha(answer.content) == sha(b"".join(bytes([n % 251]) * size for n in range(count)))


def test_disconnect_ends_a_stream(client: httpx.Client, site: Site) -> None:
    with client.stream("GET", "/events") as answer:
        lines = answer.iter_lines()
        assert [next(lines), next(lines), next(lines)] == ["data: 0", "", "data: 1"]
    client.close()
    assert site.witness.next() == "stream over"


def test_disconnect_in_the_middle_of_an_upload(client: httpx.Client, site: Site) -> None:
    promises.broken_off(client, "/swallow", site)
    assert site.witness.next() == "ended with http.disconnect"


def test_work_that_outlives_its_request(client: httpx.Client, site: Site) -> None:
    assert client.get("/later").text == "answered"
    assert site.witness.next() == "worked on"


def test_exceptions(client: httpx.Client, site: Site) -> None:
    site.expected.append("ZeroDivisionError: crash before the answer")
    answer = client.get("/crash")
    assert (answer.status_code, answer.text) == (500, "Internal Server Error")
    site.expected.append("ZeroDivisionError: crash within the answer")
    with pytest.raises(httpx.RemoteProtocolError):
        client.get("/crash-late")
    assert client.get("/").status_code == 200


def test_exceptions_of_a_nursery(files: Path) -> None:
    """A group with what is in it, and none of the server's frames."""
    with serving("trio_site:app", files, *ON_TRIO) as found:
        found.expected.append("ZeroDivisionError: crash in a nursery")
        assert httpx.get(f"{found.url}/crash-together", timeout=PATIENCE_S).status_code == 500
        promises.stopped(found, GOODBYE)
        assert found.log.count("Exception Group Traceback") == 1
        assert "asgi_worker" not in found.log


def test_reload_without_loss(files: Path) -> None:
    with serving("trio_site:app", files, *ON_TRIO, *promises.RELOAD_QUICKLY) as found:
        promises.reloads_without_loss(found, "/pid", GOODBYE)
        promises.stopped(found, GOODBYE)


@pytest.mark.parametrize("preload", [False, True])
def test_stops_with_requests_in_flight(files: Path, preload: bool) -> None:
    with serving("trio_site:app", files, *ON_TRIO, *["--preload"] * preload) as found:
        with (
            httpx.Client(base_url=found.url, timeout=PATIENCE_S) as client,
            client.stream("GET", "/stream?count=200&size=100000") as answer,
        ):
            pieces = answer.iter_bytes()
            first = next(pieces)
            found.process.terminate()
            assert len(first) + sum(map(len, pieces)) == 200 * 100_000
        promises.stopped(found, GOODBYE)


def test_websocket_echo(site: Site) -> None:
    with connect(f"{site.ws_url}/ws/echo", max_size=None) as ws:
        for sent in ("é" * 100, b"\0\xff" * 1000, "x" * MIB, ""):
            ws.send(sent)
            assert ws.recv(PATIENCE_S) == sent
    assert site.witness.next() == "client left with 1000"


def test_chat(site: Site) -> None:
    """Rooms are a worker's own; so three visitors of one worker are looked for."""
    visitors: dict[str, list[ClientConnection]] = {}
    with contextlib.ExitStack() as opened:
        while not any(len(found) == 3 for found in visitors.values()):
            ws = opened.enter_context(connect(f"{site.ws_url}/ws/chat/kitchen"))
            visitors.setdefault(str(ws.recv(PATIENCE_S)), []).append(ws)
        ann, bob, eve = next(found for found in visitors.values() if len(found) == 3)
        for number, (name, ws) in enumerate((("Ann", ann), ("Bob", bob), ("Eve", eve)), 1):
            ws.send(name)
            for other in (ann, bob, eve)[:number]:
                assert other.recv(PATIENCE_S) == f"{name} is here"
        for number in range(100):
            bob.send(f"number {number}")
        for ws in (ann, bob, eve):
            said = [ws.recv(PATIENCE_S) for _ in range(100)]
            assert said == [f"Bob: number {number}" for number in range(100)]
        bob.close()
        assert [ws.recv(PATIENCE_S) for ws in (ann, eve)] == ["Bob has left"] * 2


def test_websocket_closed_by_the_application(site: Site) -> None:
    with connect(f"{site.ws_url}/ws/patience") as ws:
        assert promises.closed_with(ws) == (4008, "too slow")
    with pytest.raises(InvalidStatus) as refused, connect(f"{site.ws_url}/ws/refuse"):
        pass
    assert refused.value.response.status_code == 403


def test_websocket_crash(site: Site) -> None:
    site.expected.append("ZeroDivisionError: crash in a WebSocket")
    with connect(f"{site.ws_url}/ws/crash") as ws:
        assert promises.closed_with(ws)[0] == 1011


def test_starlette_is_on_trio(visitor: httpx.Client) -> None:
    answer = visitor.get("/who")
    assert answer.json()["lifespan"] == "trio"
    assert answer.headers["x-library"] == "trio"
    assert visitor.get("/thread").text == "main thread: False, from there: trio"


def test_starlette_streams(visitor: httpx.Client, files: Path, twenty_mib: bytes) -> None:
    answer = visitor.get("/stream")
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.text == "".join(f"{number}\n" for number in range(1000))
    content = (files / "large.bin").read_bytes()
    assert sha(visitor.get("/file").content) == sha(content)
    part = visitor.get("/file", headers={"range": "bytes=10-19", "accept-encoding": "identity"})
    assert (part.status_code, part.content) == (206, content[10:20])
    assert visitor.post("/upload", content=twenty_mib).json() == {"size": len(twenty_mib)}
    form = visitor.post("/form", files={"file": ("f.bin", b"x" * (2 * MIB))}).json()
    assert form == {"name": "f.bin", "size": 2 * MIB}


def test_starlette_works_on_in_the_background(visitor: httpx.Client, starlette: Site) -> None:
    assert visitor.get("/background").text == "answered"
    assert starlette.witness.next() == "worked on"


def test_starlette_websocket(starlette: Site) -> None:
    with connect(f"{starlette.ws_url}/echo") as ws:
        ws.send("to you")
        assert ws.recv(PATIENCE_S) == "trio: to you"


def test_starlette_exception(visitor: httpx.Client, starlette: Site) -> None:
    assert visitor.get("/crash").status_code == 500
    starlette.wait_for(re.compile("ZeroDivisionError: crash in Starlette"))
    starlette.expected.append("ZeroDivisionError: crash in Starlette")
