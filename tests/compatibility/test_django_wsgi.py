"""Django as WSGI: sync and async views, streaming, uploads, static files, sessions, admin login,
database connections of threads, published under a prefix.
"""

from __future__ import annotations

import concurrent.futures
import gzip
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.compatibility.managing import PASSWORD, SUPERUSER, prepared
from tests.compatibility.serving import PATIENCE_S, WORKERS, Site, Witness, serving

pytestmark = pytest.mark.process

MIB = 1024 * 1024
THREADS = 8
APPLICATION = "django_site.wsgi:application"
_token = re.compile(r'name="csrfmiddlewaretoken" value="(\w+)"')


@pytest.fixture(scope="module")
def environ(files: Path) -> dict[str, str]:
    (files / "public").mkdir()
    (files / "public" / "shop.css").write_text("h1 { color: teal }\n" * 100)
    return prepared("django_site.settings", files)


@pytest.fixture(scope="module")
def site(files: Path, environ: dict[str, str]) -> Iterator[Site]:
    with serving(APPLICATION, files, "--wsgi-threads", str(THREADS), **environ) as found:
        yield found
        assert found.log.count("is served as a WSGI application") == 1


@pytest.fixture
def client(site: Site) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=site.url, timeout=PATIENCE_S) as found:
        yield found


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_all_workers_serve(site: Site) -> None:
    pids = set()
    for _ in range(400):
        facts = httpx.get(site.url, timeout=PATIENCE_S).json()
        assert facts["client"] == "127.0.0.1"
        assert facts["url"] == f"{site.url}/"
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
    facts = client.get("/", headers=fields).json()
    assert facts["secure"] is True
    assert facts["client"] == "203.0.113.9"
    assert facts["url"] == "https://shop.example/"


def test_views_of_both_kinds(client: httpx.Client) -> None:
    facts = client.get("/sync/?a=1&a=%C3%A9").json()
    assert facts == {"main_thread": False, "get": {"a": ["1", "é"]}}
    assert client.get("/items/41/").json() == {"number": 41, "url": "/items/42/"}
    assert client.get("/items/x/").status_code == 404
    moved = client.get("/sync")
    assert (moved.status_code, moved.headers["location"]) == (301, "/sync/")


def test_published_under_a_prefix(files: Path, environ: dict[str, str]) -> None:
    with (
        serving(APPLICATION, files, "--root-path", "/shop", **environ) as site,
        httpx.Client(base_url=site.url, timeout=PATIENCE_S) as client,
    ):
        assert client.get("/items/41/").json() == {"number": 41, "url": "/shop/items/42/"}
        assert client.get("/").json()["url"] == f"{site.url}/shop/"


def test_json(client: httpx.Client) -> None:
    value = {"é": ["😀" * 1000, None, 1.5]}
    assert client.post("/json/", json=value).json() == {"got": value}


def test_form_session_and_csrf(client: httpx.Client) -> None:
    assert client.post("/form/", data={"name": "Ali", "age": "40"}).status_code == 403
    found = _token.search(client.get("/form/").text)
    assert found is not None
    fields = {"csrfmiddlewaretoken": found[1], "name": "Ali", "age": "-1"}
    assert client.post("/form/", data=fields).status_code == 422
    answer = client.post("/form/", data={**fields, "age": "40"}, follow_redirects=True)
    assert answer.json()["contact"] == {"name": "Ali", "age": 40}


def test_sessions_hold_across_workers(site: Site) -> None:
    jar = httpx.Cookies()
    for visit in range(1, 11):
        with httpx.Client(base_url=site.url, cookies=jar, timeout=PATIENCE_S) as client:
            assert client.get("/visits/").json()["visits"] == visit
            jar = client.cookies


@pytest.mark.parametrize(
    ("size", "kind"), [(MIB, "InMemoryUploadedFile"), (20 * MIB, "TemporaryUploadedFile")]
)
def test_upload(client: httpx.Client, twenty_mib: bytes, size: int, kind: str) -> None:
    content = twenty_mib[:size]
    answer = client.post("/upload/", data={"t": "Größe"}, files={"one": ("ä.bin", content)})
    assert answer.json() == {
        "t": "Größe",
        "one": {"name": "ä.bin", "size": size, "sha256": sha(content), "kind": kind},
    }


def test_body(client: httpx.Client, twenty_mib: bytes) -> None:
    answer = client.put("/raw/", content=twenty_mib)
    assert answer.json() == {"size": 20 * MIB, "sha256": sha(twenty_mib)}


def test_body_without_a_length_is_none_to_django(client: httpx.Client) -> None:
    """It does so with every WSGI server; its ASGI application reads such bodies."""
    answer = client.put("/raw/", content=(b"abc" for _ in range(3)))
    assert answer.json() == {"size": 0, "sha256": sha(b"")}
    assert client.get("/sync/").status_code == 200


def test_stream(client: httpx.Client) -> None:
    lines = "".join(f"{number}\n" for number in range(100))
    plain = client.get("/stream-sync/", headers={"accept-encoding": "identity"})
    assert plain.headers["transfer-encoding"] == "chunked"
    assert plain.text == lines
    with client.stream("GET", "/stream-sync/", headers={"accept-encoding": "gzip"}) as answer:
        packed = b"".join(answer.iter_raw())
    assert gzip.decompress(packed).decode() == lines


def test_file(client: httpx.Client, files: Path) -> None:
    content = (files / "large.bin").read_bytes()
    answer = client.get("/file/", headers={"accept-encoding": "identity"})
    assert answer.headers["content-length"] == str(len(content))
    assert answer.headers["content-disposition"] == 'attachment; filename="large.bin"'
    assert sha(answer.content) == sha(content)
    empty = client.head("/file/", headers={"accept-encoding": "identity"})
    assert (empty.status_code, empty.content) == (200, b"")
    assert empty.headers["content-length"] == str(len(content))


def test_static_files(client: httpx.Client, files: Path) -> None:
    answer = client.get("/static/shop.css")
    assert answer.text == (files / "public" / "shop.css").read_text()
    changed = {"if-modified-since": answer.headers["last-modified"]}
    assert client.get("/static/shop.css", headers=changed).status_code == 304
    assert client.get("/static/admin/css/base.css").status_code == 200
    assert client.get("/static/none.css").status_code == 404


def test_admin(client: httpx.Client) -> None:
    asked = client.get("/admin/", follow_redirects=True)
    assert asked.url.path == "/admin/login/"
    found = _token.search(asked.text)
    assert found is not None
    fields = {"csrfmiddlewaretoken": found[1], "username": SUPERUSER, "next": "/admin/"}
    wrong = client.post("/admin/login/", data={**fields, "password": "wrong"})
    assert "Please enter the correct" in wrong.text
    inside = client.post(
        "/admin/login/", data={**fields, "password": PASSWORD}, follow_redirects=True
    )
    assert "Site administration" in inside.text
    assert "root@shop.example" in client.get("/admin/auth/user/").text


def test_database_from_an_asynchronous_view(client: httpx.Client) -> None:
    assert "ali" in client.get("/users/?make=ali").json()["users"]


def test_exceptions_are_500(client: httpx.Client, site: Site) -> None:
    site.expected += [
        "ZeroDivisionError: crash in an asynchronous view",
        "ZeroDivisionError: crash in a synchronous view",
        "DisallowedHost: Invalid HTTP_HOST header: 'evil.test'",
    ]
    for path in ("/crash/", "/crash-sync/"):
        answer = client.get(path)
        assert answer.status_code == 500
        assert "Server Error (500)" in answer.text
    assert client.get("/", headers={"host": "evil.test"}).status_code == 400


def test_views_wait_beside_each_other(site: Site, files: Path, witness: Witness) -> None:
    """As many as a worker has threads, whichever workers they come to."""
    os.mkfifo(files / "gate")
    gate = os.open(files / "gate", os.O_RDWR)
    query = {"witness": witness.path, "gate": str(files / "gate")}

    def work(number: int) -> str:
        return httpx.get(f"{site.url}/gate/", params=query, timeout=PATIENCE_S).text

    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        asked = [pool.submit(work, number) for number in range(THREADS)]
        assert [witness.next() for _ in asked] == ["at the gate"] * THREADS
        os.write(gate, b"o" * THREADS)
        assert [answer.result() for answer in asked] == ["o"] * THREADS
    os.close(gate)


def test_many_clients_at_once(site: Site) -> None:
    def work(number: int) -> None:
        with httpx.Client(base_url=site.url, timeout=PATIENCE_S) as client:
            for turn in range(5):
                mark = f"{number}-{turn}"
                assert client.post("/json/", json=mark).json() == {"got": mark}
                assert client.get(f"/sync/?m={mark}").json()["get"] == {"m": [mark]}
                body = mark.encode() * 20_000
                assert client.put("/raw/", content=body).json()["sha256"] == sha(body)

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        list(pool.map(work, range(12)))
