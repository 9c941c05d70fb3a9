"""tartiflette-asgi: queries, mutations, errors, GraphiQL page, subscriptions over WebSocket
(graphql-ws), its engine made at startup.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.compatibility import graphs
from tests.compatibility.graphs import LEGACY
from tests.compatibility.serving import PATIENCE_S, Site, serving

pytestmark = pytest.mark.process

APP = "tartiflette_site:app"
URL, WS = "/graphql", "/subscriptions"


@pytest.fixture(scope="module")
def site(files: Path) -> Iterator[Site]:
    with serving(APP, files) as found:
        yield found


@pytest.fixture
def client(site: Site) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=site.url, timeout=PATIENCE_S) as found:
        yield found


def test_all_workers_answer(site: Site) -> None:
    graphs.all_workers_answer(site, URL)


def test_queries_and_mutations(client: httpx.Client, site: Site) -> None:
    graphs.queries_and_mutations(client, URL)
    graphs.introspection(client, URL)
    assert client.get(URL, params={"query": "{ address }"}).json() == {
        "data": {"address": f"books: {site.url}/graphql?query=%7B+address+%7D"}
    }
    plain = {"content-type": "application/graphql"}
    answer = client.post(URL, content='{ hello(name: "Zoë") }'.encode(), headers=plain)
    assert answer.json() == {"data": {"hello": "Hello, Zoë!"}}


def test_errors_of_the_client(client: httpx.Client) -> None:
    for query in ("{ hello(", "{ none }", "{ hello }"):
        answer = client.post(URL, json={"query": query})
        assert answer.status_code == 400
        assert answer.json()["errors"][0]["message"]
    assert client.post(URL, json={}).text == "No GraphQL query found in the request"
    assert client.post(URL, content=b"x").status_code == 415
    assert client.put(URL).status_code == 405


def test_page(client: httpx.Client) -> None:
    answer = client.get("/page", headers={"accept": "text/html"})
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "graphiql" in answer.text.lower()
    assert WS in answer.text


def test_subscriptions(site: Site) -> None:
    graphs.subscriptions(site, WS, LEGACY)


def test_unsubscribing(files: Path) -> None:
    """tartiflette does not end the generator itself but leaves it to the garbage collector; at the
    latest it ends with the worker.
    """
    with serving(APP, files) as site:
        with graphs.subscriber(site, WS, LEGACY) as ws:
            graphs.subscribe(ws, LEGACY, graphs.TICKS, witness=site.witness.path)
            assert graphs.hear(ws)["payload"]["data"] == {"ticks": 0}
            ws.send(json.dumps({"id": "1", "type": "stop"}))
            while graphs.hear(ws)["type"] != "complete":
                pass
            graphs.subscribe(ws, LEGACY, "subscription { countdown(start: 0) }", "2")
            assert graphs.hear(ws)["payload"]["data"] == {"countdown": 0}
        site.stop()
        assert site.witness.next() == "no more ticks"


@pytest.mark.xfail(
    strict=True,
    reason="leaving while subscribed fails, as tartiflette-asgi then closes a generator while it "
    "runs: RuntimeError: aclose(): asynchronous generator is already running",
)
def test_leaving_while_subscribed(files: Path) -> None:
    with serving(APP, files) as site, graphs.subscriber(site, WS, LEGACY) as ws:
        graphs.subscribe(ws, LEGACY, graphs.TICKS, witness=site.witness.path)
        assert graphs.hear(ws)["payload"]["data"] == {"ticks": 0}
        ws.close()
        site.stop()


def test_exceptions(client: httpx.Client, site: Site) -> None:
    """One in a resolver is the answer; one of tartiflette-asgi itself is a 500."""
    answer = client.post(URL, json={"query": "{ crash }"})
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["message"] == "crash in a resolver"
    site.expected.append("AttributeError: 'list' object has no attribute 'get'")
    assert client.post(URL, json=[]).status_code == 500
    assert client.post(URL, json={"query": "{ process }"}).status_code == 200


def test_many_clients_at_once(site: Site) -> None:
    graphs.many_clients_at_once(site, URL, WS, LEGACY)
