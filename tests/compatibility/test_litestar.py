"""Litestar: controllers, DTOs, validation by msgspec, dependency injection, OpenAPI pages,
templates, uploads, streams, SSE, background tasks, after_response, sessions, stores, response
cache, rate limit, gzip, CORS, static files, WebSocket listeners and streams, channels.
"""

from __future__ import annotations

import contextlib
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

MIB = 1024 * 1024
GOODBYE = "lifespan over"
PLAIN = {"accept-encoding": "identity"}  # a gzip stream of Litestar complains when it is broken off


@pytest.fixture(scope="module")
def site(files: Path) -> Iterator[Site]:
    with serving("litestar_site:app", files) as found:
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
    assert answer.headers["x-signed"] == "litestar"
    head = client.head("/head")
    assert (head.status_code, head.content, head.headers["x-head"]) == (200, b"", "yes")
    assert client.get("/").text == "Hello, world!"


def test_all_workers_serve(site: Site) -> None:
    pids = set()
    for _ in range(400):
        url = f"{site.url}/who/a%20b%2Fcaf%C3%A9?a=1&b=%C3%A9&a=2"
        facts = httpx.get(url, timeout=PATIENCE_S).json()
        pids.add(facts["pid"])
        assert facts.pop("started_in") == facts.pop("pid")
        assert facts == {
            "rest": "/a b/café",
            "client": "127.0.0.1",
            "url": f"{site.url}/who/a b/café?a=1&b=%C3%A9&a=2",
            "base": f"{site.url}/",
            "query": {"a": ["1", "2"], "b": ["é"]},
        }
        if len(pids) == WORKERS:
            return
    pytest.fail(f"only {pids} answered 400 new connections")


def test_controller_with_dependencies(client: httpx.Client) -> None:
    assert client.get("/orders/42").json() == {
        "number": 42,
        "till": "open",
        "asked_by": "python-httpx",
    }
    assert client.delete("/orders/42").status_code == 204
    assert client.get("/orders/x").status_code == 404
    assert client.patch("/orders/42").status_code == 405


def test_validation(client: httpx.Client) -> None:
    good = client.post("/orders", json={"thing": "nail", "pieces": 4})
    assert (good.status_code, good.json()) == (201, {"sum": 6.0, "thing": "nail"})
    many = [{"thing": "nail", "pieces": n % 99 + 1, "price": 2.5} for n in range(5000)]
    assert client.put("/orders/many", json=many).json() == many
    for wrong, where in (({"thing": "nail", "pieces": 0}, "pieces"), ({"pieces": 1}, "thing")):
        answer = client.post("/orders", json=wrong)
        assert answer.status_code == 400
        assert where in json.dumps(answer.json())
    assert client.post("/orders", content=b"{").status_code == 400


def test_dto(client: httpx.Client) -> None:
    person = {"name": "Jürgen", "email": "j@shop.example", "password": "secret"}
    answer = client.post("/people", json=person)
    assert answer.json() == {"name": "Jürgen", "email": "j@shop.example", "id": 7}
    assert client.post("/people", json={**person, "id": 1}).status_code == 400


def test_openapi(client: httpx.Client) -> None:
    schema = client.get("/schema/openapi.json").json()
    assert {"/orders/{number}", "/people", "/upload"} <= set(schema["paths"])
    assert "Order" in json.dumps(schema["components"])
    for page in ("/schema", "/schema/swagger", "/schema/redoc"):
        assert "<html" in client.get(page).text.lower()


def test_many_sleep_at_once(site: Site, client: httpx.Client) -> None:
    promises.sleeps_at_once(site, "/sleep", 0.5)
    assert client.get("/thread").text == "False"


def test_template(client: httpx.Client) -> None:
    assert client.get("/page").text == "<p>Jürgen &amp; Söhne</p>"


def test_upload(client: httpx.Client) -> None:
    content = bytes(range(256)) * 8192
    answer = client.post(
        "/upload",
        data={"title": "Größe & mehr"},
        files={"one": ("ä.bin", content, "application/x-one"), "two": ("b.txt", b"")},
    )
    assert answer.json() == {
        "title": "Größe & mehr",
        "one": ["ä.bin", "application/x-one", 2 * MIB, sha(content)],
        "two": ["b.txt", "text/plain", 0, sha(b"")],
    }


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_request_stream(client: httpx.Client, twenty_mib: bytes, chunked: bool) -> None:
    pieces = (twenty_mib[start : start + 99_991] for start in range(0, 20 * MIB, 99_991))
    answer = client.put("/digest", content=pieces if chunked else twenty_mib).json()
    assert (answer["size"], answer["sha256"]) == (20 * MIB, sha(twenty_mib))
    assert answer["pieces"] > 20  # it came as a stream


def test_body_beyond_the_limit(client: httpx.Client) -> None:
    assert client.post("/orders", content=bytes(4 * MIB + 1)).status_code == 413
    assert client.get("/").text == "Hello, world!"


@pytest.mark.parametrize(("count", "size"), [(1000, 64), (30, 65_536), (1, 5 * MIB), (0, 1)])
def test_response_stream(client: httpx.Client, count: int, size: int) -> None:
    answer = client.get(f"/stream?count={count}&size={size}")
    assert sha(answer.content) == sha(b"".join(bytes([n % 251]) * size for n in range(count)))


def test_server_sent_events(client: httpx.Client) -> None:
    answer = client.get("/events?count=20")
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.text == "".join(f"id: {n}\r\nevent: tick\r\ndata: {n}\r\n\r\n" for n in range(20))


def test_disconnect_ends_events_and_streams(client: httpx.Client, site: Site) -> None:
    with client.stream("GET", "/events", headers=PLAIN) as answer:
        assert next(answer.iter_lines()) == "id: 0"
    client.close()
    assert site.witness.next() == "events over"
    endless = f"{site.url}/stream?count=100000000&size=1000&tell=1"
    with httpx.stream("GET", endless, headers=PLAIN) as answer:
        assert next(answer.iter_bytes(1000)) == bytes(1000)
    assert site.witness.next() == "stream over"


def test_disconnect_in_the_middle_of_an_upload(client: httpx.Client, site: Site) -> None:
    promises.broken_off(client, "/swallow", site)
    assert site.witness.next() == "upload broken off"


def test_background_tasks_and_after_response(client: httpx.Client, site: Site) -> None:
    assert client.get("/background").text == "answered"
    assert [site.witness.next(), site.witness.next()] == ["first", "second"]
    assert client.get("/after").text == "answered"
    assert site.witness.next() == "after response to /after"


def test_sessions_and_stores_hold_across_workers(site: Site) -> None:
    jar = httpx.Cookies()
    for visit in range(1, 11):
        with httpx.Client(base_url=site.url, cookies=jar, timeout=PATIENCE_S) as client:
            assert client.get("/visits").json() == {"visits": visit}
            jar = client.cookies
            if visit == 1:
                client.get("/store/a?value=kept")
            assert client.get("/store/a").text == "kept"


def test_response_cache_and_rate_limit(client: httpx.Client) -> None:
    """Both are the memory of one worker: a connection stays with its own."""
    assert client.get("/cached").text == client.get("/cached").text
    answers = [client.get("/limited") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]


def test_cookies(client: httpx.Client) -> None:
    answer = client.get("/cookies", headers={"cookie": "x=1; y=2"})
    assert answer.json() == {"x": "1", "y": "2"}
    names = [value.partition("=")[0] for value in answer.headers.get_list("set-cookie")]
    assert names[:2] == ["a", "b"]


def test_gzip_and_cors(client: httpx.Client) -> None:
    answer = client.get("/long-text", headers={"accept-encoding": "gzip"})
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.text == "All work and no play. " * 1000
    origin = {"origin": "https://front.example"}
    asked = client.options("/orders/1", headers={**origin, "access-control-request-method": "GET"})
    assert asked.headers["access-control-allow-origin"] == "https://front.example"


def test_files(client: httpx.Client, files: Path) -> None:
    content = (files / "large.bin").read_bytes()
    answer = client.get("/file", headers=PLAIN)
    assert sha(answer.content) == sha(content)
    assert answer.headers["content-length"] == str(len(content))
    assert answer.headers["content-disposition"] == 'attachment; filename="large.bin"'
    style = client.get("/static/style.css")
    assert style.text == (files / "style.css").read_text()
    assert client.get("/static/").text == "<h1>Index</h1>"
    assert client.get("/static/empty.txt").content == b""
    assert client.get("/static/..%2f..%2fetc%2fpasswd").status_code == 404
    assert client.head("/static/page.html").headers["content-length"] == "13"
    assert client.get("/static/page.html").text == "<h1>Page</h1>"


def test_redirect_and_nothing(client: httpx.Client, site: Site) -> None:
    answer = client.get("/redirect", follow_redirects=True)
    assert (answer.text, str(answer.url)) == ("Hello, world!", f"{site.url}/")
    nothing = client.get("/no-content")
    assert (nothing.status_code, nothing.content) == (204, b"")


def test_errors(client: httpx.Client, site: Site) -> None:
    site.expected.append("HTTPException: 418: short and stout")
    answer = client.get("/crash/refused")
    assert (answer.status_code, answer.json()) == (403, {"refused": "not for you"})
    teapot = client.get("/crash/teapot")
    assert (teapot.status_code, teapot.json()["detail"]) == (418, "short and stout")
    assert client.get("/none").status_code == 404


def test_exception_is_500(client: httpx.Client, site: Site) -> None:
    site.expected.append("ZeroDivisionError: crash before the answer")
    answer = client.get("/crash/early")
    assert (answer.status_code, answer.json()["detail"]) == (500, "Internal Server Error")
    assert client.get("/").status_code == 200


def test_exception_within_the_answer_cuts_it_off(client: httpx.Client, site: Site) -> None:
    """Litestar wraps the exception twice."""
    site.expected.append("ZeroDivisionError: crash within the answer")
    site.expected.extend(["LitestarException: Exception caught after response started"] * 2)
    with pytest.raises(httpx.RemoteProtocolError):
        client.get("/crash/late", headers=PLAIN)
    assert client.get("/").status_code == 200


def test_websocket_listeners(site: Site) -> None:
    with connect(f"{site.ws_url}/ws/upper") as ws:
        for word in ("hello", "", "é" * 50_000):
            ws.send(word)
            assert ws.recv(PATIENCE_S) == f"{word.upper()} open"
    with connect(f"{site.ws_url}/ws/orders") as ws:
        ws.send('{"thing": "nail", "pieces": 4}')
        assert json.loads(ws.recv(PATIENCE_S)) == {"sum": 6.0}
    with connect(f"{site.ws_url}/ws/bytes") as ws:
        assert ws.recv(PATIENCE_S) == b"welcome"
        for data in (b"\x00\xff", b"", bytes(range(256)) * 4000):
            ws.send(data)
            assert ws.recv(PATIENCE_S) == data[::-1]
    assert site.witness.next() == "bytes over"


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
            "query": {"a": ["1"]},
            "cookie": "me",
            "started": True,
        }
        assert promises.closed_with(ws) == (4001, "seen enough")


def test_websocket_stream_ends_with_its_client(site: Site) -> None:
    with connect(f"{site.ws_url}/ws/ticks") as ws:
        assert [ws.recv(PATIENCE_S) for _ in range(5)] == [f"tick {n}" for n in range(5)]
    assert site.witness.next() == "ticks over"


def test_websocket_guard(site: Site) -> None:
    with connect(f"{site.ws_url}/ws/locked", additional_headers={"x-key": "open"}) as ws:
        assert ws.recv(PATIENCE_S) == "inside"
        assert promises.closed_with(ws) == (1000, "")
    for path in ("locked", "none"):
        with pytest.raises(InvalidStatus) as refused:
            connect(f"{site.ws_url}/ws/{path}")
        assert refused.value.response.status_code == 403


def test_websocket_exception(site: Site) -> None:
    site.expected.append("ZeroDivisionError: crash in a WebSocket")
    with connect(f"{site.ws_url}/ws/crash") as ws:
        assert promises.closed_with(ws)[0] == 4500


def test_channels(site: Site) -> None:
    """The backend is the memory of one worker: publish until the subscriber's has been met."""
    with contextlib.ExitStack() as stack:
        ws = stack.enter_context(connect(f"{site.ws_url}/ws/channel/news"))
        for number in range(20):  # connections that stay open: each worker gets some of them
            fresh = httpx.Client(base_url=site.url, timeout=PATIENCE_S)
            stack.enter_context(fresh)
            assert fresh.post("/publish/news", json={"n": number}).status_code == 201
            with contextlib.suppress(TimeoutError):
                assert json.loads(ws.recv(0.1)) == {"n": number}
                return
    pytest.fail("no publication was met")


def test_factory_under_a_prefix_and_reloaded(files: Path) -> None:
    options = ("--factory", "--root-path", "/api", *promises.RELOAD_QUICKLY)
    with serving("litestar_site:create_app", files, *options) as site:
        facts = httpx.get(f"{site.url}/who/x").json()
        assert (facts["rest"], facts["base"]) == ("/x", f"{site.url}/api/")
        with connect(f"{site.ws_url}/ws/bytes") as ws:
            assert ws.recv(PATIENCE_S) == b"welcome"
        assert site.witness.next() == "bytes over"
        promises.reloads_without_loss(site, "/pid", GOODBYE)
        promises.stopped(site, GOODBYE)


def test_preloaded(files: Path) -> None:
    """Litestar's log has a thread, which is not forked with the rest: the master says so."""
    with serving("litestar_site:app", files, "--preload") as site:
        site.expected_lines.append("started at import does not work in the workers")
        assert httpx.get(f"{site.url}/orders/1").json()["till"] == "open"
        promises.stopped(site, GOODBYE)
