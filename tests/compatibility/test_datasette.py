"""Datasette: a SQLite file, pages in headless Chromium (sorting, facets, SQL), JSON, streamed CSV,
inserting over JSON, SQL time limit, plugins.
"""

from __future__ import annotations

import concurrent.futures
import csv
import io
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.compatibility.browser import Page, browsing
from tests.compatibility.serving import PATIENCE_S, WORKERS, Site, serving

pytestmark = pytest.mark.process

ROWS = 9_000
KINDS = ("tea", "coffee", "cake")


def row(number: int) -> tuple[int, str, str, float]:
    return number, f"Name {number} ü", KINDS[number % 3], number / 4


@pytest.fixture(scope="module")
def site(files: Path) -> Iterator[Site]:
    with sqlite3.connect(files / "shop.sqlite3") as base:
        base.execute("create table products (id integer primary key, name, kind, price real)")
        rows = map(row, range(1, ROWS + 1))
        base.executemany("insert into products values (?, ?, ?, ?)", rows)
        base.execute("create table orders (id integer primary key, what text)")
    base.close()
    with serving("datasette_site:app", files) as found:
        yield found


@pytest.fixture
def client(site: Site) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=site.url, timeout=PATIENCE_S) as found:
        yield found


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with browsing() as found:
        yield found


def test_all_workers_serve(site: Site) -> None:
    pids = set()
    for _ in range(400):
        pids.add(httpx.get(f"{site.url}/-/process", timeout=PATIENCE_S).json()["pid"])
        if len(pids) == WORKERS:
            return
    pytest.fail(f"only {pids} answered 400 new connections")


def test_json(client: httpx.Client, site: Site) -> None:
    answer = client.get("/shop/products.json?_size=2&kind=tea")
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert answer.json()["rows"] == [
        {"id": 3, "name": "Name 3 ü", "kind": "tea", "price": 0.75},
        {"id": 6, "name": "Name 6 ü", "kind": "tea", "price": 1.5},
    ]
    following = answer.json()["next_url"]
    assert following == f"{site.url}/shop/products.json?_size=2&kind=tea&_next=6"
    assert [found["id"] for found in client.get(following).json()["rows"]] == [9, 12]
    single = client.get("/shop/products/7.json?_shape=array").json()
    assert single == [dict(zip(("id", "name", "kind", "price"), row(7), strict=True))]
    assert client.get("/shop/none.json").status_code == 404
    assert client.get("/shop/products.json", headers={"origin": "http://x.test"}).is_success


def test_sql_with_parameters_and_a_function_of_ours(client: httpx.Client) -> None:
    sql = "select twice(:n) as n, name from products where id = :id"
    query = {"sql": sql, "n": "2", "id": "5", "_shape": "array"}
    answer = client.get("/shop/-/query.json", params=query)
    assert answer.json() == [{"n": "22", "name": "Name 5 ü"}]
    wrong = client.get("/shop/-/query.json?sql=delete+from+products")
    assert (wrong.status_code, wrong.json()["ok"]) == (400, False)


def test_sql_time_limit(client: httpx.Client) -> None:
    endless = "with recursive n(i) as (select 1 union all select i + 1 from n) select sum(i) from n"
    answer = client.get("/shop/-/query.json", params={"sql": endless})
    assert answer.status_code == 400
    assert "took too long" in answer.text


def test_streamed_csv(client: httpx.Client) -> None:
    """Page by page out of the database, and all of it."""
    with client.stream("GET", "/shop/products.csv?_stream=on&_size=max") as answer:
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert answer.headers["transfer-encoding"] == "chunked"
        text = "".join(answer.iter_text())
    header, *rows = csv.reader(io.StringIO(text))
    assert header == ["id", "name", "kind", "price"]
    assert rows == [[str(cell) for cell in row(number)] for number in range(1, ROWS + 1)]
    saved = client.get("/shop/products.csv?_size=1&_dl=1")
    assert saved.headers["content-disposition"] == 'attachment; filename="products.csv"'
    assert saved.text == "id,name,kind,price\r\n1,Name 1 ü,coffee,0.25\r\n"


def test_disconnect_ends_the_stream(client: httpx.Client, site: Site) -> None:
    """Sending to one who is gone raises OSError, as the specification has it. Datasette tries to
    send what it caught, and shows that both failed.
    """
    site.expected += [
        "Caught this error: the client has closed the connection",
        "During handling of the above exception",
    ]
    with client.stream("GET", "/shop/products.csv?_stream=on&_size=5") as answer:
        assert next(answer.iter_lines()) == "id,name,kind,price"
    client.close()
    site.wait_for(re.compile("During handling of the above exception"))


def test_insert_is_seen_by_all_workers(client: httpx.Client, site: Site) -> None:
    for number in range(1, 11):
        wanted = {"row": {"what": f"order {number}"}}
        url = f"{site.url}/shop/orders/-/insert"
        answer = httpx.post(url, json=wanted, timeout=PATIENCE_S)
        assert answer.status_code == 201
        assert answer.json()["rows"] == [{"id": number, "what": f"order {number}"}]
        listed = httpx.get(f"{site.url}/shop/orders.json", timeout=PATIENCE_S).json()["rows"]
        assert len(listed) == number
    refused = client.post("/shop/orders/-/insert", json={"row": {"none": 1}})
    assert (refused.status_code, refused.json()["ok"]) == (400, False)


def test_static_files(client: httpx.Client) -> None:
    answer = client.get("/-/static/app.css")
    assert answer.headers["content-type"].startswith("text/css")
    assert len(answer.content) == int(answer.headers["content-length"]) > 1000
    assert client.head("/").status_code == 200
    assert client.get("/-/static/none.css").status_code == 404


def test_page_in_a_browser(page: Page, site: Site) -> None:
    page.go(f"{site.url}/shop/products?_facet=kind")
    title = "document.title"
    assert page.evaluate(title) == "shop: products: 9,000 rows"
    cells = "[...document.querySelectorAll('td.col-name')].map(cell => cell.textContent)"
    assert page.evaluate(cells) == [f"Name {number} ü" for number in range(1, 51)]
    assert (
        page.evaluate("document.querySelectorAll('.dropdown-menu-icon').length") >= 4
    )  # by script
    page.follow("th[data-column=name] a, th.col-name a")
    assert page.evaluate("location.search") == "?_facet=kind&_sort=name"
    assert page.evaluate(cells)[:3] == ["Name 1 ü", "Name 10 ü", "Name 100 ü"]
    page.follow("[data-facet-value=tea]")
    assert page.evaluate(title) == 'shop: products: 3,000 rows where kind = "tea" sorted by name'
    kinds = "[...document.querySelectorAll('td.col-kind')].map(cell => cell.textContent)"
    assert page.evaluate(kinds) == ["tea"] * 50
    assert page.complaints == []


def test_sql_in_a_browser(page: Page, site: Site) -> None:
    page.go(f"{site.url}/shop/-/query?sql=select+6*7+as+answer")
    assert page.evaluate("document.querySelector('td.col-answer').textContent") == "42"
    counted = "fetch('/shop/products.json?_size=100').then(a => a.json()).then(a => a.rows.length)"
    assert page.evaluate(counted) == 100
    assert page.complaints == []


def test_exception_is_500(client: httpx.Client, site: Site) -> None:
    site.expected.append("ZeroDivisionError: crash in a page of a plugin")
    answer = client.get("/-/crash")
    assert answer.status_code == 500
    assert "<h1>Error 500</h1>" in answer.text
    assert client.get("/").status_code == 200


def test_many_clients_at_once(site: Site) -> None:
    def work(client: httpx.Client, number: int) -> None:
        for turn in range(5):
            wanted = number * 100 + turn + 1
            got = client.get(f"/shop/products/{wanted}.json?_shape=array").json()
            assert [found["name"] for found in got] == [f"Name {wanted} ü"]
            query = {"sql": f"select {wanted} as n", "_shape": "array"}
            assert client.get("/shop/-/query.json", params=query).json() == [{"n": wanted}]

    with (
        httpx.Client(base_url=site.url, timeout=PATIENCE_S) as client,
        concurrent.futures.ThreadPoolExecutor(12) as pool,
    ):
        list(pool.map(lambda number: work(client, number), range(12)))
