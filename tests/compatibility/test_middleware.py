"""Widespread middleware: asgi-correlation-id, brotli-asgi, slowapi, ServeStatic (WhiteNoise for
ASGI); and what is left of uvicorn in applications: its ``ProxyHeadersMiddleware``, its formatter
and logging configuration.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

from tests.compatibility.serving import PATIENCE_S, PYTHON, Site, serving

pytestmark = pytest.mark.process

FORWARDED = {"x-forwarded-for": "203.0.113.9", "x-forwarded-proto": "https"}


@pytest.fixture(scope="module")
def site(files: Path) -> Iterator[Site]:
    with serving("middleware_site:app", files) as found:
        yield found


@pytest.fixture
def client(site: Site) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=site.url, timeout=PATIENCE_S) as found:
        yield found


def unpacked(data: bytes) -> bytes:
    """Brotli is in the environment of the application only."""
    script = (
        "import brotli, sys; sys.stdout.buffer.write(brotli.decompress(sys.stdin.buffer.read()))"
    )
    command = [PYTHON, "-c", script]
    return subprocess.run(command, input=data, stdout=subprocess.PIPE, check=True).stdout


def test_correlation_id(client: httpx.Client, site: Site) -> None:
    mark = "0123456789abcdef0123456789abcdef"
    answer = client.get("/", headers={"x-request-id": mark})
    assert (answer.headers["x-request-id"], answer.json()["id"]) == (mark, mark)
    site.wait_for(re.compile(rf"^site: INFO \[{mark}\] asked for home$"))
    others = {client.get("/").json()["id"] for _ in range(10)}
    assert len(others) == 10


@pytest.mark.parametrize("path", ["/long-text", "/stream"])
def test_brotli(client: httpx.Client, path: str) -> None:
    plain = client.get(path, headers={"accept-encoding": "identity"})
    with client.stream("GET", path, headers={"accept-encoding": "br"}) as answer:
        packed = b"".join(answer.iter_raw())
    assert answer.headers["content-encoding"] == "br"
    assert unpacked(packed) == plain.content


def test_rate_limit_of_each_worker(site: Site, client: httpx.Client) -> None:
    """It counts in the memory of a worker; a kept connection stays with one."""
    found = [client.get("/limited", headers={"x-forwarded-for": "203.0.113.7"}) for _ in range(5)]
    assert [answer.status_code for answer in found] == [200] * 3 + [429] * 2
    assert client.get("/limited", headers={"x-forwarded-for": "203.0.113.8"}).status_code == 200


def test_static_files(client: httpx.Client, files: Path) -> None:
    content = (files / "large.bin").read_bytes()
    answer = client.get("/static/large.bin")
    assert hashlib.sha256(answer.content).digest() == hashlib.sha256(content).digest()
    part = client.get("/static/large.bin", headers={"range": "bytes=1000-1999"})
    assert (part.status_code, part.content) == (206, content[1000:2000])
    tag = answer.headers["last-modified"]
    assert client.get("/static/large.bin", headers={"if-modified-since": tag}).status_code == 304
    assert client.head("/static/large.bin").headers["content-length"] == str(len(content))
    assert client.get("/static/none").status_code == 404


def test_uvicorn_s_proxy_headers_beside_ours(client: httpx.Client, site: Site) -> None:
    """They come to the same result; applied to it again, they leave it as it is."""
    facts = client.get("/", headers=FORWARDED).json()
    assert (facts["client"], facts["url"]) == ("203.0.113.9", f"https://127.0.0.1:{site.port}/")
    assert client.get("/").json()["client"] == "127.0.0.1"
    with connect(f"{site.ws_url}/ws", additional_headers=FORWARDED) as ws:
        facts = json.loads(ws.recv(PATIENCE_S))
    assert facts == {"client": "203.0.113.9", "url": f"wss://127.0.0.1:{site.port}/ws"}


@pytest.mark.parametrize(
    "options", [("--no-proxy-headers",), ("--forwarded-allow-ips", "10.0.0.1")]
)
def test_uvicorn_s_proxy_headers_alone(files: Path, options: tuple[str, ...]) -> None:
    with serving("middleware_site:app", files, *options) as site:
        assert httpx.get(site.url, headers=FORWARDED).json()["client"] == "203.0.113.9"


def test_exception(client: httpx.Client, site: Site) -> None:
    site.expected.append("ZeroDivisionError: crash within all of them")
    assert client.get("/crash").status_code == 500
