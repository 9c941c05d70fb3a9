"""Sanic in ASGI mode: listeners, blueprints with versions and middleware, views, streaming of
requests and responses, files, static files, WebSocket, tasks, cookies, app.ctx, error handlers.

What differs in ASGI mode from Sanic's own server is Sanic's doing, and tested as it is.
"""

from __future__ import annotations

import hashlib
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
GONE = "ClientDisconnected: the client has closed the connection"
STARTED = ["before_server_start", "after_server_start"]
GOODBYE = ", ".join([*STARTED, "before_server_stop", "after_server_stop"])


@pytest.fixture(scope="module")
def site(files: Path) -> Iterator[Site]:
    with serving("sanic_asgi:app", files) as found:
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
    assert answer.headers["x-signed"] == "sanic"
    head = client.head("/")
    assert (head.status_code, head.content, head.headers["x-head"]) == (200, b"", "yes")
    assert client.get("/").text == "Hello, world!"


def test_listeners_and_tasks_in_all_workers(site: Site) -> None:
    pids = set()
    for _ in range(400):
        facts = httpx.get(f"{site.url}/who?a=1&b=%C3%A9&a=2", timeout=PATIENCE_S).json()
        pids.add(facts.pop("pid"))
        assert facts == {
            "events": STARTED,
            "ticking": True,
            "client": "127.0.0.1",
            "url": f"{site.url}/who?a=1&b=%C3%A9&a=2",
            "version": "1.1",
            "query": {"a": ["1", "2"], "b": ["é"]},
        }
        if len(pids) == WORKERS:
            return
    pytest.fail(f"only {pids} answered 400 new connections")


def test_blueprint(client: httpx.Client, site: Site) -> None:
    assert client.get("/v1/shop/thing/42").json() == {
        "number": 42,
        "till": "open",
        "here": "/v1/shop/thing/42",
    }
    away = client.get("/v1/shop/away/a%20b%2Fcaf%C3%A9").json()
    assert away == {
        "rest": "a%20b%2Fcaf%C3%A9",
        "path": "/v1/shop/away/a%20b%2Fcaf%C3%A9",
        "url": f"{site.url}/v1/shop/away/a%20b%2Fcaf%C3%A9",
    }
    assert client.post("/v1/shop/thing/42").status_code == 405


def test_view(client: httpx.Client) -> None:
    assert client.get("/view/x").text == "got x"
    assert (client.put("/view/x").status_code, client.delete("/view/x").status_code) == (201, 204)


def test_many_sleep_at_once(site: Site, client: httpx.Client) -> None:
    promises.sleeps_at_once(site, "/sleep", 0.5)
    assert client.get("/thread").text == "slept in a thread"


def test_json(client: httpx.Client) -> None:
    value = {"a": [1, 2.5, None, True], "é": "😀" * 1000}
    assert client.post("/json", json=value).json() == value
    assert client.post("/json", content=b"{").status_code == 400


def test_form_with_files(client: httpx.Client) -> None:
    content = bytes(range(256)) * 2048
    answer = client.post(
        "/form",
        data={"title": "Größe & mehr"},
        files={"one": ("ä.bin", content, "application/x-one"), "two": ("b.txt", b"")},
    )
    assert answer.json() == {
        "title": ["Größe & mehr"],
        "one": ["ä.bin", "application/x-one", MIB // 2, sha(content)],
        "two": ["b.txt", "text/plain", 0, sha(b"")],
    }


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_request_stream(client: httpx.Client, twenty_mib: bytes, chunked: bool) -> None:
    pieces = (twenty_mib[start : start + 99_991] for start in range(0, 20 * MIB, 99_991))
    answer = client.put("/digest", content=pieces if chunked else twenty_mib).json()
    assert (answer["size"], answer["sha256"]) == (20 * MIB, sha(twenty_mib))
    assert answer["pieces"] > 20  # it came as a stream


def test_body_beyond_the_limit(client: httpx.Client, twenty_mib: bytes) -> None:
    """Only Sanic's own server looks at REQUEST_MAX_SIZE."""
    answer = client.post("/whole", content=twenty_mib[: 3 * MIB]).json()
    assert answer == {"size": 3 * MIB, "sha256": sha(twenty_mib[: 3 * MIB])}


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
    assert answer.text == "".join(f"data: {n}\n\n" for n in range(20))


def test_disconnect_ends_a_stream(client: httpx.Client, site: Site) -> None:
    site.expected.append(GONE)
    with client.stream("GET", "/events") as answer:
        assert next(answer.iter_lines()) == "data: 0"
    client.close()
    assert site.witness.next() == "stream over"


def test_disconnect_in_the_middle_of_an_upload(client: httpx.Client, site: Site) -> None:
    """Sanic takes http.disconnect for the end of the body, and logs that it cannot answer."""
    site.expected.extend([GONE] * 6)
    promises.broken_off(client, "/swallow", site)
    assert site.witness.next() == "read 1000"


def test_tasks(client: httpx.Client, site: Site) -> None:
    assert client.get("/background").text == "answered"
    assert site.witness.next() == "done later"


def test_cookies(client: httpx.Client) -> None:
    answer = client.get("/cookies", headers={"cookie": "x=1; y=2"})
    assert answer.json() == {"x": "1", "y": "2"}
    names = [value.partition("=")[0] for value in answer.headers.get_list("set-cookie")]
    assert names == ["a", "b", "c"]


def test_files(client: httpx.Client, files: Path) -> None:
    content = (files / "large.bin").read_bytes()
    answer = client.get("/file")
    assert sha(answer.content) == sha(content)
    assert answer.headers["content-disposition"] == 'attachment; filename="large file.bin"'
    assert sha(client.get("/file-stream").content) == sha(content)


def test_static_files(client: httpx.Client, files: Path) -> None:
    content = (files / "large.bin").read_bytes()
    answer = client.get("/static/style.css")
    assert answer.text == (files / "style.css").read_text()
    assert answer.headers["content-type"] == "text/css; charset=utf-8"
    assert client.get("/static/").text == "<h1>Index</h1>"
    assert client.get("/static/empty.txt").content == b""
    part = client.get("/static/large.bin", headers={"range": "bytes=1000000-1999999"})
    assert (part.status_code, sha(part.content)) == (206, sha(content[1_000_000:2_000_000]))
    since = {"if-modified-since": answer.headers["last-modified"]}
    later = client.get("/static/style.css", headers=since)
    assert (later.status_code, later.content) == (304, b"")
    assert client.get("/static/none").status_code == 404
    assert client.get("/static/..%2f..%2fetc%2fpasswd").status_code in {400, 404}
    promises.head_has_no_body(client, "/static/page.html")


def test_redirect_and_nothing(client: httpx.Client, site: Site) -> None:
    answer = client.get("/redirect", follow_redirects=True)
    assert (answer.text, str(answer.url)) == ("Hello, world!", f"{site.url}/")
    nothing = client.get("/no-content")
    assert (nothing.status_code, nothing.content) == (204, b"")


def test_errors(client: httpx.Client, site: Site) -> None:
    answer = client.get("/refused")
    assert (answer.status_code, answer.json()) == (403, {"refused": "go away"})
    forbidden = client.get("/forbidden")
    assert (forbidden.status_code, forbidden.json()["message"]) == (403, "not for you")
    assert forbidden.headers["x-why"] == "because"
    site.expected.append("SanicException: short and stout")
    assert client.get("/teapot").status_code == 418
    assert client.get("/none").json()["description"] == "Not Found"


def test_exception_is_500(client: httpx.Client, site: Site) -> None:
    site.expected.append("ZeroDivisionError: crash before the answer")
    answer = client.get("/crash")
    assert (answer.status_code, answer.json()["description"]) == (500, "Internal Server Error")
    assert client.get("/").status_code == 200


def test_exception_within_the_answer_cuts_it_off(client: httpx.Client, site: Site) -> None:
    site.expected.append("ZeroDivisionError: crash within the answer")
    site.expected_lines.append("the application returned without completing its response")
    with pytest.raises(httpx.RemoteProtocolError):
        client.get("/crash-late")
    assert client.get("/").status_code == 200


def test_websocket_echo(site: Site) -> None:
    with connect(f"{site.ws_url}/ws/echo") as ws:
        for message in ("hello", "", "é" * 50_000, b"", b"\x00\xff", bytes(MIB)):
            ws.send(message)
            assert ws.recv(PATIENCE_S) == message
        for number in range(300):
            ws.send(str(number))
        assert [ws.recv(PATIENCE_S) for _ in range(300)] == [str(n) for n in range(300)]
    assert site.witness.next() == "client left"


def test_websocket_facts(site: Site) -> None:
    with connect(
        f"{site.ws_url}/ws/facts/blue?a=1",
        subprotocols=[Subprotocol("chat.v1"), Subprotocol("chat.v2")],
        additional_headers={"cookie": "who=me"},
    ) as ws:
        assert ws.subprotocol == "chat.v2"
        assert ws.recv(PATIENCE_S) == "blue /ws/facts/blue 1 me"
        assert promises.closed_with(ws) == (1000, "")  # close() of Sanic is empty in ASGI mode


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


def test_websocket_exception(site: Site) -> None:
    """Sanic logs it and returns, as if all were well."""
    site.expected.append("ZeroDivisionError: crash in a WebSocket")
    with connect(f"{site.ws_url}/ws/crash") as ws:
        assert promises.closed_with(ws) == (1000, "")


def test_websocket_to_nowhere(site: Site) -> None:
    """Sanic answers with messages of HTTP, which are not for a WebSocket."""
    site.expected.extend(["RuntimeError: unexpected ASGI message 'http.response.start'"] * 6)
    site.expected.extend(["NotFound: Requested URL /ws/none not found"] * 3)
    with pytest.raises(InvalidStatus) as refused:
        connect(f"{site.ws_url}/ws/none")
    assert refused.value.response.status_code == 500


def test_factory_preloaded_and_reloaded(files: Path) -> None:
    options = ("--factory", "--preload", "--body-max-size", "1MiB", *promises.RELOAD_QUICKLY)
    with serving("sanic_site:create_app", files, *options) as site:
        answer = httpx.post(f"{site.url}/whole", content=bytes(MIB + 1), timeout=PATIENCE_S)
        assert answer.status_code == 413
        promises.reloads_without_loss(site, "/pid", GOODBYE)
        promises.stopped(site, GOODBYE)


def test_under_a_prefix(files: Path) -> None:
    """Sanic knows no root_path: what it is to serve has to be named with the prefix."""
    with serving("sanic_asgi:app", files, "--root-path", "/v1/shop") as site:
        assert httpx.get(f"{site.url}/thing/1").json()["number"] == 1
        assert httpx.get(site.url).status_code == 404
        promises.stopped(site, GOODBYE)
