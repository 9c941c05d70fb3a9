"""What one row of the request corpus says: the bytes sent, and every outcome that the RFCs allow.

A row names several outcomes where the RFCs leave the choice to the recipient (RFC 9112 lets a
server be lenient about whitespace, for one). Whatever the server chooses, it has to choose the same
for the same bytes however they are cut into segments: the runner compares.
"""

from __future__ import annotations

import dataclasses
from urllib.parse import unquote


@dataclasses.dataclass(frozen=True)
class Seen:
    """One request as the application has to see it; ``fields`` of ``None`` are not compared."""

    method: str
    path: str
    raw_path: bytes
    query: bytes
    body: bytes
    version: str
    fields: tuple[tuple[bytes, bytes], ...] | None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """``seen`` are answered 200 in this order; then the connection is open, closed, or refuses.

    ``status`` is that of the refusal, after which the connection is always closed. ``begun`` tells
    that the refused request had reached the application before its body turned out bad; the
    application must then never be given the end of that body.
    """

    seen: tuple[Seen, ...] = ()
    status: int | None = None
    open: bool = False
    begun: bool = False


@dataclasses.dataclass(frozen=True)
class Row:
    """``sent`` and what may come of it. ``section`` is where the RFC says so.

    ``ends`` marks bytes that stop in the middle of a request: the client then closes its side, and
    nothing is sent after them. ``interim`` tells whether ``100 Continue`` may come first.
    """

    name: str
    section: str
    sent: bytes
    outcomes: tuple[Outcome, ...]
    ends: bool = False
    interim: bool = False


def seen(
    method: str = "GET",
    raw_path: bytes = b"/",
    *,
    path: str | None = None,
    query: bytes = b"",
    body: bytes = b"",
    version: str = "1.1",
    fields: tuple[tuple[bytes, bytes], ...] | None = None,
) -> Seen:
    """A request the application sees; ``path`` is decoded from ``raw_path`` unless given."""
    if path is None:
        path = unquote(raw_path.decode("ascii"))
    return Seen(method, path, raw_path, query, body, version, fields)


def answered(*requests: Seen) -> Outcome:
    """All requests answered, and the connection can be used again."""
    return Outcome(requests or (seen(),), open=True)


def answered_then_closed(*requests: Seen) -> Outcome:
    """All requests answered, the last one with the end of the connection."""
    return Outcome(requests or (seen(),))


def refused(status: int, *before: Seen) -> Outcome:
    """Refused by its head: the application has never heard of it."""
    return Outcome(before, status)


def refused_in_body(status: int, *before: Seen) -> Outcome:
    """Refused by its body, which the application may have begun to read."""
    return Outcome(before, status, begun=True)


def unanswered(*, begun: bool = False) -> Outcome:
    """The client went away in the middle: no answer, and the connection is closed."""
    return Outcome(begun=begun)


def row(
    name: str,
    section: str,
    sent: bytes,
    *outcomes: Outcome,
    ends: bool = False,
    interim: bool = False,
) -> Row:
    """A row; without outcomes the request is a plain ``GET /`` that has to be answered."""
    return Row(name, section, sent, outcomes or (answered(),), ends, interim)


def head(*lines: bytes) -> bytes:
    """Lines, each ended by CRLF, and the empty line."""
    return b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def line(request_line: bytes) -> bytes:
    """A request of this request line and a Host field."""
    return head(request_line, b"Host: a")


def fields(*lines: bytes) -> bytes:
    """A ``GET /`` with a Host field and these lines after it."""
    return head(b"GET / HTTP/1.1", b"Host: a", *lines)


def post(*lines: bytes, body: bytes = b"") -> bytes:
    """A ``POST /`` with a Host field, these lines after it, and the body."""
    return head(b"POST / HTTP/1.1", b"Host: a", *lines) + body


def chunked(body: bytes) -> bytes:
    """A ``POST /`` in chunked coding whose coded body is ``body``."""
    return post(b"Transfer-Encoding: chunked", body=body)
