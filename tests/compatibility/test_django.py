"""Django: async and sync views, streaming, uploads, static files, sessions, admin login."""

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

from tests.compatibility.managing import prepared
from tests.compatibility.promises import head_has_no_body
from tests.compatibility.serving import PATIENCE_S, WORKERS, Site, Witness, serving

pytestmark = pytest.mark.process

MIB = 1024 * 1024
SETTINGS = "django_site.settings"
_token = re.compile(r'name="csrfmiddlewaretoken" value="(\w+)"')


@pytest.fixture(scope="module")
def site(files: Path) -> Iterator[Site]:
    (files / "public").mkdir()
    (files / "public" / "shop.css").write_text("h1 { color: teal }\n" * 100)
    with serving("django_site.asgi:application", files, **prepared(SETTINGS, files)) as found:
        yield found


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
        assert facts["secure"] is False
        pids.add(facts["pid"])
        if len(pids) == WORKERS:
            return
    pytest.fail(f"only {pids} answered 400 new connections")


def test_https_by_a_trusted_proxy(client: httpx.Client) -> None:
    facts = client.get(
        "/",
        headers={
            "X-Forwarded-Proto": "https",
            "X-Forwarded-For": "203.0.113.9",
            "X-Forwarded-Host": "shop.example",
        },
    ).json()
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


def test_json(client: httpx.Client) -> None:
    value = {"é": ["😀" * 1000, None, 1.5]}
    assert client.post("/json/", json=value).json() == {"got": value}


def test_form_session_and_csrf(client: httpx.Client) -> None:
    assert client.post("/form/", data={"name": "Ali", "age": "40"}).status_code == 403
    page = client.get("/form/")
    found = _token.search(page.text)
    assert found is not None
    fields = {"csrfmiddlewaretoken": found[1], "name": "Ali", "age": "-1"}
    assert client.post("/form/", data=fields).status_code == 422
    answer = client.post("/form/", data={**fields, "age": "40"}, follow_redirects=True)
    assert answer.json() == {"visits": 1, "contact": {"name": "Ali", "age": 40}}


def test_sessions_hold_across_workers(site: Site) -> None:
    jar = httpx.Cookies()
    for visit in range(1, 11):
        with httpx.Client(base_url=site.url, cookies=jar, timeout=PATIENCE_S) as client:
            assert client.get("/visits/").json()["visits"] == visit
            jar = client.cookies


def test_upload_of_1_mib_in_memory(client: httpx.Client) -> None:
    content = bytes(range(256)) * 4096
    answer = client.post("/upload/", data={"t": "Größe"}, files={"one": ("ä.bin", content)})
    assert answer.json() == {
        "t": "Größe",
        "one": {
            "name": "ä.bin",
            "size": MIB,
            "sha256": sha(content),
            "kind": "InMemoryUploadedFile",
        },
    }


def test_upload_of_20_mib_to_disk(client: httpx.Client, twenty_mib: bytes) -> None:
    answer = client.post("/upload/", files={"one": ("a.bin", twenty_mib)}).json()
    assert answer["one"] == {
        "name": "a.bin",
        "size": 20 * MIB,
        "sha256": sha(twenty_mib),
        "kind": "TemporaryUploadedFile",
    }


def test_body_in_chunks(client: httpx.Client, twenty_mib: bytes) -> None:
    pieces = (twenty_mib[start : start + 70_001] for start in range(0, 20 * MIB, 70_001))
    answer = client.put("/raw/", content=pieces)
    assert answer.json() == {"size": 20 * MIB, "sha256": sha(twenty_mib)}


def test_streams_of_both_kinds(client: httpx.Client) -> None:
    lines = "".join(f"{number}\n" for number in range(5000))
    with client.stream("GET", "/stream/?count=5000", headers={"accept-encoding": "gzip"}) as answer:
        assert answer.headers["content-encoding"] == "gzip"
        packed = b"".join(answer.iter_raw())  # before Django 6, a member for each piece
    assert gzip.decompress(packed).decode() == lines
    plain = client.get("/stream/?count=5000", headers={"accept-encoding": "identity"})
    assert plain.text == lines
    assert client.get("/stream-sync/").text == "".join(f"{number}\n" for number in range(100))


def test_disconnect_ends_a_stream(client: httpx.Client, witness: Witness) -> None:
    with client.stream("GET", f"/events/?witness={witness.path}") as answer:
        lines = answer.iter_lines()
        assert next(lines) == "data: 0"
    client.close()
    assert witness.next() == "stream over"


def test_disconnect_cancels_a_view(site: Site, witness: Witness) -> None:
    with httpx.Client(base_url=site.url) as client, pytest.raises(httpx.ReadTimeout):
        client.get(f"/wait/?witness={witness.path}", timeout=0.5)
    assert witness.next() == "waiting"
    assert witness.next() == "cancelled"


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


def test_gzip(client: httpx.Client) -> None:
    answer = client.get("/long-text/")
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.text == "All work and no play. " * 1000


def test_admin(client: httpx.Client) -> None:
    asked = client.get("/admin/", follow_redirects=True)
    assert asked.url.path == "/admin/login/"
    found = _token.search(asked.text)
    assert found is not None
    fields = {"csrfmiddlewaretoken": found[1], "username": "root", "next": "/admin/"}
    wrong = client.post("/admin/login/", data={**fields, "password": "wrong"})
    assert "Please enter the correct" in wrong.text
    inside = client.post(
        "/admin/login/", data={**fields, "password": "sesame"}, follow_redirects=True
    )
    assert inside.url.path == "/admin/"
    assert "Site administration" in inside.text
    users = client.get("/admin/auth/user/")
    assert "root@shop.example" in users.text


def test_database_from_an_asynchronous_view(client: httpx.Client) -> None:
    assert "ali" in client.get("/users/?make=ali").json()["users"]
    assert "root" in client.get("/users/").json()["users"]


def test_host_that_is_not_allowed(client: httpx.Client, site: Site) -> None:
    site.expected.append("DisallowedHost: Invalid HTTP_HOST header: 'evil.test'")
    assert client.get("/", headers={"host": "evil.test"}).status_code == 400


def test_exceptions_are_500(client: httpx.Client, site: Site) -> None:
    site.expected += [
        "ZeroDivisionError: crash in an asynchronous view",
        "ZeroDivisionError: crash in a synchronous view",
    ]
    for path in ("/crash/", "/crash-sync/"):
        answer = client.get(path)
        assert answer.status_code == 500
        assert "Server Error (500)" in answer.text
    assert client.get("/").status_code == 200


def test_views_in_threads_wait_beside_each_other(site: Site, files: Path, witness: Witness) -> None:
    """Django has a thread for each request, so all are there before one may go on."""
    os.mkfifo(files / "gate")
    gate = os.open(files / "gate", os.O_RDWR)
    query = {"witness": witness.path, "gate": str(files / "gate")}

    def work(number: int) -> str:
        with httpx.Client(base_url=site.url, timeout=PATIENCE_S) as client:
            return client.get("/gate/", params=query).text

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(work, number) for number in range(12)]
        assert [witness.next() for _ in asked] == ["at the gate"] * 12
        os.write(gate, b"o" * 12)
        assert [answer.result() for answer in asked] == ["o"] * 12
    os.close(gate)


def test_head(client: httpx.Client) -> None:
    for path in ("/sync/", "/items/1/", "/static/shop.css"):
        head_has_no_body(client, path)


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
