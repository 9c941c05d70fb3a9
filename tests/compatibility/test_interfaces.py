"""Interfaces: ASGI 3, ASGI 2 and WSGI, told or guessed; functions, instances, methods, partials,
lambdas, decorated ones, middleware of each style, classes, factories of each, module:obj.attr.
"""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.compatibility.serving import PATIENCE_S, Site, serving

pytestmark = pytest.mark.process

ASGI_3 = [
    *("app", "lone", "partial", "decorated", "closed", "middleware", "Endpoint"),
    *("site", "site.serve", "site.app", "site.inner.app", "site.inner.app.app"),
]
ASGI_2 = ["Double", "double", "double_middleware", "guaranteed"]
WSGI = ["wsgi", "wrapped_wsgi", "wrapped_wsgi.app.app", "OneRequest"]


def check_http(site: Site) -> None:
    with httpx.Client(base_url=site.url, timeout=PATIENCE_S) as client:
        wanted = {"path": "/a b/é", "query": "q=%C3%A9", "started": True}
        for size in (0, 1, 300_000):
            answer = client.post("/a%20b/%C3%A9?q=%C3%A9", content=b"x" * size)
            facts = answer.json()
            if facts["path"] == "/a b/Ã©":  # WSGI has bytes as latin-1
                facts["path"] = "/a b/é"
            assert facts == {**wanted, "method": "POST", "received": size}
            assert answer.headers["x-seen"] == "once"
        assert client.head("/").content == b""
        assert client.get("/").json()["method"] == "GET"


def check_websocket(site: Site) -> None:
    with connect(f"{site.ws_url}/") as websocket:
        for text in ("hello", "é" * 10_000):
            websocket.send(text)
            assert websocket.recv(PATIENCE_S) == text


@pytest.mark.parametrize("name", [*ASGI_3, *ASGI_2])
def test_asgi(name: str, files: Path) -> None:
    with serving(f"interfaces_site:{name}", files) as site:
        check_http(site)
        check_websocket(site)


@pytest.mark.parametrize("name", WSGI)
def test_wsgi(name: str, files: Path) -> None:
    with serving(f"interfaces_site:{name}", files) as site:
        check_http(site)
        with pytest.raises(InvalidStatus) as refused, connect(f"{site.ws_url}/"):
            pass
        assert refused.value.response.status_code == 403
        said = [line for line in site.lines if "served as a WSGI application" in line]
        assert len(said) == 1
        assert "lifespan" not in site.log


@pytest.mark.parametrize(
    ("interface", "name"),
    [
        *(("asgi3", "app"), ("asgi3", "site.serve"), ("asgi2", "Double")),
        *(("asgi2", "unnamed_double"), ("wsgi", "wsgi"), ("wsgi", "opaque")),
    ],
)
def test_told(interface: str, name: str, files: Path) -> None:
    with serving(f"interfaces_site:{name}", files, "--interface", interface) as site:
        check_http(site)
        assert "WSGI" not in site.log


@pytest.mark.parametrize("name", ["make_app", "make_site", "make_double", "make", "make_wsgi"])
def test_made_by_a_factory(name: str, files: Path) -> None:
    with serving(f"interfaces_site:{name}", files, "--factory") as site:
        check_http(site)
        if name != "make_wsgi":
            check_websocket(site)


@pytest.mark.parametrize("name", ["app", "Double", "wsgi"])
def test_preloaded(name: str, files: Path) -> None:
    with serving(f"interfaces_site:{name}", files, "--preload") as site:
        check_http(site)


def test_adapted_by_asgiref(files: Path) -> None:
    """Its answer to lifespan is an assertion, which nobody needs to hear of."""
    with serving("interfaces_site:asgi_of_wsgi", files) as site:
        check_http(site)
        assert "lifespan" not in site.log


def test_wsgi_has_no_lifespan(files: Path) -> None:
    said = "a WSGI application has no lifespan: leave --lifespan on out"
    with (
        pytest.raises(AssertionError) as failed,
        serving("interfaces_site:wsgi", files, "--lifespan", "on"),
    ):
        pass
    assert re.search(f"cannot start: .*{said}", str(failed.value))
