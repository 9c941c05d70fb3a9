"""FastAPI: validation, dependencies, background tasks, upload, WebSocket, OpenAPI page and
root path.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from tests.compatibility.serving import PATIENCE_S, WORKERS, Site, Witness, serving

pytestmark = pytest.mark.process

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def site(files: Path) -> Iterator[Site]:
    with serving("fastapi_site:app", files, "--root-path", "/api") as found:
        yield found
        found.stop()
        assert [found.witness.next() for _ in range(WORKERS)] == ["lifespan over"] * WORKERS


@pytest.fixture
def client(site: Site) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=site.url, timeout=PATIENCE_S) as found:
        yield found


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_each_worker_has_a_lifespan_of_its_own(site: Site) -> None:
    pids = set()
    for _ in range(400):
        facts = httpx.get(site.url, timeout=PATIENCE_S).json()
        assert facts["pid"] == facts["started_in"]
        pids.add(facts["pid"])
        if len(pids) == WORKERS:
            return
    pytest.fail(f"only {pids} answered 400 new connections")


def test_validated_parameters(client: httpx.Client) -> None:
    number = str(uuid4())
    assert client.get(f"/shop/items/{number}?limit=5&tag=a&tag=b").json() == {
        "item_id": number,
        "limit": 5,
        "tag": ["a", "b"],
    }
    refused = client.get("/shop/items/x?limit=500")
    assert refused.status_code == 422
    assert {problem["loc"][-1] for problem in refused.json()["detail"]} == {"item_id", "limit"}


def test_json_model(client: httpx.Client) -> None:
    answer = client.post("/shop/items?count=3", json={"name": "Käse", "price": 2.5})
    assert answer.status_code == 201
    assert answer.json() == {
        "item": {"name": "Käse", "price": 2.5, "tags": [], "note": None},
        "count": 3,
        "total": 7.5,
    }
    assert client.post("/shop/items", json={"name": "x", "price": -1}).status_code == 422
    assert client.post("/shop/items", content=b"{not json").status_code == 422


def test_exception_of_the_application(client: httpx.Client) -> None:
    answer = client.post("/shop/items", json={"name": "moon", "price": 1})
    assert (answer.status_code, answer.json()) == (409, {"missing": "moon"})


def test_header_cookie_and_dependency(client: httpx.Client) -> None:
    refused = client.get("/shop/secret")
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Token")
    answer = client.get("/shop/secret", headers={"X-Token": "sesame", "Cookie": "who=ali"})
    assert answer.json() == {"who": "ali"}


def test_sync_endpoint_and_dependency_run_in_threads(client: httpx.Client) -> None:
    facts = client.get("/sync").json()
    assert "AnyIO" in facts["endpoint"]
    assert "AnyIO" in facts["dependency"]


def test_form(client: httpx.Client) -> None:
    answer = client.post("/shop/login", data={"user": "ali baba", "password": "sésame"})
    assert answer.json() == {"user": "ali baba", "length": 6}
    assert client.post("/shop/login", data={"user": "x"}).status_code == 422


def test_upload_of_several_files(client: httpx.Client, twenty_mib: bytes) -> None:
    small = bytes(range(256)) * 4096
    answer = client.post(
        "/shop/upload",
        data={"title": "Größe"},
        files=[("documents", ("a.bin", small)), ("documents", ("b.bin", twenty_mib))],
    )
    assert answer.json() == {
        "title": "Größe",
        "documents": [
            {"name": "a.bin", "size": MIB, "sha256": sha(small)},
            {"name": "b.bin", "size": 20 * MIB, "sha256": sha(twenty_mib)},
        ],
    }


def test_request_stream_through_middleware(client: httpx.Client, twenty_mib: bytes) -> None:
    pieces = (twenty_mib[start : start + 70_001] for start in range(0, 20 * MIB, 70_001))
    answer = client.put("/shop/raw", content=pieces)
    assert answer.json() == {"size": 20 * MIB, "sha256": sha(twenty_mib)}
    assert "x-process" in answer.headers


def test_response_stream(client: httpx.Client) -> None:
    answer = client.get("/shop/numbers?count=5000", headers={"accept-encoding": "identity"})
    assert answer.text == "".join(f"{number}\n" for number in range(5000))


def test_server_sent_events(client: httpx.Client, witness: Witness) -> None:
    with client.stream("GET", f"/shop/events?where={witness.path}&count=3") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        data = [json.loads(line[5:]) for line in answer.iter_lines() if line.startswith("data:")]
    assert data == [{"number": number} for number in range(3)]
    assert witness.next() == "events over"


def test_disconnect_ends_events(client: httpx.Client, witness: Witness) -> None:
    with client.stream("GET", f"/shop/events?where={witness.path}") as answer:
        assert next(answer.iter_lines())
    client.close()
    assert witness.next() == "events over"


def test_file_and_range(client: httpx.Client, files: Path) -> None:
    content = (files / "large.bin").read_bytes()
    plain = {"accept-encoding": "identity"}
    assert sha(client.get("/shop/report", headers=plain).content) == sha(content)
    part = client.get("/shop/report", headers={**plain, "range": "bytes=1000-1999"})
    assert (part.status_code, part.content) == (206, content[1000:2000])
    assert client.get("/static/style.css").text == (files / "style.css").read_text()


def test_background_task(client: httpx.Client, witness: Witness) -> None:
    answer = client.post(f"/shop/mail?where={witness.path}")
    assert (answer.status_code, answer.json()) == (202, {"accepted": True})
    assert witness.next() == "mail sent"


def test_documentation(client: httpx.Client) -> None:
    described = client.get("/openapi.json").json()
    assert described["info"]["title"] == "Shop"
    assert described["servers"] == [{"url": "/api"}]
    assert "/shop/items/{item_id}" in described["paths"]
    assert "/api/openapi.json" in client.get("/docs").text


def test_root_path(client: httpx.Client, site: Site) -> None:
    facts = client.get("/sub/path").json()
    assert facts == {"root_path": "/api/sub", "url": f"{site.url}/api/sub/path"}


def test_cors_preflight(client: httpx.Client) -> None:
    answer = client.options(
        "/shop/secret",
        headers={
            "origin": "https://front.example",
            "access-control-request-method": "GET",
            "access-control-request-headers": "x-token",
        },
    )
    assert answer.status_code == 200
    assert "x-token" in answer.headers["access-control-allow-headers"].lower()


def test_exception_is_500(client: httpx.Client, site: Site) -> None:
    site.expected.append("ZeroDivisionError: crash before the answer")
    assert client.get("/shop/crash").status_code == 500
    assert client.get("/").status_code == 200


def test_websocket_room(site: Site, witness: Witness) -> None:
    address = f"{site.ws_url}/room/kitchen?key=sesame&where={witness.path}"
    with connect(address) as ws:
        for number in range(100):
            ws.send(json.dumps({"number": number}))
            assert json.loads(ws.recv(PATIENCE_S)) == {
                "room": "kitchen",
                "order": {"number": number},
            }
        ws.close(4321, "enough")
    assert witness.next() == "left 4321 enough"


def test_websocket_without_a_key(site: Site) -> None:
    with pytest.raises(InvalidStatus) as refused:
        connect(f"{site.ws_url}/room/kitchen")
    assert refused.value.response.status_code == 403


def test_websocket_large_messages(site: Site) -> None:
    with connect(f"{site.ws_url}/blob") as ws:
        for size in (0, 125, 126, 65_535, 65_536, 5 * MIB):
            data = b"\xa5" * size
            ws.send(data)
            assert ws.recv(PATIENCE_S) == hashlib.sha256(data).digest()


def test_websocket_message_too_large(site: Site) -> None:
    with connect(f"{site.ws_url}/blob") as ws:
        with contextlib.suppress(ConnectionClosed):  # it may be closed before all of it is sent
            ws.send(bytes(16 * MIB + 1))
        with pytest.raises(ConnectionClosed) as closed:
            ws.recv(PATIENCE_S)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009


def test_many_clients_at_once(site: Site) -> None:
    def work(number: int) -> None:
        with httpx.Client(base_url=site.url, timeout=PATIENCE_S) as client:
            for turn in range(10):
                name = f"{number}-{turn}"
                bill = client.post("/shop/items?count=2", json={"name": name, "price": 1}).json()
                assert bill["item"]["name"] == name
                body = name.encode() * 20_000
                assert client.put("/shop/raw", content=body).json()["sha256"] == sha(body)
                assert "AnyIO" in client.get("/sync").json()["endpoint"]

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))
