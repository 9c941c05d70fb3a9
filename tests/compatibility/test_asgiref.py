"""asgiref: ``WsgiToAsgi``, ``sync_to_async`` (thread-sensitive and not), ``async_to_sync`` in
threads and in its own loop, ``Local``, ``guarantee_single_callable``.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.compatibility.serving import PATIENCE_S, Site, serving

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def site(files: Path) -> Iterator[Site]:
    with serving("asgiref_site:app", files) as found:
        yield found


@pytest.fixture
def client(site: Site) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=site.url, timeout=PATIENCE_S) as found:
        yield found


def test_wsgi_environ(client: httpx.Client) -> None:
    answer = client.post("/wsgi/a%20b/caf%C3%A9?x=1&y=%20", headers={"x-own": "me"}, json={})
    assert answer.status_code == 203
    facts = answer.json()
    # PEP 3333: UTF-8 as if it were Latin-1
    assert facts.pop("path").encode("latin-1").decode() == "/a b/café"
    assert facts == {
        "method": "POST",
        "script": "/wsgi",
        "query": "x=1&y=%20",
        "protocol": "HTTP/1.1",
        "client": "127.0.0.1",
        "scheme": "http",
        "header": "me",
        "type": "application/json",
    }


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_wsgi_upload(client: httpx.Client, twenty_mib: bytes, chunked: bool) -> None:
    pieces = (twenty_mib[start : start + 99_991] for start in range(0, len(twenty_mib), 99_991))
    answer = client.post("/wsgi/digest", content=pieces if chunked else twenty_mib)
    assert answer.text == hashlib.sha256(twenty_mib).hexdigest()


def test_wsgi_pieces(client: httpx.Client) -> None:
    answer = client.get("/wsgi/pieces")
    assert answer.text == "".join(f"{number}\n" for number in range(100))
    assert answer.headers["set-cookie"] == "a=1"
    assert answer.headers["transfer-encoding"] == "chunked"


def test_wsgi_head(client: httpx.Client) -> None:
    answer = client.head("/wsgi/pieces")
    assert (answer.status_code, answer.content) == (200, b"")
    assert client.get("/wsgi/wait").status_code == 200


def test_wsgi_exception(client: httpx.Client, site: Site) -> None:
    site.expected.append("ZeroDivisionError: crash in WSGI")
    answer = client.get("/wsgi/crash")
    assert (answer.status_code, answer.text) == (500, "Internal Server Error")
    assert client.get("/wsgi/wait").status_code == 200


def test_a_waiting_wsgi_request_does_not_hold_the_loop(site: Site) -> None:
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(httpx.get, f"{site.url}/wsgi/wait") for _ in range(4)]
        assert httpx.get(f"{site.url}/where").json()["double"] is True
        assert all("Thread" in task.result().text for task in waiting)


def test_threads(client: httpx.Client) -> None:
    facts = client.get("/threads").json()
    assert facts["sensitive"] == 1
    assert facts["same"] is False  # a request can have a thread of its own
    assert facts["met"] == 3
    assert facts["pooled"].startswith("own-pool")
    assert facts["main"] is False


def test_async_to_sync_comes_back_to_the_loop(client: httpx.Client) -> None:
    assert client.get("/nested").json() == {"on the loop": True}


def test_async_to_sync_in_a_foreign_thread(client: httpx.Client) -> None:
    assert client.get("/from-a-thread").json()["loop"] in {"asyncio", "uvloop"}


def test_locals_are_those_of_one_request(site: Site) -> None:
    def ask(number: int) -> object:
        return httpx.get(f"{site.url}/locals?{number}", timeout=PATIENCE_S).json()

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(64)))
    for number, facts in enumerate(answers):
        mark = str(number)
        assert facts == {"before": None, "thread": mark, "back": f"{mark} again", "own": mark}


def test_exception_in_a_thread(client: httpx.Client, site: Site) -> None:
    site.expected.append("ZeroDivisionError: crash in a thread")
    assert client.get("/raises").status_code == 500


def test_double_callable(client: httpx.Client) -> None:
    assert client.get("/double").json() == {"double": "/double"}
