"""Response heads as bytes: status lines, the headers of the application, what we add to them.

The only place where header names and values of an application become bytes on an HTTP/1.1 wire, so
the only place that can stop response splitting (RFC 9112 §11.1): a name must be a token (RFC 9110
§5.6.2), a value must not hold CR, LF or NUL (RFC 9110 §5.5).

A header that was checked once is remembered as the line it became, so that the headers an
application sends with every response cost one look-up each.
"""

from __future__ import annotations

import http
import re
from collections.abc import Iterable
from typing import Any, Final

ORDINARY: Final = 0
CONNECTION: Final = 1
TRANSFER_ENCODING: Final = 2
DATE: Final = 3
SERVER: Final = 4
CONTENT_LENGTH: Final = 5
"""Kinds of header. That of a content-length header is ``CONTENT_LENGTH`` plus its value."""

_KINDS: Final = {
    b"connection": CONNECTION,
    b"transfer-encoding": TRANSFER_ENCODING,
    b"date": DATE,
    b"server": SERVER,
}
Header = tuple[bytes, bytes]
Head = tuple[bytes, int, int]
"""Status line and header lines of the application; ``length`` and ``said`` of :func:`serialise`."""
_PAIRS: Final = "headers is an iterable of pairs, [(b'name', b'value')]"
_REMEMBERED: Final = 2048
_REMEMBERED_VALUE_BYTES: Final = 64
_remembered: dict[Header, tuple[bytes, int]] = {}
"""Lines that were checked before, and their kind: most headers of an application recur."""

_heads: dict[tuple[Any, ...], Head] = {}
"""Whole heads of lines that were remembered, by status and headers."""
_NEWS: Final = 1 << 6
"""In ``said``: there was a line that was not remembered."""

_MOST_DIGITS: Final = 18
_is_token = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
_is_splitting = re.compile(rb"[\r\n\0]").search

STATUS_LINES: Final[dict[int, bytes]] = {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode())
    for status in http.HTTPStatus
}
STATUS_LINES[413] = b"HTTP/1.1 413 Content Too Large\r\n"  # renamed by RFC 9110; Python 3.11 lags
STATUS_LINES[414] = b"HTTP/1.1 414 URI Too Long\r\n"

BODYLESS: Final = frozenset({204, 304})
"""Final statuses that never have a body (RFC 9110 §6.4.1)."""


def status_line(status: int) -> bytes:
    """The HTTP/1.1 status line; raises ``RuntimeError`` for what is not a final status."""
    if not 200 <= status <= 999:
        raise _no_status(status)
    return STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status


def _no_status(status: object) -> RuntimeError:
    return RuntimeError(f"http.response.start: 'status' is {status!r}, no int from 200 to 999")


def head(status: int, headers: Iterable[Header]) -> Head:
    """The head of a response as far as it is the application's.

    Raises ``RuntimeError`` for what must not be sent. Heads of one service are much the same, so
    the whole is looked up first.
    """
    key = None
    if type(headers) is list:
        key = (status, *headers)
        try:
            known = _heads.get(key)
            if known is not None:
                return known
        except TypeError:  # pairs that are lists
            key = None
    if not isinstance(status, int):  # 200.0 is equal to 200, but no status
        raise _no_status(status)
    line = STATUS_LINES.get(status)
    if line is None or status < 200:
        line = status_line(status)
    lines = [line]
    try:
        length, said = serialise(headers, lines)
    except TypeError:
        if isinstance(headers, Iterable):  # which fails itself
            raise
        raise _no_pairs(headers) from None
    if status == 204 and length >= 0:  # RFC 9110 §8.6: no Content-Length with 204
        lines = [one for one in lines if not one.lower().startswith(b"content-length:")]
    if said & _NEWS:  # what is in no other head recurs in none
        return b"".join(lines), length, said & ~_NEWS
    made = b"".join(lines), length, said
    if key is not None:
        if len(_heads) >= _REMEMBERED:
            _heads.clear()
        _heads[key] = made
    return made


def serialise(headers: Iterable[Header], lines: list[bytes]) -> tuple[int, int]:
    """Append ``name: value CRLF`` for each header of an application; returns ``(length, said)``.

    Left out are connection and transfer-encoding, which are ours to say. ``length`` is that of the
    content-length header or −1; ``said`` has the bits ``1 << kind`` of DATE, SERVER and, for
    ``Connection: close``, CONNECTION.

    Raises ``RuntimeError`` naming the header for a name or value that must not be sent.
    """
    length = -1
    said = 0
    remembered = _remembered
    for header in headers:
        try:
            line, kind = remembered[header]
        except (KeyError, TypeError):
            try:
                line, kind = _learn(header)
            except RuntimeError as error:
                raise error from None  # the look-up is nobody's business
            said |= _NEWS
        if kind:
            if kind >= CONTENT_LENGTH:
                if length >= 0:
                    raise RuntimeError("the application sent more than one content-length header")
                length = kind - CONTENT_LENGTH
            elif kind <= TRANSFER_ENCODING:
                if kind == CONNECTION and b"close" in header[1].lower():
                    said |= 1 << CONNECTION
                continue
            else:
                said |= 1 << kind
        lines.append(line)
    return length, said


def check_header(name: object, value: object) -> None:
    """Raise ``RuntimeError`` unless ``name: value`` is one header line whatever comes around it."""
    if not isinstance(name, bytes):
        raise RuntimeError(f"header {name!r}: the name must be bytes, not {type(name).__name__}")
    if not _is_token(name):
        raise RuntimeError(f"header name {name!r} is not a token in bytes (RFC 9110 §5.6.2)")
    if not isinstance(value, bytes):
        raise RuntimeError(f"header {name!r}: the value must be bytes, not {type(value).__name__}")
    if _is_splitting(value):
        raise RuntimeError(f"header {name!r}: the value {value!r} holds CR, LF or NUL")


def pairs(headers: Iterable[Header]) -> list[Header]:
    """The headers of a message, not checked yet; raises ``RuntimeError`` if they are no pairs."""
    if not isinstance(headers, Iterable):
        raise _no_pairs(headers)
    found = []
    for header in headers:
        try:
            name, value = header
        except (TypeError, ValueError):
            raise _no_pair(header) from None
        found.append((name, value))
    return found


def _no_pairs(headers: object) -> RuntimeError:
    return RuntimeError(f"{_PAIRS}, not {headers!r}")


def _no_pair(header: object) -> RuntimeError:
    return RuntimeError(f"{_PAIRS}: {header!r} is none")


def _learn(header: Header) -> tuple[bytes, int]:
    """Check a header seen for the first time, and remember it if it may well recur."""
    try:
        name, value = header
    except (TypeError, ValueError):
        raise _no_pair(header) from None
    check_header(name, value)
    word = name.lower()
    kind = _KINDS.get(word, ORDINARY)
    if word == b"content-length":
        if not value.isdigit() or len(value) > _MOST_DIGITS:
            raise RuntimeError(f"content-length: {value!r} is not a number of bytes")
        kind = CONTENT_LENGTH + int(value)
    known = b"%b: %b\r\n" % (name, value), kind
    if len(value) <= _REMEMBERED_VALUE_BYTES:
        if len(_remembered) >= _REMEMBERED:
            _remembered.clear()
        _remembered[name, value] = known
    return known
