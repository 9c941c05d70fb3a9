"""orm: models with relations and validation (typesystem) over databases and a real SQLite file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.compatibility.serving import PATIENCE_S, Site, serving

pytestmark = pytest.mark.process


@pytest.fixture
def site(files: Path, tmp_path: Path) -> Iterator[Site]:
    with serving("orm_site:app", files, SITE_DATABASE=str(tmp_path / "notes.sqlite")) as found:
        yield found


@pytest.fixture
def client(site: Site) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=site.url, timeout=PATIENCE_S) as found:
        yield found


def add(site: Site, text: str, author: str) -> httpx.Response:
    """On a new connection: whoever answers."""
    note = {"text": text, "author": author}
    return httpx.post(f"{site.url}/notes", json=note, timeout=PATIENCE_S)


def test_models(site: Site, client: httpx.Client) -> None:
    for number, author in enumerate(("ann", "bob", "ann"), start=1):
        assert add(site, f"note {number}", author).json() == {"id": number}
    first = {"id": 1, "text": "note 1", "done": False, "author": "ann"}
    assert len(client.get("/notes").json()) == 3
    assert client.get("/notes?author=ann").json() == [
        first,
        {"id": 3, "text": "note 3", "done": False, "author": "ann"},
    ]
    assert client.post("/notes/1/finish").json() == {"open": 2}
    assert client.get("/notes").json()[0] == {**first, "done": True}
    assert client.post("/notes/9/finish").status_code == 404


def test_validation(site: Site, client: httpx.Client) -> None:
    answer = add(site, "x" * 101, "ann")
    assert answer.status_code == 400
    assert answer.json() == {"text": "Must have no more than 100 characters."}
    assert client.get("/notes").json() == []
