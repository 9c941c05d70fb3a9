"""Ariadne: queries, mutations, errors, file upload, GraphiQL page, subscriptions over WebSocket
(graphql-transport-ws, graphql-ws).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.compatibility import graphs
from tests.compatibility.graphs import LEGACY, TRANSPORT
from tests.compatibility.serving import PATIENCE_S, Site, Witness, serving

pytestmark = pytest.mark.process

URL = "/graphql/"
PROTOCOLS = pytest.mark.parametrize(("url", "protocol"), [(URL, TRANSPORT), ("/legacy/", LEGACY)])


@pytest.fixture(scope="module")
def site(files: Path) -> Iterator[Site]:
    with serving("ariadne_site:app", files) as found:
        yield found


@pytest.fixture
def client(site: Site) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=site.url, timeout=PATIENCE_S) as found:
        yield found


def test_all_workers_answer(site: Site) -> None:
    graphs.all_workers_answer(site, URL)


def test_queries_and_mutations(client: httpx.Client) -> None:
    graphs.queries_and_mutations(client, URL)
    graphs.introspection(client, URL)


def test_errors_of_the_client(client: httpx.Client) -> None:
    graphs.errors(client, URL)
    assert client.post(URL, content=b"{").status_code == 400
    assert client.put(URL).status_code == 405


def test_upload(client: httpx.Client, twenty_mib: bytes) -> None:
    graphs.uploads(client, URL, twenty_mib)


def test_page(client: httpx.Client) -> None:
    answer = client.get(URL, headers={"accept": "text/html"})
    assert answer.headers["content-type"].startswith("text/html")
    assert "graphiql" in answer.text.lower()


@PROTOCOLS
def test_subscriptions(site: Site, url: str, protocol: str) -> None:
    graphs.subscriptions(site, url, protocol)


def test_unsubscribing(site: Site, witness: Witness) -> None:
    graphs.unsubscribing(site, URL, TRANSPORT, witness)


@pytest.mark.xfail(
    strict=True,
    reason="unsubscribing over graphql-ws fails, as Ariadne's handler for that protocol closes "
    "a generator while it runs: RuntimeError: aclose(): asynchronous generator is already running",
)
def test_unsubscribing_over_the_older_protocol(files: Path, witness: Witness) -> None:
    with serving("ariadne_site:app", files) as site:
        graphs.unsubscribing(site, "/legacy/", LEGACY, witness)


def test_queries_over_websocket(site: Site) -> None:
    graphs.queries_over_websocket(site, URL)


def test_subscribing_before_the_beginning(site: Site) -> None:
    graphs.subscribing_before_the_beginning(site, URL)


def test_exceptions(client: httpx.Client, site: Site) -> None:
    site.expected += [
        "ZeroDivisionError: crash in a resolver",
        "ZeroDivisionError: crash in a subscription",
        "ZeroDivisionError: crash before the query",
        "GraphQLError: crash in a resolver",  # logged as what it became, with its cause
        "GraphQLError: crash in a subscription",
    ]
    graphs.crash_in_a_resolver(client, URL)
    graphs.crash_in_a_subscription(site, URL, TRANSPORT)
    answer = client.post(URL, json={"query": "{ process }"}, headers={"x-crash": "yes"})
    assert answer.status_code == 500
    assert client.post(URL, json={"query": "{ process }"}).status_code == 200


@PROTOCOLS
def test_many_clients_at_once(site: Site, url: str, protocol: str) -> None:
    graphs.many_clients_at_once(site, URL, url, protocol)
