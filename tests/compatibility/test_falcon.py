"""Falcon ASGI: resources, sinks, hooks, middleware with startup and shutdown, media (JSON,
MessagePack), multipart upload, streaming of requests and responses, SSE, scheduled tasks, static
route, error handlers, WebSocket with media handlers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from tests.compatibility import promises
from tests.compatibility.serving import PATIENCE_S, WORKERS, Site, serving

pytestmark = pytest.mark.process

MIB = 1024 * 1024
GOODBYE = "shut down"


@pytest.fixture(scope="module")
def site(files: Path) -> Iterator[Site]:
    with serving("falcon_site:app", files) as found:
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
    assert (answer.status_code, answer.text) == (200, "Hello, world!")
    assert answer.headers["content-length"] == "13"
    assert answer.headers["x-signed"] == "falcon True"
    promises.head_has_no_body(client, "/")


def test_all_workers_serve(site: Site) -> None:
    pids = set()
    for _ in range(400):
        facts = httpx.get(f"{site.url}/who/42?a=1&b=%C3%A9&a=2", timeout=PATIENCE_S).json()
        pids.add(facts["pid"])
        assert facts.pop("started_in") == facts.pop("pid")
        assert facts.pop("agent").startswith("python-httpx/")
        assert facts == {
            "number": 42,
            "client": "127.0.0.1",
            "url": f"{site.url}/who/42?a=1&b=%C3%A9&a=2",
            "path": "/who/42",
            "prefix": "",
            "scheme": "http",
            "query": {"a": ["1", "2"], "b": "é"},
        }
        if len(pids) == WORKERS:
            return
    pytest.fail(f"only {pids} answered 400 new connections")


def test_routes_and_sinks(client: httpx.Client) -> None:
    assert client.get("/who/x").status_code == 404
    refused = client.post("/who/1")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, OPTIONS")
    assert client.get("/sink/a%20b%2Fcaf%C3%A9").json() == {
        "rest": "a b/café",
        "path": "/sink/a b/café",
    }
    asked = client.get("/", headers={"origin": "https://front.example"})
    assert asked.headers["access-control-allow-origin"] == "*"


def test_hooks(client: httpx.Client) -> None:
    answer = client.get("/hooked", headers={"x-key": "open"})
    assert (answer.text, answer.headers["x-size"]) == ("inside", "6")
    locked = client.get("/hooked")
    assert (locked.status_code, locked.headers["www-authenticate"]) == (401, "Key")
    assert locked.headers["x-signed"] == "falcon False"


def test_many_sleep_at_once(site: Site) -> None:
    promises.sleeps_at_once(site, "/sleep", 0.5)


def test_media(client: httpx.Client) -> None:
    value = {"a": [1, 2.5, None, True], "é": "😀" * 1000}
    assert client.post("/media", json=value, headers={"accept": "application/json"}).json() == value
    answer = client.post(
        "/media",
        content=msgspec.msgpack.encode(value),
        headers={"content-type": "application/msgpack", "accept": "application/msgpack"},
    )
    assert msgspec.msgpack.decode(answer.content) == value
    words = {"name": "Jürgen & Söhne", "sum": "1+1=2"}
    sent = client.post("/media", data=words, headers={"accept": "application/json"})
    assert sent.json() == words
    wrong = client.post("/media", content=b"{", headers={"content-type": "application/json"})
    assert (wrong.status_code, wrong.json()["title"]) == (400, "Invalid JSON")
    unknown = client.post("/media", content=b"{", headers={"content-type": "text/x-none"})
    assert unknown.status_code == 415
    put = client.put("/media", content=b"as it is")
    assert (put.status_code, put.content) == (201, b"as it is")


def test_multipart_upload(client: httpx.Client, twenty_mib: bytes) -> None:
    answer = client.post(
        "/upload",
        data={"title": "Größe & mehr"},
        files={"one": ("ä.bin", twenty_mib, "application/x-one"), "two": ("b.txt", b"")},
    )
    assert answer.json() == {
        "title": "Größe & mehr",
        "one": ["ä.bin", "application/x-one", 20 * MIB, sha(twenty_mib)],
        "two": ["b.txt", "text/plain", 0, sha(b"")],
    }


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_request_stream(client: httpx.Client, twenty_mib: bytes, chunked: bool) -> None:
    pieces = (twenty_mib[start : start + 99_991] for start in range(0, 20 * MIB, 99_991))
    answer = client.put("/digest", content=pieces if chunked else twenty_mib).json()
    assert (answer["size"], answer["sha256"]) == (20 * MIB, sha(twenty_mib))
    assert answer["pieces"] > 20  # it came as a stream


def test_answer_while_the_request_arrives(client: httpx.Client) -> None:
    pieces = (b"abc" * 10_000 for _ in range(50))
    assert client.post("/echo-stream", content=pieces).content == b"ABC" * 500_000


@pytest.mark.parametrize(("count", "size"), [(1000, 64), (30, 65_536), (1, 5 * MIB), (0, 1)])
def test_response_stream(client: httpx.Client, count: int, size: int) -> None:
    answer = client.get(f"/stream?count={count}&size={size}")
    assert sha(answer.content) == sha(b"".join(bytes([n % 251]) * size for n in range(count)))


def test_server_sent_events(client: httpx.Client) -> None:
    answer = client.get("/events?count=20")
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.text == "".join(
        f'event: tick\nid: {n}\ndata: {{"number": {n}}}\n\n' for n in range(20)
    )


def test_disconnect_ends_events_and_streams(client: httpx.Client, site: Site) -> None:
    with client.stream("GET", "/events") as answer:
        assert next(answer.iter_lines()) == "event: tick"
    client.close()
    assert site.witness.next() == "events over"
    with httpx.stream("GET", f"{site.url}/stream?count=100000000&size=1000&tell=1") as answer:
        assert next(answer.iter_bytes(1000)) == bytes(1000)
    assert site.witness.next() == "stream over"


def test_disconnect_in_the_middle_of_an_upload(client: httpx.Client, site: Site) -> None:
    """Falcon takes http.disconnect for the end of the body."""
    promises.broken_off(client, "/swallow", site)
    assert site.witness.next() == "read 1000"


def test_scheduled_tasks(client: httpx.Client, site: Site) -> None:
    assert client.get("/background").text == "answered"
    assert {site.witness.next(), site.witness.next()} == {"later", "in a thread"}


def test_cookies(client: httpx.Client) -> None:
    answer = client.get("/cookies", headers={"cookie": "x=1; y=2"})
    assert answer.json() == {"x": "1", "y": "2"}
    names = [value.partition("=")[0] for value in answer.headers.get_list("set-cookie")]
    assert names == ["a", "b", "c"]


def test_static_route(client: httpx.Client, files: Path) -> None:
    content = (files / "large.bin").read_bytes()
    answer = client.get("/static/style.css")
    assert answer.text == (files / "style.css").read_text()
    assert answer.headers["content-type"] == "text/css"
    assert sha(client.get("/static/large.bin").content) == sha(content)
    part = client.get("/static/large.bin", headers={"range": "bytes=1000000-1999999"})
    assert (part.status_code, sha(part.content)) == (206, sha(content[1_000_000:2_000_000]))
    assert client.get("/static/empty.txt").content == b""
    assert client.get("/static/none").status_code == 404
    assert client.get("/static/..%2f..%2fetc%2fpasswd").status_code == 404


def test_redirect_and_nothing(client: httpx.Client, site: Site) -> None:
    answer = client.get("/redirect", follow_redirects=True)
    assert (answer.text, str(answer.url)) == ("Hello, world!", f"{site.url}/")
    nothing = client.get("/no-content")
    assert (nothing.status_code, nothing.content) == (204, b"")


def test_errors(client: httpx.Client) -> None:
    answer = client.get("/crash/refused")
    assert (answer.status_code, answer.json()) == (403, {"refused": "not for you"})
    teapot = client.get("/crash/teapot")
    assert (teapot.status_code, teapot.json()) == (418, {"title": "short and stout"})
    assert client.get("/none").status_code == 404


def test_exception_is_500(client: httpx.Client, site: Site) -> None:
    site.expected.append("ZeroDivisionError: crash before the answer")
    answer = client.get("/crash/early")
    assert (answer.status_code, answer.json()["title"]) == (500, "500 Internal Server Error")
    assert client.get("/").status_code == 200


def test_exception_within_the_answer_cuts_it_off(client: httpx.Client, site: Site) -> None:
    site.expected.append("ZeroDivisionError: crash within the answer")
    with pytest.raises(httpx.RemoteProtocolError):
        client.get("/crash/late")
    assert client.get("/").status_code == 200


def test_websocket_echo(site: Site) -> None:
    with connect(f"{site.ws_url}/ws/echo") as ws:
        pairs = [("hello", b"\x00\xff"), ("", b""), ("é" * 50_000, bytes(MIB - 1))]
        for message in [one for pair in pairs for one in pair]:
            ws.send(message)
            assert ws.recv(PATIENCE_S) == message
    assert site.witness.next() == "closed 1000"


def test_websocket_facts(site: Site) -> None:
    with connect(
        f"{site.ws_url}/ws/facts/blue%20room?a=1",
        subprotocols=[Subprotocol("chat.v1"), Subprotocol("chat.v2")],
        additional_headers={"cookie": "who=me"},
    ) as ws:
        assert ws.subprotocol == "chat.v2"
        assert ws.response is not None
        assert ws.response.headers["x-accepted"] == "yes"
        assert json.loads(ws.recv(PATIENCE_S)) == {
            "room": "blue room",
            "path": "/ws/facts/blue room",
            "query": {"a": "1"},
            "cookie": "me",
        }
        assert promises.closed_with(ws) == (4001, "seen enough")


def test_websocket_media(site: Site) -> None:
    with connect(f"{site.ws_url}/ws/sums") as ws:
        for message in ("[1, 2]", msgspec.msgpack.encode([1, 2])):
            ws.send(message)
            assert json.loads(ws.recv(PATIENCE_S)) == {"sum": 3}
            answer = ws.recv(PATIENCE_S)
            assert isinstance(answer, bytes)
            assert msgspec.msgpack.decode(answer) == {"sum": 3}


def test_websocket_push_and_receive(site: Site) -> None:
    with connect(f"{site.ws_url}/ws/clock") as ws:
        ws.send("one")
        ws.send("two")
        ticks: list[str] = []
        words: list[str] = []
        while (len(ticks) < 5 or len(words) < 2) and len(ticks) < 1000:
            message = str(ws.recv(PATIENCE_S))
            (ticks if message.startswith("tick") else words).append(message)
    assert (ticks, words) == ([f"tick {n}" for n in range(len(ticks))], ["ONE", "TWO"])
    assert site.witness.next() == "clock stopped"


@pytest.mark.parametrize("path", ["refuse", "none", "echo?token=wrong"])
def test_websocket_refused(site: Site, path: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        connect(f"{site.ws_url}/ws/{path}")
    assert refused.value.response.status_code == 403


def test_websocket_exception(site: Site) -> None:
    site.expected.append("ZeroDivisionError: crash in a WebSocket")
    with connect(f"{site.ws_url}/ws/crash") as ws:
        assert promises.closed_with(ws)[0] == 1011


def test_factory_preloaded_under_a_prefix(files: Path) -> None:
    """Falcon routes the whole path, root_path included: its routes have to be named with it."""
    options = ("--factory", "--preload", "--root-path", "/who", *promises.RELOAD_QUICKLY)
    with serving("falcon_site:create_app", files, *options) as site:
        facts = httpx.get(f"{site.url}/7").json()
        assert (facts["number"], facts["prefix"]) == (7, "/who")
        promises.stopped(site, GOODBYE)


def test_reload_loses_nothing(files: Path) -> None:
    with serving("falcon_site:app", files, *promises.RELOAD_QUICKLY) as site:
        promises.reloads_without_loss(site, "/pid", GOODBYE)
        promises.stopped(site, GOODBYE)
