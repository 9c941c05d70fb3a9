"""Response heads as bytes: status lines, the headers of the application, what we add to them.

The only place where header names and values of an application become bytes on an HTTP/1.1 wire, so
the only place that can stop response splitting (RFC 9112 §11.1): a name must be a token (RFC 9110
§5.6.2), a value must not hold CR, LF or NUL (RFC 9110 §5.5).

Names are checked once and remembered; values are checked all at once, by counting the line ends of
the block they were written into – one scan in C instead of a regular expression for each of them.
"""

from __future__ import annotations

import http
import re
from collections.abc import Iterable
from typing import Final, NamedTuple

ORDINARY: Final = 0
CONTENT_LENGTH: Final = 1
CONNECTION: Final = 2
TRANSFER_ENCODING: Final = 3
DATE: Final = 4
SERVER: Final = 5

_SPECIAL: Final = {
    b"content-length": CONTENT_LENGTH,
    b"connection": CONNECTION,
    b"transfer-encoding": TRANSFER_ENCODING,
    b"date": DATE,
    b"server": SERVER,
}
_REMEMBERED_NAMES: Final = 1024
_kinds: dict[bytes, int] = dict(_SPECIAL)

_is_token = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
_is_splitting = re.compile(rb"[\r\n\0]").search

STATUS_LINES: Final[dict[int, bytes]] = {
    status.value: b"HTTP/1.1 %d %s\r\n" % (status, status.phrase.encode()) for status in http.HTTPStatus
}
STATUS_LINES[413] = b"HTTP/1.1 413 Content Too Large\r\n"  # renamed by RFC 9110; Python 3.11 lags
STATUS_LINES[414] = b"HTTP/1.1 414 URI Too Long\r\n"

BODYLESS: Final = frozenset({204, 304})
"""Final statuses that never have a body (RFC 9110 §6.4.1)."""


class Fields(NamedTuple):
    """The headers of an application, serialised."""

    block: bytes
    """``name: value CRLF`` each, without connection and transfer-encoding, which are ours to say."""
    content_length: int | None
    close: bool
    """The application asked for ``Connection: close``."""
    has_date: bool
    has_server: bool


def status_line(status: int) -> bytes:
    """The HTTP/1.1 status line; raises ``RuntimeError`` for what is not a final status (200–599…)."""
    if not isinstance(status, int) or not 200 <= status <= 999:
        raise RuntimeError(f"http.response.start: status must be an int from 200 to 999, not {status!r}")
    return STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status


def serialise(headers: Iterable[tuple[bytes, bytes]]) -> Fields:
    """Headers as an application gives them, ready for the wire.

    Raises ``RuntimeError`` naming the header for a name or value that must not be sent.
    """
    lines = []
    content_length = None
    close = has_date = has_server = False
    kinds = _kinds
    for name, value in headers:
        try:
            kind = kinds[name]
        except (KeyError, TypeError):
            kind = _learn(name)
        if kind:
            if kind == CONTENT_LENGTH:
                if content_length is not None:
                    raise RuntimeError("the application sent more than one content-length header")
                content_length = _length(value)
            elif kind == CONNECTION:
                close = close or b"close" in value.lower()
                continue
            elif kind == TRANSFER_ENCODING:
                continue
            elif kind == DATE:
                has_date = True
            else:
                has_server = True
        try:
            lines.append(b"%b: %b\r\n" % (name, value))
        except TypeError:
            raise RuntimeError(
                f"header {name!r}: the value must be bytes, not {type(value).__name__}"
            ) from None
    block = b"".join(lines)
    count = len(lines)
    if block.count(b"\n") != count or block.count(b"\r") != count or b"\0" in block:
        for name, value in headers:
            check_header(name, value)
        raise RuntimeError("a header holds CR, LF or NUL")  # headers was an iterator, now spent
    return Fields(block, content_length, close, has_date, has_server)


def check_header(name: bytes, value: bytes) -> None:
    """Raise ``RuntimeError`` unless ``name: value`` is one header line whatever comes around it."""
    if not isinstance(name, bytes) or not _is_token(name):
        raise RuntimeError(f"header name {name!r} is not a token in bytes (RFC 9110 §5.6.2)")
    if not isinstance(value, bytes):
        raise RuntimeError(f"header {name!r}: the value must be bytes, not {type(value).__name__}")
    if _is_splitting(value):
        raise RuntimeError(f"header {name!r}: the value {value!r} holds CR, LF or NUL")


def _learn(name: bytes) -> int:
    """Check a name seen for the first time and remember what kind it is."""
    check_header(name, b"")
    if len(_kinds) >= _REMEMBERED_NAMES:
        _kinds.clear()
        _kinds.update(_SPECIAL)
    kind = _kinds[name] = _SPECIAL.get(name.lower(), ORDINARY)
    return kind


def _length(value: bytes) -> int:
    if not value.isdigit():
        raise RuntimeError(f"content-length: {value!r} is not a number of bytes")
    return int(value)
