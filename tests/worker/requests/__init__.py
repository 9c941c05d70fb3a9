"""The request corpus: malformed and odd HTTP/1.1 requests, each with what the RFCs make of it.

Sections are those of RFC 9110 (semantics), 9112 (HTTP/1.1), 9113 (HTTP/2), 3986 (URI), 6455
(WebSocket) and 6585 (more status codes). Our choices where they leave one: ambiguous framing and
every bare CR or LF in a head is refused, an unknown method or coding is 501, and after a refusal
the connection is closed.
"""

from __future__ import annotations

from tests.worker.requests import chunks, connections, field_lines, framing, request_line
from tests.worker.requests.row import Outcome, Row, Seen

ROWS: tuple[Row, ...] = (
    request_line.ROWS + field_lines.ROWS + framing.ROWS + chunks.ROWS + connections.ROWS
)

__all__ = ["ROWS", "Outcome", "Row", "Seen"]
