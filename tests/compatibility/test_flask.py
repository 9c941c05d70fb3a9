"""Flask: routing, blueprint, sessions, templates, upload, streaming, files with range, errors,
threads, disconnects, work after the answer, health check.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.compatibility.serving import PATIENCE_S, WORKERS, Site, Witness, serving

pytestmark = pytest.mark.process

MIB = 1024 * 1024
THREADS = 6


@pytest.fixture(scope="module")
def site(files: Path) -> Iterator[Site]:
    options = ("--interface", "wsgi", "--wsgi-threads", str(THREADS), "--health-path", "/who")
    with serving("flask_site:app", files, *options) as found:
        yield found


@pytest.fixture
def client(site: Site) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=site.url, timeout=PATIENCE_S) as found:
        yield found


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_plain_answer(client: httpx.Client) -> None:
    answer = client.get("/")
    assert (answer.status_code, answer.text) == (200, "Hello, world!")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-length"] == "13"
    assert client.head("/").headers["content-length"] == "13"


def test_all_workers_serve_in_threads(site: Site) -> None:
    pids = set()
    for _ in range(400):
        facts = httpx.get(f"{site.url}/who", timeout=PATIENCE_S).json()
        assert facts["thread"] is False
        assert facts["client"] == "127.0.0.1"
        assert facts["url"] == f"{site.url}/who"
        assert facts["secure"] is False
        pids.add(facts["pid"])
        if len(pids) == WORKERS:
            return
    pytest.fail(f"only {pids} answered 400 new connections")


def test_https_by_a_trusted_proxy(client: httpx.Client) -> None:
    fields = {
        "X-Forwarded-Proto": "https",
        "X-Forwarded-For": "203.0.113.9",
        "X-Forwarded-Host": "shop.example",
    }
    facts = client.get("/who", headers=fields).json()
    assert (facts["client"], facts["url"], facts["secure"]) == (
        "203.0.113.9",
        "https://shop.example/who",
        True,
    )


def test_paths_and_queries(client: httpx.Client, site: Site) -> None:
    assert client.get("/items/42?a=1&b=%C3%A9&a=2&c=").json() == {
        "number": 42,
        "query": [["a", "1"], ["a", "2"], ["b", "é"], ["c", ""]],
        "url": f"{site.url}/items/7",
    }
    fields = [("X-Many", "1"), ("X-Many", "2")]
    assert client.get("/rest/a%20b%2Fc/caf%C3%A9/%F0%9F%98%80", headers=fields).json() == {
        "rest": "a b/c/café/😀",
        "headers": ["1,2"],
    }
    missing = client.get("/items/x")
    assert (missing.status_code, missing.json()) == (404, {"missing": "/items/x"})


def test_blueprint_and_template(client: httpx.Client) -> None:
    assert client.get("/inner/facts").json() == {
        "endpoint": "inner.facts",
        "url": "/inner/facts",
        "root": "",
    }
    assert client.get("/page/<b>").text == "<h1>&lt;b&gt;</h1>/inner/facts"


def test_published_under_a_prefix(files: Path) -> None:
    with (
        serving("flask_site:create_app", files, "--factory", "--root-path", "/shop") as site,
        httpx.Client(base_url=site.url, timeout=PATIENCE_S) as client,
    ):
        answer = client.get("/inner/facts").json()
        assert (answer["url"], answer["root"]) == ("/shop/inner/facts", "/shop")


def test_json(client: httpx.Client) -> None:
    value = {"é": ["😀" * 1000, None, 1.5]}
    assert client.post("/json", json=value).json() == value
    broken = {"content": b"{", "headers": {"content-type": "application/json"}}
    assert client.post("/json", **broken).status_code == 400  # type: ignore[arg-type]


def test_form_redirect_and_flash(client: httpx.Client) -> None:
    value = {"name": "Jürgen & Söhne", "empty": "", "sum": "1+1=2"}
    answer = client.post("/form", data=value, follow_redirects=True)
    assert answer.json() == {"form": value, "said": ["saved"]}


def test_sessions_hold_across_workers(site: Site) -> None:
    jar = httpx.Cookies()
    for visit in range(1, 11):
        with httpx.Client(base_url=site.url, cookies=jar, timeout=PATIENCE_S) as client:
            assert client.get("/visits").json() == {"visits": visit}
            jar = client.cookies


def test_cookies_each_in_a_field_of_its_own(client: httpx.Client) -> None:
    answer = client.get("/cookies", headers={"cookie": "x=1; y=2"})
    assert answer.json() == {"x": "1", "y": "2"}
    assert [value.partition("=")[0] for value in answer.headers.get_list("set-cookie")] == [
        *("a", "b")
    ]


def test_upload(client: httpx.Client, twenty_mib: bytes) -> None:
    answer = client.post(
        "/upload",
        data={"title": "Größe"},
        files={"one": ("ä.bin", twenty_mib, "application/x-one"), "two": ("b.txt", b"")},
    )
    assert answer.json() == {
        "title": "Größe",
        "one": {"name": "ä.bin", "size": 20 * MIB, "sha256": sha(twenty_mib)},
        "two": {"name": "b.txt", "size": 0, "sha256": sha(b"")},
    }


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_request_stream(client: httpx.Client, twenty_mib: bytes, chunked: bool) -> None:
    pieces = (twenty_mib[start : start + 99_991] for start in range(0, 20 * MIB, 99_991))
    answer = client.put("/digest", content=pieces if chunked else twenty_mib).json()
    assert answer == {"size": 20 * MIB, "sha256": sha(twenty_mib)}


def test_request_by_line(client: httpx.Client) -> None:
    text = [f"{'x' * (number * 100)}\n" for number in range(100)]
    assert client.put("/lines", content=(line.encode() for line in text)).json() == text


@pytest.mark.parametrize(("count", "size"), [(1000, 64), (30, 65_536), (1, 5 * MIB), (0, 1)])
def test_response_stream(client: httpx.Client, count: int, size: int) -> None:
    answer = client.get(f"/stream?count={count}&size={size}")
    assert sha(answer.content) == sha(b"".join(bytes([n % 251]) * size for n in range(count)))


def test_disconnect_ends_a_stream(client: httpx.Client, witness: Witness) -> None:
    for _ in range(2 * WORKERS * THREADS):  # no thread stays behind
        with client.stream("GET", f"/events?witness={witness.path}") as answer:
            assert next(answer.iter_lines()) == "data: 0"
        assert witness.next() == "stream over"
    assert client.get("/").status_code == 200


def test_disconnect_in_the_middle_of_an_upload(client: httpx.Client, witness: Witness) -> None:
    class BrokenOff(Exception):
        pass

    def pieces() -> Iterator[bytes]:
        yield b"a" * 1000
        assert witness.next() == "reading"
        raise BrokenOff

    with pytest.raises(BrokenOff):
        client.put(f"/swallow?witness={witness.path}", content=pieces())
    assert witness.next() == "upload broken off"


def test_work_after_the_answer(client: httpx.Client, witness: Witness) -> None:
    assert client.get(f"/later?witness={witness.path}").text == "answered"
    assert witness.next() == "after the answer"


def test_requests_run_beside_each_other(site: Site, files: Path, witness: Witness) -> None:
    """As many as a worker has threads, whichever workers they come to."""
    os.mkfifo(files / "gate")
    gate = os.open(files / "gate", os.O_RDWR)
    query = {"witness": witness.path, "gate": str(files / "gate")}

    def work(number: int) -> str:
        return httpx.get(f"{site.url}/gate", params=query, timeout=PATIENCE_S).text

    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        asked = [pool.submit(work, number) for number in range(THREADS)]
        assert [witness.next() for _ in asked] == ["at the gate"] * THREADS
        os.write(gate, b"o" * THREADS)
        assert [answer.result() for answer in asked] == ["o"] * THREADS
    os.close(gate)


def test_file(client: httpx.Client, files: Path) -> None:
    content = (files / "large.bin").read_bytes()
    answer = client.get("/file")
    assert sha(answer.content) == sha(content)
    assert answer.headers["content-length"] == str(len(content))
    assert "gr%C3%BC%C3%9Fe.bin" in answer.headers["content-disposition"]
    part = client.get("/file", headers={"range": "bytes=1000000-1999999"})
    assert part.status_code == 206
    assert part.headers["content-range"] == f"bytes 1000000-1999999/{len(content)}"
    assert sha(part.content) == sha(content[1_000_000:2_000_000])
    assert client.head("/file").headers["content-length"] == str(len(content))


def test_static_files(client: httpx.Client, files: Path) -> None:
    answer = client.get("/static/style.css")
    assert answer.text == (files / "style.css").read_text()
    again = client.get("/static/style.css", headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get("/static/empty.txt").content == b""
    assert client.get("/static/none").json() == {"missing": "/static/none"}
    assert client.get("/static/..%2f..%2fetc%2fpasswd").status_code == 404


def test_methods(client: httpx.Client) -> None:
    assert client.get("/methods").text == "GET"
    assert client.put("/methods", content=b"put").text == "put"
    refused = client.patch("/methods")
    assert refused.status_code == 405
    assert {"GET", "PUT", "DELETE"} <= set(refused.headers["allow"].split(", "))
    assert client.options("/methods").status_code == 200
    empty = client.get("/no-content")
    assert (empty.status_code, empty.content) == (204, b"")


def test_errors(client: httpx.Client, site: Site) -> None:
    answer = client.get("/teapot")
    assert answer.status_code == 418
    assert "short and stout" in answer.text
    site.expected.append("ZeroDivisionError: crash in a view")
    assert client.get("/crash").status_code == 500
    site.expected.append("ZeroDivisionError: crash within the answer")
    with pytest.raises(httpx.RemoteProtocolError):
        client.get("/crash-late")
    site.expected.append("the application called exit (SystemExit(1))")
    assert client.get("/exit").status_code == 500
    assert client.get("/").status_code == 200


def test_a_websocket_is_refused(site: Site) -> None:
    with pytest.raises(InvalidStatus) as refused, connect(f"{site.ws_url}/"):
        pass
    assert refused.value.response.status_code == 403


def test_many_clients_at_once(site: Site) -> None:
    def work(number: int) -> None:
        with httpx.Client(base_url=site.url, timeout=PATIENCE_S) as client:
            for turn in range(10):
                mark = f"{number}-{turn}"
                assert client.post("/json", json={"mark": mark}).json() == {"mark": mark}
                body = mark.encode() * 20_000
                assert client.put("/digest", content=body).json()["sha256"] == sha(body)

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        list(pool.map(work, range(20)))


def test_stop_waits_for_what_runs(files: Path, witness: Witness) -> None:
    os.mkfifo(files / "last-gate")
    gate = os.open(files / "last-gate", os.O_RDWR)
    query = {"witness": witness.path, "gate": str(files / "last-gate")}
    with (
        concurrent.futures.ThreadPoolExecutor(1) as pool,
        serving("flask_site:app", files, "--interface", "wsgi") as site,
    ):
        url = f"{site.url}/gate"
        asked = pool.submit(lambda: httpx.get(url, params=query, timeout=PATIENCE_S).text)
        assert witness.next() == "at the gate"
        site.process.terminate()
        while "stopping" not in site.log:
            site.process.poll()
        os.write(gate, b"o")
        assert asked.result() == "o"
        site.stop()
    os.close(gate)


def test_stop_does_not_wait_for_ever(files: Path, witness: Witness) -> None:
    """A thread that never ends does not keep the worker."""
    os.mkfifo(files / "closed-gate")
    gate = os.open(files / "closed-gate", os.O_RDWR)
    query = {"witness": witness.path, "gate": str(files / "closed-gate")}
    options = ("--interface", "wsgi", "--graceful-timeout", "2")
    with (
        concurrent.futures.ThreadPoolExecutor(1) as pool,
        serving("flask_site:app", files, *options) as site,
    ):
        asked = pool.submit(httpx.get, f"{site.url}/gate", params=query, timeout=PATIENCE_S)
        assert witness.next() == "at the gate"
        site.stop()
        assert isinstance(asked.exception(), httpx.RemoteProtocolError)
        site.expected_lines += [
            "1 request still runs and is told to stop",
            "1 request cancelled at the end of the budget",
        ]
    os.close(gate)
