"""What a request head says, and what is wrong with it.

Rare things only: the common request (origin-form target, one Host, no special field) is read on the
path in ``http1``; everything that needs thought comes here. Framing that two parties could read in
two ways is refused, never repaired (RFC 9112 §11.2).
"""

from __future__ import annotations

import contextlib
import re
from bisect import bisect_left
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

import httptools

from asgi_worker.protocols.response import STATUS_LINES

if TYPE_CHECKING:
    from asgi_worker.application import Scope

REASONS: Final = {
    400: "Bad Request",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Content Too Large",
    414: "URI Too Long",
    417: "Expectation Failed",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}

METHOD_MAX_BYTES: Final = 64
"""No registered method is longer than 17; a first word beyond this is not one."""

TOKEN: Final = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
"""The characters of a method or a field name (RFC 9110 §5.6.2)."""

_method = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+(?=[ ])").match
_host = re.compile(
    rb"(?:\[[0-9A-Fa-f:.]+(?:%25[\w.~-]+)?\]|[\w.~!$&'()*+,;=%-]*)(?::[0-9]*)?", re.ASCII
).fullmatch
_absolute = re.compile(rb"(https?)://([^/?#]*)([^#]*)", re.IGNORECASE).fullmatch
_is_visible = re.compile(rb"[\x21-\x7e]*").fullmatch


class BadRequest(Exception):
    """The request cannot be served: ``status`` is the answer, ``reason`` goes to the log."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


def describe(refusal: BadRequest, client: tuple[str, int] | None) -> str:
    """For the log: who sent what cannot be served, and why it cannot."""
    who = "a unix socket" if client is None else f"{client[0]}:{client[1]}"
    return f"request from {who} refused: {refusal.reason} ({refusal.status})"


def read_target(scope: Scope, target: bytes) -> None:
    """Set ``path``, ``raw_path`` and ``query_string`` for any target that is not a plain path.

    An absolute-form target replaces the Host field (RFC 9112 §3.2.2).
    """
    check_target(target)
    if target.startswith(b"/"):
        raw_path, _, query = target.partition(b"?")
    else:
        raw_path, query, authority = _split(scope["method"], target)
        if authority is not None:
            others = [header for header in scope["headers"] if header[0] != b"host"]
            scope["headers"] = [(b"host", authority), *others]
    root_path = scope["root_path"]
    scope["path"] = root_path + unquote(raw_path.decode("ascii"))
    scope["raw_path"] = root_path.encode() + raw_path
    scope["query_string"] = query


def _split(method: str, target: bytes) -> tuple[bytes, bytes, bytes | None]:
    """``(raw_path, query, authority)`` of a target that is no path (RFC 9112 §3.2)."""
    if target == b"*":
        if method != "OPTIONS":
            raise BadRequest(400, "only OPTIONS may ask for *")
        return target, b"", None
    absolute = _absolute(target)
    if absolute is None:
        raise BadRequest(400, "the request target is neither a path nor an absolute http(s) URI")
    authority, rest = absolute[2], absolute[3]
    if b"@" in authority or not authority or not _host(authority):
        raise BadRequest(400, "the authority of the request target is invalid")
    raw_path, _, query = rest.partition(b"?")
    return raw_path or b"/", query, authority


def check_target(target: bytes) -> None:
    """A target holds visible ASCII only and no fragment (RFC 9112 §3.2)."""
    if not _is_visible(target) or b"#" in target:
        raise BadRequest(400, "the target holds a fragment, a space or a non-ASCII character")


def check_repeated(headers: list[tuple[bytes, bytes]]) -> None:
    """Fields that must not come twice (RFC 9112 §3.2 and §6, RFC 9110 §8.6)."""
    names = [name for name, _ in headers]
    for name in (b"host", b"content-length", b"transfer-encoding"):
        if names.count(name) > 1:
            raise BadRequest(400, f"more than one {name.decode()} field")


def check_method(scope: Scope, method: bytes) -> None:
    """Set ``method``; CONNECT asks for a proxy, which this is not (RFC 9110 §9.3.6)."""
    if method == b"CONNECT":
        raise BadRequest(405, "CONNECT asks for a proxy; this is an origin server")
    scope["method"] = method.decode("ascii")


def says_close(headers: list[tuple[bytes, bytes]]) -> bool:
    """Whether a Connection field says close, whatever else it says (RFC 9112 §9.3)."""
    said = b",".join(value for name, value in headers if name == b"connection")
    return b"close" in [one.strip() for one in said.lower().split(b",")]


def check_host(value: bytes) -> None:
    """``uri-host [":" port]``, possibly empty (RFC 9110 §7.2)."""
    if not _host(value):
        raise BadRequest(400, "the Host field is not a host")


def check_transfer_encoding(value: bytes, http_version: str) -> None:
    """Only ``chunked``, once, in HTTP/1.1 (RFC 9112 §6.1): all else is ambiguous or unknown."""
    if http_version == "1.0":
        raise BadRequest(400, "Transfer-Encoding in an HTTP/1.0 request")
    codings = [coding.strip().lower() for coding in value.split(b",") if coding.strip()]
    if codings == [b"chunked"]:
        return
    if codings.count(b"chunked") != 1 or codings[-1] != b"chunked":
        raise BadRequest(400, "Transfer-Encoding does not end with chunked, once")
    raise BadRequest(501, "a transfer coding other than chunked")


def asks_for_websocket(scope: Scope) -> bool:
    """Whether a head with an Upgrade field asks for a WebSocket (RFC 6455 §4.1)."""
    upgrade = [value for name, value in scope["headers"] if name == b"upgrade"]
    protocols = b",".join(upgrade).lower().split(b",")
    return (
        b"websocket" in [one.strip() for one in protocols]
        and scope["method"] == "GET"
        and scope["http_version"] == "1.1"
        and not body_framing(scope["headers"])
    )


def make_websocket(scope: Scope) -> None:
    """Make the scope of the request that asked for a WebSocket into that of the WebSocket."""
    scope["type"] = "websocket"
    scope["scheme"] = "wss" if scope["scheme"] in ("https", "wss") else "ws"
    scope["extensions"] = {
        "websocket.http.response": {},
        "asgi_supervise": scope["extensions"]["asgi_supervise"],
    }


def body_framing(headers: list[tuple[bytes, bytes]]) -> bytes:
    """The lines that say how a body is delimited; empty when there is none."""
    return b"".join(
        b"%b: %b\r\n" % (name, value)
        for name, value in headers
        if name == b"transfer-encoding" or (name == b"content-length" and int(value) > 0)
    )


def last_head(chunk: bytes) -> bytes:
    """The head in which the parser stopped, when ``chunk`` began with a head, perhaps of another.

    The parser does not tell where a message ends, so this looks for the shortest beginning of
    ``chunk`` that has as many whole messages as ``chunk`` has.
    """

    class Counter:
        whole = 0

        def on_message_complete(self) -> None:
            self.whole += 1

    def count(size: int) -> int:
        counter = Counter()
        with contextlib.suppress(httptools.HttpParserError, httptools.HttpParserUpgrade):
            httptools.HttpRequestParser(counter).feed_data(chunk[:size])
        return counter.whole

    return chunk[bisect_left(range(len(chunk)), count(len(chunk)), key=count) :]


def blame(error: Exception, head: bytes) -> BadRequest:
    """The answer to what the parser refused; ``head`` is what there is of the request's head."""
    reason = str(error) or type(error).__name__
    if reason.startswith("Invalid method for HTTP"):
        return BadRequest(501, "a method of another protocol")
    if isinstance(error, httptools.HttpParserInvalidMethodError):
        word = head.lstrip(b"\r\n")
        if _method(word) or (
            len(word) > METHOD_MAX_BYTES and not word[:METHOD_MAX_BYTES].strip(TOKEN)
        ):
            return BadRequest(501, "unknown method")
        return BadRequest(400, f"malformed request line: {reason}")
    if reason in ("Invalid HTTP version", "Pause on PRI/Upgrade"):
        return BadRequest(505, "not an HTTP/1.x request")
    return BadRequest(400, f"malformed request: {reason}")


def refusal(status: int, defaults: bytes) -> bytes:
    """A whole response that says ``status`` and announces the close of the connection."""
    text = b"%d %b\n" % (status, REASONS[status].encode())
    return b"".join(
        (
            STATUS_LINES[status],
            b"content-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\n" % len(text),
            b"allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n" if status == 405 else b"",
            defaults,
            b"connection: close\r\n\r\n",
            text,
        )
    )
