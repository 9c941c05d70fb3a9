"""How to ask for GraphQL, over HTTP and over both WebSocket protocols; the schema is the same on
all sites.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.compatibility.promises import closed_with
from tests.compatibility.serving import PATIENCE_S, WORKERS, Site, Witness

TRANSPORT, LEGACY = "graphql-transport-ws", "graphql-ws"
TICKS = "subscription($witness: String!) { ticks(witness: $witness) }"
WORDS = {
    TRANSPORT: ("subscribe", "next", "complete"),
    LEGACY: ("start", "data", "stop"),
}
"""What begins a subscription, carries a result, and ends the subscription for the client."""


def answered(client: httpx.Client, url: str, query: str, **variables: Any) -> Any:
    answer = client.post(url, json={"query": query, "variables": variables})
    assert answer.headers["content-type"].startswith("application/json")
    return answer.json()


def all_workers_answer(site: Site, url: str) -> None:
    pids = set()
    for _ in range(400):
        with httpx.Client(base_url=site.url, timeout=PATIENCE_S) as client:
            pids.add(answered(client, url, "{ process }")["data"]["process"])
        if len(pids) == WORKERS:
            return
    pytest.fail(f"only {pids} answered 400 new connections")


def queries_and_mutations(client: httpx.Client, url: str) -> None:
    said = answered(client, url, "query($n: String!) { hello(name: $n) books { title } }", n="Zoë")
    assert said == {
        "data": {"hello": "Hello, Zoë!", "books": [{"title": "Faust"}, {"title": "Momo"}]}
    }
    added = "mutation($t: String!) { addBook(title: $t, pages: 9) { number title pages } }"
    title = "Ä" * 50_000
    assert answered(client, url, added, t=title)["data"]["addBook"] == {
        "number": 3,
        "title": title,
        "pages": 9,
    }


def introspection(client: httpx.Client, url: str) -> None:
    said = answered(client, url, "{ __schema { subscriptionType { fields { name } } } }")
    fields = said["data"]["__schema"]["subscriptionType"]["fields"]
    assert {field["name"] for field in fields} == {"countdown", "ticks", "crash"}


def errors(client: httpx.Client, url: str) -> None:
    """Those of the client, which leave nothing in the log."""
    for query, word in (
        ("{ hello(", "Syntax Error"),
        ("{ none }", "Cannot query field 'none'"),
        ("{ hello }", "is required, but it was not provided"),
    ):
        said = answered(client, url, query)
        assert not said.get("data")
        assert word in said["errors"][0]["message"]


def uploads(client: httpx.Client, url: str, content: bytes) -> None:
    """As the GraphQL multipart request specification has it."""
    operations = {
        "query": "mutation($file: Upload!) { upload(file: $file) { name size sha256 } }",
        "variables": {"file": None},
    }
    answer = client.post(
        url,
        data={"operations": json.dumps(operations), "map": json.dumps({"0": ["variables.file"]})},
        files={"0": ("grüße.bin", content, "application/octet-stream")},
    )
    sha256 = hashlib.sha256(content).hexdigest()
    assert answer.json()["data"]["upload"] == {
        "name": "grüße.bin",
        "size": len(content),
        "sha256": sha256,
    }


@contextmanager
def subscriber(site: Site, url: str, protocol: str) -> Iterator[ClientConnection]:
    """A connection that has been acknowledged."""
    with connect(f"{site.ws_url}{url}", subprotocols=[Subprotocol(protocol)]) as ws:
        assert ws.subprotocol == protocol
        ws.send(json.dumps({"type": "connection_init", "payload": {}}))
        assert hear(ws)["type"] == "connection_ack"
        yield ws


def hear(ws: ClientConnection) -> Any:
    """The next message that is no keep-alive."""
    while (said := json.loads(ws.recv(PATIENCE_S)))["type"] == "ka":
        pass
    return said


def subscribe(
    ws: ClientConnection, protocol: str, query: str, number: str = "1", **variables: Any
) -> None:
    payload = {"query": query, "variables": variables}
    ws.send(json.dumps({"id": number, "type": WORDS[protocol][0], "payload": payload}))


def subscriptions(site: Site, url: str, protocol: str) -> None:
    """Several at once on one connection: each in its order, each with its end."""
    _, result, _ = WORDS[protocol]
    with subscriber(site, url, protocol) as ws:
        for number in range(3):
            start = 100 + number
            query = "subscription($start: Int!) { countdown(start: $start) }"
            subscribe(ws, protocol, query, str(number), start=start)
        got: dict[str, list[int]] = {"0": [], "1": [], "2": []}
        ended: set[str] = set()
        while len(ended) < 3:
            said = hear(ws)
            if said["type"] == "complete":
                ended.add(said["id"])
            else:
                assert said["type"] == result
                assert said["id"] not in ended
                got[said["id"]].append(said["payload"]["data"]["countdown"])
        assert got == {str(n): list(range(100 + n, -1, -1)) for n in range(3)}


def unsubscribing(site: Site, url: str, protocol: str, witness: Witness) -> None:
    """By message, by close frame, and by vanishing: the generator ends each time."""
    _, result, end = WORDS[protocol]
    with subscriber(site, url, protocol) as ws:
        subscribe(ws, protocol, TICKS, witness=witness.path)
        first = hear(ws)
        assert (first["type"], first["payload"]["data"]) == (result, {"ticks": 0})
        ws.send(json.dumps({"id": "1", "type": end}))
        assert witness.next() == "no more ticks"
        subscribe(ws, protocol, "subscription { countdown(start: 0) }", "2")
        while (said := hear(ws))["id"] != "2":  # ticks that were on their way, and their end
            pass
        assert said["payload"]["data"] == {"countdown": 0}
    for vanishes in (False, True):
        with subscriber(site, url, protocol) as ws:
            subscribe(ws, protocol, TICKS, witness=witness.path)
            assert hear(ws)["payload"]["data"] == {"ticks": 0}
            if vanishes:
                ws.close_socket()
                assert witness.next() == "no more ticks"
        if not vanishes:
            assert witness.next() == "no more ticks"


def queries_over_websocket(site: Site, url: str) -> None:
    """The newer protocol has them; with the older one systems differ."""
    with subscriber(site, url, TRANSPORT) as ws:
        subscribe(ws, TRANSPORT, '{ hello(name: "ws") }')
        said = hear(ws)
        assert (said["type"], said["payload"]["data"]) == ("next", {"hello": "Hello, ws!"})
        assert hear(ws)["type"] == "complete"
        subscribe(ws, TRANSPORT, "{ none }", "2")
        said = hear(ws)
        assert (said["type"], said["id"]) == ("error", "2")
        assert "Cannot query field 'none'" in json.dumps(said["payload"])


def subscribing_before_the_beginning(site: Site, url: str) -> None:
    """The newer protocol closes with a code of its own."""
    with connect(f"{site.ws_url}{url}", subprotocols=[Subprotocol(TRANSPORT)]) as ws:
        subscribe(ws, TRANSPORT, '{ hello(name: "x") }')
        assert closed_with(ws)[0] == 4401


def crash_in_a_resolver(client: httpx.Client, url: str) -> None:
    said = answered(client, url, '{ crash hello(name: "still") }')
    assert said["data"] == {"crash": None, "hello": "Hello, still!"}
    assert [error["path"] for error in said["errors"]] == [["crash"]]


def crash_in_a_subscription(site: Site, url: str, protocol: str) -> None:
    with subscriber(site, url, protocol) as ws:
        subscribe(ws, protocol, "subscription { crash }")
        assert hear(ws)["payload"]["data"] == {"crash": 1}
        assert "crash in a subscription" in json.dumps(hear(ws)["payload"])


def many_clients_at_once(site: Site, url: str, ws_url: str, protocol: str) -> None:
    def work(client: httpx.Client, number: int) -> None:
        with subscriber(site, ws_url, protocol) as ws:
            for turn in range(4):
                mark = f"{number}-{turn}"
                said = answered(client, url, "query($n: String!) { hello(name: $n) }", n=mark)
                assert said == {"data": {"hello": f"Hello, {mark}!"}}
                query = "subscription($start: Int!) { countdown(start: $start) }"
                subscribe(ws, protocol, query, mark, start=number)
                for expected in range(number, -1, -1):
                    said = hear(ws)
                    assert (said["id"], said["payload"]["data"]["countdown"]) == (mark, expected)
                assert hear(ws)["type"] == "complete"

    with (
        httpx.Client(base_url=site.url, timeout=PATIENCE_S) as client,
        concurrent.futures.ThreadPoolExecutor(12) as pool,
    ):
        list(pool.map(lambda number: work(client, number), range(12)))
