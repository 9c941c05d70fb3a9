"""What is measured: the table of cases, with the aim that each has for us."""

from __future__ import annotations

from dataclasses import dataclass

from tests.benchmarks.app import CHUNK, CHUNKS, HELLO, MEBIBYTE

# With the Host line, which wrk adds: the seven that a browser sends with nearly every request …
BROWSER = (
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "Accept-Language: en-GB,en;q=0.5",
    "Accept-Encoding: gzip, deflate, br, zstd",
    "Cookie: session=6f2c1b9e8d7a4053b1c2d3e4f5a60718",
    "Cache-Control: no-cache",
)
# … and the thirty that are left when a proxy, a tracer and an API client have added theirs.
MANY = (
    *BROWSER,
    "Sec-Fetch-Dest: document",
    "Sec-Fetch-Mode: navigate",
    "Sec-Fetch-Site: same-origin",
    "Sec-Fetch-User: ?1",
    "Sec-GPC: 1",
    "DNT: 1",
    "Upgrade-Insecure-Requests: 1",
    "Pragma: no-cache",
    "Priority: u=0, i",
    "Referer: https://shop.example.org/catalogue/category/garden?page=3",
    "Origin: https://shop.example.org",
    'If-None-Match: "33a64df551425fcc55e4d42a148795d9f25f89d4"',
    "If-Modified-Since: Wed, 21 Oct 2026 07:28:00 GMT",
    "Authorization: Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmN",
    "X-Request-Id: 0e2b6f3a-5f1d-4f0e-9b59-0a7f5a1d2c3b",
    "X-Correlation-Id: 9f8e7d6c-5b4a-3928-1706-f5e4d3c2b1a0",
    "X-Requested-With: XMLHttpRequest",
    "X-CSRF-Token: 1f0c8a7e5d3b2c4f6a8091b2c3d4e5f6",
    "X-Client-Version: 2026.11.1",
    "Traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "Tracestate: vendor=00f067aa0ba902b7",
    "Baggage: userId=alice,serverNode=DF-28,isProduction=false",
    "Via: 1.1 edge-17",
)

Limits = tuple[tuple[str, float], ...]
BEST_PEER = "best peer"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One load. ``aims``: CPU a request of ours over that of a peer is to be at most this."""

    name: str
    title: str
    path: str = "/hello"
    expected: bytes = HELLO
    headers: tuple[str, ...] = BROWSER
    body_bytes: int = 0
    connections: int = 64
    length: int = 1
    """How many times as long as the other cases this one is measured."""
    access_log: bool = False
    closes: bool = False
    varies: bool = False
    """Each request has another cookie: a server that remembers the last head gains nothing."""
    warm_up: int = 300
    """Requests, one after the other, that are checked before the measurement."""
    floors: tuple[str, ...] = ("raw uvloop", "nginx")
    aims: Limits = ()
    frame_bytes: int = 0
    """Not 0: WebSocket echo of messages of this size."""
    depth: int = 1
    """WebSocket messages in flight on each connection."""

    @property
    def unit(self) -> str:
        return "message" if self.frame_bytes else "request"


CASES = (
    Case(
        name="hello",
        title="GET, 13-byte response, 64 kept-alive connections, 7 request headers",
        aims=(("uvicorn", 0.55), ("granian", 0.70), ("raw uvloop", 2.2)),
    ),
    Case(
        name="hello-varied",
        title="hello, another cookie in each request",
        varies=True,
        aims=(("uvicorn", 0.55), ("granian", 0.70), ("raw uvloop", 2.2)),
    ),
    Case(
        name="headers",
        title="hello with 30 request headers",
        headers=MANY,
        aims=(("uvicorn", 0.60), ("granian", 0.90)),
    ),
    Case(
        name="headers-varied",
        title="hello with 30 request headers, another cookie in each request",
        headers=MANY,
        varies=True,
        aims=(("uvicorn", 0.60), ("granian", 0.90)),
    ),
    Case(
        name="close",
        title="hello, a new connection for each request",
        headers=(*BROWSER, "Connection: close"),
        closes=True,
        warm_up=100,
        aims=(("uvicorn", 0.75), ("granian", 1.0)),
    ),
    Case(
        name="post",
        title="POST of 64 KiB, echoed",
        path="/post",
        body_bytes=64 * 1024,
        expected=b"x" * 64 * 1024,
        warm_up=50,
        floors=("raw uvloop",),
        aims=((BEST_PEER, 0.80),),
    ),
    Case(
        name="1mib",
        title="GET, 1 MiB response",
        path="/1mib",
        expected=MEBIBYTE,
        connections=16,
        warm_up=20,
        floors=("raw uvloop",),
        aims=((BEST_PEER, 0.95),),
    ),
    Case(
        name="stream",
        title="GET, response streamed as 1,000 chunks of 64 B",
        path="/stream",
        expected=CHUNK * CHUNKS,
        # Longer, because what is half done when the time is up is paid for and not counted.
        length=3,
        warm_up=5,
        floors=("raw uvloop",),
        aims=((BEST_PEER, 0.40),),
    ),
    Case(
        name="ws-32",
        title="WebSocket echo of 32 B, 16 connections, 8 messages in flight on each",
        frame_bytes=32,
        connections=16,
        depth=8,
        floors=("raw uvloop",),
        aims=((BEST_PEER, 0.70),),
    ),
    Case(
        name="ws-single",
        title="WebSocket echo of 32 B, 64 connections, 1 message in flight on each",
        frame_bytes=32,
        floors=("raw uvloop",),
    ),
    Case(
        name="ws-16k",
        title="WebSocket echo of 16 KiB, 16 connections, 4 messages in flight on each",
        frame_bytes=16 * 1024,
        connections=16,
        depth=4,
        floors=("raw uvloop",),
        aims=((BEST_PEER, 0.80),),
    ),
    Case(
        name="log",
        title="hello with the access log on, to a file",
        access_log=True,
        floors=("nginx",),
        aims=(("uvicorn", 0.45),),
    ),
)
