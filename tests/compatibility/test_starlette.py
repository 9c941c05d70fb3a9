"""Starlette: routing, middleware stack, streaming, SSE, FileResponse with range, lifespan state,
WebSocket.
"""

from __future__ import annotations

import concurrent.futures
import gzip
import hashlib
import json
import re
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from tests.compatibility.serving import PATIENCE_S, WORKERS, Site, Witness, serving

pytestmark = pytest.mark.process

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def site(files: Path) -> Iterator[Site]:
    with serving("starlette_site:app", files) as found:
        yield found
        found.stop()
        assert [found.witness.next() for _ in range(WORKERS)] == ["lifespan over"] * WORKERS


@pytest.fixture
def client(site: Site) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=site.url, timeout=PATIENCE_S) as found:
        yield found


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_plain_answer(client: httpx.Client) -> None:
    answer = client.get("/")
    assert (answer.status_code, answer.text) == (200, "Hello, world!")
    assert answer.http_version == "HTTP/1.1"
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert "date" in answer.headers
    plain = client.get("/", headers={"accept-encoding": "identity"})
    assert plain.headers["content-length"] == "13"


def test_all_workers_serve(site: Site) -> None:
    pids = set()
    for _ in range(400):
        facts = httpx.get(f"{site.url}/who", timeout=PATIENCE_S).json()
        assert facts["started_in"] == facts["pid"]
        assert facts["client"] == "127.0.0.1"
        assert facts["url"] == f"{site.url}/who"
        assert facts["http_version"] == "1.1"
        assert facts["loop"] == "uvloop"
        pids.add(facts["pid"])
        if len(pids) == WORKERS:
            return
    pytest.fail(f"only {pids} answered 400 new connections")


def test_kept_alive_connection_stays_with_its_worker(client: httpx.Client) -> None:
    answers = [client.get("/") for _ in range(20)]
    assert len({answer.headers["x-process"] for answer in answers}) == 1
    hits = [int(answer.headers["x-hits"]) for answer in answers]
    assert hits == list(range(hits[0], hits[0] + 20))


def test_lifespan_state_is_shallow(client: httpx.Client) -> None:
    first = int(client.get("/").headers["x-hits"])
    assert int(client.get("/").headers["x-hits"]) == first + 1


def test_paths_and_queries(client: httpx.Client, site: Site) -> None:
    answer = client.get("/items/42?a=1&b=%C3%A9&a=2&c=")
    assert answer.json() == {
        "number": 42,
        "query": [["a", "1"], ["b", "é"], ["a", "2"], ["c", ""]],
        "url": f"{site.url}/items/7",
    }
    assert client.get("/items/x").status_code == 404


def test_encoded_path(client: httpx.Client) -> None:
    assert client.get("/rest/a%20b%2Fc/caf%C3%A9").json() == {
        "rest": "a b/c/café",
        "path": "/rest/a b/c/café",
        "raw_path": "/rest/a%20b%2Fc/caf%C3%A9",
    }


def test_mounted_application(client: httpx.Client, site: Site) -> None:
    facts = client.get("/inner/facts/x%2Fy").json()
    assert (facts["rest"], facts["path"]) == ("x/y", "/inner/facts/x/y")
    assert client.get("/inner/url").json()["url"] == f"{site.url}/inner/url"


def test_json(client: httpx.Client) -> None:
    value = {"a": [1, 2.5, None, True], "é": "😀" * 1000}
    assert client.post("/json", json=value).json() == value


def test_form(client: httpx.Client) -> None:
    value = {"name": "Jürgen & Söhne", "empty": "", "sum": "1+1=2"}
    assert client.post("/form", data=value).json() == value


def test_upload_of_1_mib(client: httpx.Client) -> None:
    content = bytes(range(256)) * 4096
    answer = client.post(
        "/upload",
        data={"title": "Größe"},
        files={"one": ("ä.bin", content, "application/x-one"), "two": ("b.txt", b"")},
    )
    assert answer.json() == {
        "title": "Größe",
        "one": {"name": "ä.bin", "type": "application/x-one", "size": MIB, "sha256": sha(content)},
        "two": {"name": "b.txt", "type": "text/plain", "size": 0, "sha256": sha(b"")},
    }


def test_upload_of_20_mib(client: httpx.Client, twenty_mib: bytes) -> None:
    answer = client.post("/upload", files={"one": ("a.bin", twenty_mib)}).json()
    assert (answer["one"]["size"], answer["one"]["sha256"]) == (20 * MIB, sha(twenty_mib))


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
    answer = client.get(f"/stream?count={count}&size={size}", headers={"accept-encoding": ""})
    assert count < 2 or answer.headers["transfer-encoding"] == "chunked"
    assert sha(answer.content) == sha(b"".join(bytes([n % 251]) * size for n in range(count)))


def test_response_stream_of_a_plain_iterator(client: httpx.Client) -> None:
    assert client.get("/stream-sync").text == "".join(f"{n}\n" for n in range(50))


def test_server_sent_events(client: httpx.Client) -> None:
    with client.stream("GET", "/events?count=20") as answer:
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        data = [line[6:] for line in answer.iter_lines() if line.startswith("data: ")]
    assert [json.loads(line)["number"] for line in data] == list(range(20))


def test_disconnect_ends_a_stream(client: httpx.Client, witness: Witness) -> None:
    with client.stream("GET", f"/events?witness={witness.path}") as answer:
        lines = answer.iter_lines()
        assert next(lines) == "id: 0"
    client.close()
    assert witness.next() == "stream over"


def test_disconnect_is_seen_while_polling(site: Site, witness: Witness) -> None:
    with httpx.Client(base_url=site.url) as client, pytest.raises(httpx.ReadTimeout):
        client.get(f"/linger?witness={witness.path}", timeout=0.5)
    assert witness.next() == "waiting"
    assert witness.next() == "client gone"


def test_disconnect_in_the_middle_of_an_upload(client: httpx.Client, witness: Witness) -> None:
    class BrokenOff(Exception):
        pass

    def pieces() -> Iterator[bytes]:
        yield b"a" * 1000
        assert witness.next() == "reading"
        raise BrokenOff

    with pytest.raises(BrokenOff):
        client.post(f"/swallow?witness={witness.path}", content=pieces())
    assert witness.next() == "upload broken off"


def test_endpoint_in_the_thread_pool(client: httpx.Client) -> None:
    assert "AnyIO" in client.get("/in-thread").text
    assert "AnyIO" in client.get("/to-thread").text


def test_background_tasks_run_after_the_answer(client: httpx.Client, witness: Witness) -> None:
    assert client.get(f"/background?witness={witness.path}").text == "answered"
    assert [witness.next(), witness.next()] == ["first", "second"]


def test_file(client: httpx.Client, files: Path) -> None:
    content = (files / "large.bin").read_bytes()
    answer = client.get("/file", headers={"accept-encoding": "identity"})
    assert sha(answer.content) == sha(content)
    assert answer.headers["content-length"] == str(len(content))
    assert "gr%C3%BC%C3%9Fe.bin" in answer.headers["content-disposition"]


def test_file_head(client: httpx.Client, files: Path) -> None:
    answer = client.head("/file", headers={"accept-encoding": "identity"})
    assert answer.content == b""
    assert answer.headers["content-length"] == str((files / "large.bin").stat().st_size)
    assert client.get("/").text == "Hello, world!"


def test_file_ranges(client: httpx.Client, files: Path) -> None:
    content = (files / "large.bin").read_bytes()

    def get(wanted: str) -> httpx.Response:
        return client.get("/file", headers={"range": wanted, "accept-encoding": "identity"})

    answer = get("bytes=1000000-1999999")
    assert answer.status_code == 206
    assert answer.headers["content-range"] == f"bytes 1000000-1999999/{len(content)}"
    assert sha(answer.content) == sha(content[1_000_000:2_000_000])
    assert get("bytes=-5").content == content[-5:]
    several = get("bytes=0-9,100-109")
    assert several.headers["content-type"].startswith("multipart/byteranges")
    assert content[:10] in several.content
    assert content[100:110] in several.content
    assert get(f"bytes={len(content)}-").status_code == 416


def test_static_files(client: httpx.Client, files: Path) -> None:
    answer = client.get("/static/style.css")
    assert answer.headers["content-type"] == "text/css; charset=utf-8"
    assert answer.text == (files / "style.css").read_text()
    tag, changed = answer.headers["etag"], answer.headers["last-modified"]
    assert client.get("/static/style.css", headers={"if-none-match": tag}).status_code == 304
    later = client.get("/static/style.css", headers={"if-modified-since": changed})
    assert (later.status_code, later.content) == (304, b"")
    long_ago = client.get("/static/style.css", headers={"if-modified-since": formatdate(0)})
    assert long_ago.status_code == 200
    assert client.get("/static/").text == "<h1>Index</h1>"
    assert client.get("/static/empty.txt").content == b""
    assert client.head("/static/page.html").headers["content-length"] == "13"
    assert client.get("/static/none").status_code == 404
    assert client.get("/static/..%2f..%2fetc%2fpasswd").status_code == 404


def test_gzip(client: httpx.Client, site: Site) -> None:
    with client.stream("GET", "/long-text", headers={"accept-encoding": "gzip"}) as answer:
        assert answer.headers["content-encoding"] == "gzip"
        raw = b"".join(answer.iter_raw())
    assert gzip.decompress(raw) == b"All work and no play. " * 1000


def test_cors(client: httpx.Client) -> None:
    origin = {"origin": "https://front.example"}
    asked = client.options("/methods", headers={**origin, "access-control-request-method": "PUT"})
    assert asked.status_code == 200
    assert asked.headers["access-control-allow-origin"] == "https://front.example"
    assert client.get("/", headers=origin).headers["access-control-allow-origin"] == (
        "https://front.example"
    )


def test_trusted_host(client: httpx.Client) -> None:
    assert client.get("/", headers={"host": "evil.test"}).status_code == 400
    assert client.get("/", headers={"host": "shop.example"}).status_code == 200


def test_sessions_hold_across_workers(site: Site) -> None:
    jar = httpx.Cookies()
    for visit in range(1, 11):
        with httpx.Client(base_url=site.url, cookies=jar, timeout=PATIENCE_S) as client:
            assert client.get("/session").json() == {"visits": visit}
            jar = client.cookies


def test_cookies_each_in_a_field_of_its_own(client: httpx.Client) -> None:
    answer = client.get("/cookies", headers={"cookie": "x=1; y=2"})
    assert answer.json() == {"x": "1", "y": "2"}
    assert [value.partition("=")[0] for value in answer.headers.get_list("set-cookie")] == [
        *("a", "b", "c")
    ]


def test_redirect(client: httpx.Client, site: Site) -> None:
    answer = client.get("/redirect", follow_redirects=True)
    assert (answer.text, str(answer.url)) == ("Hello, world!", f"{site.url}/")
    slash = client.get("/methods/")
    assert slash.headers["location"] == f"{site.url}/methods"


def test_answers_without_a_body(client: httpx.Client) -> None:
    answer = client.get("/no-content")
    assert (answer.status_code, answer.content) == (204, b"")
    assert "content-length" not in answer.headers
    assert client.get("/not-modified").status_code == 304
    assert client.get("/").text == "Hello, world!"


def test_methods(client: httpx.Client) -> None:
    assert client.get("/methods").text == "got"
    answer = client.put("/methods", content=b"put")
    assert (answer.status_code, answer.text) == (201, "put")
    assert client.delete("/methods").status_code == 204
    refused = client.patch("/methods")
    assert refused.status_code == 405
    assert {"GET", "PUT", "DELETE"} <= set(refused.headers["allow"].split(", "))


def test_many_header_fields(client: httpx.Client) -> None:
    sent = [(f"x-{number}", "v" * number) for number in range(80)]
    got = client.get("/headers", headers=sent).json()
    assert [pair for pair in got if re.fullmatch(r"x-\d+", pair[0])] == [list(p) for p in sent]


def test_http_exception(client: httpx.Client) -> None:
    answer = client.get("/teapot")
    assert (answer.status_code, answer.text) == (418, "short and stout")
    assert answer.headers["x-lid"] == "on"


def test_exception_is_500(client: httpx.Client, site: Site) -> None:
    site.expected.append("ZeroDivisionError: crash before the answer")
    answer = client.get("/crash")
    assert (answer.status_code, answer.text) == (500, "Internal Server Error")
    assert client.get("/").status_code == 200


def test_exception_within_the_answer_cuts_it_off(client: httpx.Client, site: Site) -> None:
    site.expected.append("ZeroDivisionError: crash within the answer")
    with pytest.raises(httpx.RemoteProtocolError):
        client.get("/crash-late", headers={"accept-encoding": "identity"})
    assert client.get("/").status_code == 200


def test_middleware_that_wraps_both_streams(
    client: httpx.Client, site: Site, witness: Witness, twenty_mib: bytes
) -> None:
    assert "x-timed" in client.get("/timed/home").headers
    assert client.put("/timed/digest", content=twenty_mib).json()["sha256"] == sha(twenty_mib)
    assert len(client.get("/timed/stream?count=100&size=1000").content) == 100_000
    assert client.get(f"/timed/background?witness={witness.path}").text == "answered"
    assert [witness.next(), witness.next()] == ["first", "second"]
    with client.stream("GET", f"/timed/events?witness={witness.path}") as answer:
        assert next(answer.iter_lines()) == "id: 0"
    client.close()
    assert witness.next() == "stream over"


def test_many_clients_at_once(site: Site) -> None:
    """Each gets its own answer, and none another's."""

    def work(number: int) -> None:
        with httpx.Client(base_url=site.url, timeout=PATIENCE_S) as client:
            for turn in range(10):
                mark = f"{number}-{turn}"
                assert client.post("/json", json={"mark": mark}).json() == {"mark": mark}
                assert client.get(f"/rest/{mark}").json()["rest"] == mark
                body = mark.encode() * 5000
                assert client.post("/digest", content=body).json()["sha256"] == sha(body)
                assert "AnyIO" in client.get("/in-thread").text

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))


def test_websocket_echo(site: Site, witness: Witness) -> None:
    with connect(f"{site.ws_url}/ws/echo?witness={witness.path}") as ws:
        for message in ("hello", "", "é" * 50_000, b"", b"\x00\xff", bytes(MIB)):
            ws.send(message)
            assert ws.recv(PATIENCE_S) == message
        ws.send(["a", "b", "c"])
        assert ws.recv(PATIENCE_S) == "abc"
        ws.ping().wait(PATIENCE_S)
    assert witness.next() == "closed 1000"


def test_websocket_messages_in_a_burst(site: Site) -> None:
    with connect(f"{site.ws_url}/ws/echo") as ws:
        for number in range(500):
            ws.send(str(number))
        assert [ws.recv(PATIENCE_S) for _ in range(500)] == [str(n) for n in range(500)]


def test_websocket_facts(site: Site) -> None:
    with connect(
        f"{site.ws_url}/ws/facts/blue%20room?a=1",
        subprotocols=[Subprotocol("chat.v1"), Subprotocol("chat.v2")],
        additional_headers={"cookie": "who=me"},
    ) as ws:
        assert ws.subprotocol == "chat.v2"
        assert ws.response is not None
        assert ws.response.headers["x-accepted"] == "yes"
        facts = json.loads(ws.recv(PATIENCE_S))
        with pytest.raises(ConnectionClosed) as closed:
            ws.recv(PATIENCE_S)
    assert isinstance(facts.pop("started_in"), int)
    assert facts == {
        "path": "/ws/facts/blue room",
        "query": {"a": "1"},
        "room": "blue room",
        "cookie": "me",
        "offered": ["chat.v1", "chat.v2"],
    }
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "seen enough")


def test_websocket_refused(site: Site) -> None:
    with pytest.raises(InvalidStatus) as refused:
        connect(f"{site.ws_url}/ws/refuse")
    assert refused.value.response.status_code == 403
    with pytest.raises(InvalidStatus) as refused:
        connect(f"{site.ws_url}/ws/none")
    assert refused.value.response.status_code in {403, 404}


def test_websocket_denied_with_a_response(site: Site) -> None:
    with pytest.raises(InvalidStatus) as denied:
        connect(f"{site.ws_url}/ws/deny")
    assert denied.value.response.status_code == 429
    assert json.loads(denied.value.response.body or b"") == {"detail": "not today"}


def test_websocket_exception(site: Site) -> None:
    site.expected.append("ZeroDivisionError: crash in a WebSocket")
    with connect(f"{site.ws_url}/ws/crash") as ws, pytest.raises(ConnectionClosed) as closed:
        ws.recv(PATIENCE_S)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1011


def test_websocket_push_and_receive(site: Site) -> None:
    with connect(f"{site.ws_url}/ws/clock") as ws:
        ticks: list[int] = []
        words: list[str] = []
        ws.send("one")
        ws.send("two")
        while len(ticks) < 5 or len(words) < 2:
            message = str(ws.recv(PATIENCE_S))
            if message.startswith("{"):
                ticks.append(json.loads(message)["tick"])
            else:
                words.append(message)
    assert ticks == list(range(len(ticks)))
    assert words == ["ONE", "TWO"]


def test_websockets_side_by_side(site: Site) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:

        def work(number: int) -> None:
            with connect(f"{site.ws_url}/ws/echo") as ws:
                for turn in range(50):
                    ws.send(f"{number} {turn}")
                    assert ws.recv(PATIENCE_S) == f"{number} {turn}"

        list(pool.map(work, range(24)))
