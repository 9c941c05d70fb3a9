"""Bocadillo: function and class views, providers, templates, sessions, streaming, server-sent
events, files, WebSocket, mounted ASGI and WSGI applications.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.compatibility.promises import closed_with, stopped
from tests.compatibility.serving import PATIENCE_S, WORKERS, Site, Witness, serving

pytestmark = pytest.mark.process

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def site(files: Path) -> Iterator[Site]:
    (files / "greeting.html").write_text("<p>Hello, {{ name }}</p>")
    (files / "public").mkdir()
    (files / "public" / "shop.css").write_text("h1 { color: teal }\n" * 100)
    with serving("bocadillo_site:app", files) as found:
        yield found
        stopped(found, "stock put away")


@pytest.fixture
def client(site: Site) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=site.url, timeout=PATIENCE_S) as found:
        yield found


def test_all_workers_serve(site: Site) -> None:
    pids = set()
    for _ in range(400):
        answer = httpx.get(site.url, timeout=PATIENCE_S)
        facts = answer.json()
        assert (facts["client"], facts["url"]) == ("127.0.0.1", f"{site.url}/")
        assert answer.headers["x-process"] == str(facts["pid"])
        pids.add(facts["pid"])
        if len(pids) == WORKERS:
            return
    pytest.fail(f"only {pids} answered 400 new connections")


def test_routes(client: httpx.Client) -> None:
    assert client.get("/hello/Zo%C3%AB").text == "Hello, Zoë!"
    assert client.get("/none").json() == {"error": "404 Not Found", "status": 404}
    assert client.post("/hello/x").status_code == 405
    moved = client.get("/old", follow_redirects=True)
    assert moved.text == "Hello, again!"


def test_converted_arguments(client: httpx.Client) -> None:
    assert client.get("/add/40?other=2").json() == {"sum": 42}
    assert client.get("/add/x").status_code == 400
    made = client.post("/add/1", data={"name": "Jürgen"})
    assert (made.status_code, made.json()) == (201, {"one": 1, "form": {"name": "Jürgen"}})


def test_providers(client: httpx.Client) -> None:
    """One of the application, which ends with it, and one of each request."""
    assert client.get("/stock").json() == {"stock": 3, "kettles": [3, 6], "same": True}


def test_json(client: httpx.Client) -> None:
    value = {"é": ["😀" * 1000, None, 1.5]}
    assert client.post("/json", json=value).json() == {"got": value}
    wrong = client.post("/json", content=b"{")
    assert (wrong.status_code, wrong.json()["detail"]) == (400, "JSON is malformed.")


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_request_stream(client: httpx.Client, twenty_mib: bytes, chunked: bool) -> None:
    pieces = (twenty_mib[start : start + 70_001] for start in range(0, 20 * MIB, 70_001))
    answer = client.put("/digest", content=pieces if chunked else twenty_mib)
    sha256 = hashlib.sha256(twenty_mib).hexdigest()
    assert answer.json() == {"size": 20 * MIB, "sha256": sha256}


def test_response_stream(client: httpx.Client) -> None:
    answer = client.get("/stream?count=5000", headers={"accept-encoding": "identity"})
    assert answer.headers["transfer-encoding"] == "chunked"
    assert answer.text == "".join(f"{number}\n" for number in range(5000))


def test_server_sent_events(client: httpx.Client) -> None:
    with client.stream("GET", "/events?count=20") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        data = [line[6:] for line in answer.iter_lines() if line.startswith("data: ")]
    assert [json.loads(line)["number"] for line in data] == list(range(20))


def test_disconnect_in_a_stream(client: httpx.Client) -> None:
    """Leaves nothing in the log."""

    with client.stream("GET", "/events") as answer:
        assert next(answer.iter_lines()) == "id: 0"
    client.close()


def test_template_file_and_static(client: httpx.Client, files: Path) -> None:
    assert client.get("/page").text == "<p>Hello, Zoë &amp; Ali</p>"
    content = (files / "large.bin").read_bytes()
    answer = client.get("/file", headers={"accept-encoding": "identity"})
    assert answer.content == content
    assert answer.headers["content-disposition"] == "attachment; filename='large.bin'"
    style = client.get("/assets/shop.css")
    assert style.text == (files / "public" / "shop.css").read_text()
    assert style.headers["content-type"].startswith("text/css")
    assert client.get("/assets/none.css").status_code == 404


def test_background_task(client: httpx.Client, witness: Witness) -> None:
    assert client.get(f"/background?witness={witness.path}").text == "answered"
    assert witness.next() == "done later"


def test_sessions_hold_across_workers(site: Site) -> None:
    jar = httpx.Cookies()
    for visit in range(1, 9):
        with httpx.Client(base_url=site.url, cookies=jar, timeout=PATIENCE_S) as client:
            assert client.get("/session").json() == {"visits": visit}
            jar = client.cookies


def test_mounted_applications(client: httpx.Client) -> None:
    assert client.get("/inner/x/y").text == "/inner /x/y"
    assert client.get("/wsgi/x/y").text == "/x/y of WSGI"


def test_errors(client: httpx.Client, site: Site) -> None:
    answer = client.get("/teapot")
    assert (answer.status_code, answer.json()["detail"]) == (418, "short and stout")
    assert client.get("/", headers={"host": "evil.test"}).status_code == 400
    site.expected.append("ZeroDivisionError: crash in a view")
    answer = client.get("/crash")
    assert (answer.status_code, answer.text) == (500, "500 Internal Server Error")
    assert client.get("/").status_code == 200


def test_websocket(site: Site, witness: Witness) -> None:
    with connect(f"{site.ws_url}/ws/echo/blue?witness={witness.path}") as ws:
        for number in range(100):
            ws.send(json.dumps({"n": number, "é": "😀"}))
            got = json.loads(ws.recv(PATIENCE_S))
            assert got == {"room": "blue", "got": {"n": number, "é": "😀"}}
    assert witness.next() == "closed 1000"
    with connect(f"{site.ws_url}/ws/letters") as ws:
        ws.send("a")
        assert ws.recv(PATIENCE_S) == "A"
        ws.send("bye")
        assert ws.recv(PATIENCE_S) == "BYE"
        assert closed_with(ws) == (4000, "")


def test_websocket_refused(site: Site) -> None:
    for path in ("/ws/refuse", "/ws/none"):
        with pytest.raises(InvalidStatus) as refused, connect(f"{site.ws_url}{path}"):
            pass
        assert refused.value.response.status_code == 403


def test_websocket_that_crashes(site: Site) -> None:
    site.expected += ["ZeroDivisionError: crash in a WebSocket"] * 2  # it prints it and raises it
    with connect(f"{site.ws_url}/ws/crash") as ws:
        assert closed_with(ws)[0] == 1011


def test_many_clients_at_once(site: Site) -> None:
    def work(client: httpx.Client, number: int) -> None:
        with connect(f"{site.ws_url}/ws/letters") as ws:
            for turn in range(5):
                mark = f"x{number}-{turn}"
                assert client.get(f"/hello/{mark}").text == f"Hello, {mark}!"
                assert client.post("/json", json=mark).json() == {"got": mark}
                ws.send(mark)
                assert ws.recv(PATIENCE_S) == mark.upper()

    with (
        httpx.Client(base_url=site.url, timeout=PATIENCE_S) as client,
        concurrent.futures.ThreadPoolExecutor(12) as pool,
    ):
        list(pool.map(lambda number: work(client, number), range(12)))
