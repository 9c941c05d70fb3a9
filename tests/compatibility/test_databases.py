"""databases: queries, transactions and iteration over a real SQLite file that both workers write;
input validated by typesystem.
"""

from __future__ import annotations

import concurrent.futures
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from tests.compatibility.serving import PATIENCE_S, Site, serving

pytestmark = pytest.mark.process


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "notes.sqlite"


@pytest.fixture
def site(files: Path, file: Path) -> Iterator[Site]:
    with serving("databases_site:app", files, SITE_DATABASE=str(file)) as found:
        yield found


@pytest.fixture
def client(site: Site) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=site.url, timeout=PATIENCE_S) as found:
        yield found


def test_what_is_written_is_read(client: httpx.Client, site: Site, file: Path) -> None:
    assert client.post("/notes", json={"text": "é"}).json() == {"id": 1}
    assert client.post("/notes", json={"text": "two", "done": True}).status_code == 201
    assert client.get("/notes").json() == [
        {"id": 1, "text": "é", "done": False},
        {"id": 2, "text": "two", "done": True},
    ]
    assert [note["id"] for note in client.get("/notes?text=two").json()] == [2]
    assert client.get("/stream").json() == [1, 2]
    site.stop()
    with closing(sqlite3.connect(file)) as database:
        assert database.execute("SELECT text FROM notes").fetchall() == [("é",), ("two",)]


def test_validation(client: httpx.Client) -> None:
    answer = client.post("/notes", json={"text": "x" * 101, "done": 5})
    assert answer.status_code == 400
    assert answer.json() == {
        "text": "Must have no more than 100 characters.",
        "done": "Must be a boolean.",
    }
    assert client.post("/notes", json={}).json() == {"text": "This field is required."}
    assert client.get("/notes").json() == []


def test_transactions(client: httpx.Client) -> None:
    assert client.post("/together?fail").status_code == 409
    assert client.get("/notes").json() == []
    assert client.post("/together").status_code == 201
    assert [note["text"] for note in client.get("/notes").json()] == ["half", "other half"]


def test_both_workers_write(site: Site, client: httpx.Client) -> None:
    def work(number: int) -> None:
        with httpx.Client(base_url=site.url, timeout=PATIENCE_S) as own:
            for turn in range(5):
                assert own.post("/notes", json={"text": f"{number}-{turn}"}).status_code == 201

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    texts = {note["text"] for note in client.get("/notes").json()}
    assert texts == {f"{number}-{turn}" for number in range(8) for turn in range(5)}
    assert client.get("/at-once").json() == [40]
