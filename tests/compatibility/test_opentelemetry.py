"""OpenTelemetry: its ASGI middleware: spans of HTTP and WebSocket with client, status and errors,
traces that go on (``traceparent``), export over OTLP/HTTP, also of the last ones and with
``--preload``.
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from tests.compatibility.receiving import Receiver, receiving
from tests.compatibility.serving import PATIENCE_S, PYTHON, SITES, Site, serving

pytestmark = pytest.mark.process

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


class Collector:
    """What was exported and not asked for yet."""

    def __init__(self, receiver: Receiver) -> None:
        self.url = receiver.url
        self._receiver = receiver
        self._spans: list[dict[str, Any]] = []

    def of(self, trace: str, count: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """So many spans of a trace: that of the request, and those in it. Waits for them."""
        while True:
            found = [span for span in self._spans if span["traceId"] == trace]
            if len(found) >= count:
                assert len(found) == count, found
                assert all(span["service"] == "site" for span in found)
                (server,) = (span for span in found if span["kind"] == "SPAN_KIND_SERVER")
                inner = [span for span in found if span is not server]
                assert {span["parentSpanId"] for span in inner} <= {server["spanId"]}
                return server, sorted(inner, key=lambda span: str(span["name"]))
            request = self._receiver.next()
            assert request.path == "/v1/traces"
            self._spans += decoded(request.body)


def decoded(body: bytes) -> list[dict[str, Any]]:
    command = [PYTHON, str(SITES / "opentelemetry_decode.py")]
    done = subprocess.run(command, input=body, stdout=subprocess.PIPE, check=True)
    spans: list[dict[str, Any]] = json.loads(done.stdout)
    for span in spans:
        for name in ("traceId", "spanId", "parentSpanId"):
            span[name] = base64.b64decode(span.get(name, "")).hex()
    return spans


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with receiving() as receiver:
        yield Collector(receiver)


@pytest.fixture(scope="module")
def site(files: Path, collector: Collector) -> Iterator[Site]:
    environ = {"SITE_COLLECTOR": collector.url, "OTEL_SEMCONV_STABILITY_OPT_IN": "http"}
    with serving("opentelemetry_site:app", files, **environ) as found:
        yield found


def parent(number: int) -> tuple[str, dict[str, str]]:
    trace = f"{TRACE[:-2]}{number:02x}"
    return trace, {"traceparent": f"00-{trace}-{PARENT}-01"}


def test_spans_of_a_request(site: Site, collector: Collector) -> None:
    trace, fields = parent(1)
    answer = httpx.get(f"{site.url}/path?a=1", headers={**fields, "x-own": "me"})
    assert answer.text == trace
    server, inner = collector.of(trace, 4)
    assert (server["name"], server["parentSpanId"]) == ("GET /path", PARENT)
    assert [span["name"] for span in inner] == [
        *("GET /path http send", "GET /path http send", "work")
    ]
    assert int(inner[-1]["attributes"]["pid"]) != site.process.pid
    attributes = server["attributes"]
    assert int(attributes.pop("client.port")) > 0
    assert attributes.pop("http.request.header.x_own") == {"values": [{"stringValue": "me"}]}
    assert attributes.pop("user_agent.original").startswith("python-httpx/")
    assert attributes == {
        "http.request.method": "GET",
        "http.response.status_code": "200",
        "network.protocol.version": "1.1",
        "server.address": f"127.0.0.1:{site.port}",
        "server.port": str(site.port),
        "url.scheme": "http",
        "url.path": "/path",
        "url.query": "a=1",
        "client.address": "127.0.0.1",
    }


def test_status(site: Site, collector: Collector) -> None:
    trace, fields = parent(2)
    assert httpx.get(f"{site.url}/none", headers=fields).status_code == 404
    server, _ = collector.of(trace, 4)
    assert server["attributes"]["http.response.status_code"] == "404"
    assert server["status"] == {}


def test_the_client_behind_a_proxy(site: Site, collector: Collector) -> None:
    trace, fields = parent(3)
    fields.update({"x-forwarded-for": "203.0.113.9", "x-forwarded-proto": "https"})
    assert httpx.get(site.url, headers=fields).status_code == 200
    attributes = collector.of(trace, 4)[0]["attributes"]
    assert (attributes["client.address"], attributes["url.scheme"]) == ("203.0.113.9", "https")


def test_exception(site: Site, collector: Collector) -> None:
    site.expected.append("ZeroDivisionError: crash in a span")
    trace, fields = parent(4)
    answer = httpx.get(f"{site.url}/crash", headers=fields)
    assert (answer.status_code, answer.text) == (500, "Internal Server Error")
    server, inner = collector.of(trace, 1)
    assert inner == []
    assert server["status"]["code"] == "STATUS_CODE_ERROR"
    (event,) = server["events"]
    assert event["name"] == "exception"


def test_websocket(site: Site, collector: Collector) -> None:
    trace, fields = parent(5)
    with connect(f"{site.ws_url}/chat", additional_headers=fields) as ws:
        ws.send("hello")
        assert ws.recv(PATIENCE_S) == "hello"
    # connect, accept, one message each way, disconnect
    server, inner = collector.of(trace, 6)
    assert (server["name"], server["parentSpanId"]) == ("HTTP /chat", PARENT)
    assert sorted(span["attributes"]["asgi.event.type"] for span in inner) == [
        "websocket.accept",
        "websocket.connect",
        "websocket.disconnect",
        "websocket.receive",
        "websocket.send",
    ]


@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["each", "preload"])
def test_the_last_spans_are_exported_at_the_end(files: Path, options: tuple[str, ...]) -> None:
    trace, fields = parent(6)
    with receiving() as receiver:
        collector = Collector(receiver)
        environ = {"SITE_COLLECTOR": collector.url, "SITE_DELAY_MS": "3600000"}
        with serving("opentelemetry_site:app", files, *options, **environ) as site:
            if options:  # its thread is named, though it starts itself anew after a fork
                site.expected_lines.append('--preload: what "opentelemetry_site:app" started')
                site.wait_for(re.compile("OtelBatchSpanRecordProcessor"))
            assert httpx.get(f"{site.url}/path", headers=fields).text == trace
            site.stop()
        assert collector.of(trace, 4)[0]["name"] == "GET /path"
