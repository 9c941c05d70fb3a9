"""What trusted proxies say about a request: X-Forwarded-For, -Proto, -Host, -Port, and Forwarded.

The only place that decides who is believed. Each proxy appends what it saw to the right end, so the
lists are walked from the right while the one who spoke is trusted: the peer speaks for the last
element, the address in the last element for the one before it, and so on. The client is the first
address that is not trusted, or the left-most one if all are. Everything further left may have been
written by the client and is not looked at.

-Proto, -Host and -Port belong to hops as well, but most proxies replace them instead of appending.
Of a list, the value counted from the right as far as the walk went is taken, or the left-most if
there are fewer: never one that an untrusted hop may have written.

``Forwarded`` (RFC 7239) is read when no X-Forwarded field is there. Preferring it would be wrong:
the usual proxies append to X-Forwarded-For and pass a ``Forwarded`` on as the client wrote it, so
that anybody could choose his address, scheme and host.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence
from typing import Any

Header = tuple[bytes, bytes]
Node = tuple[str, int]

REMEMBERED = 4096
"""Addresses whose trust is remembered; they come from clients, so there must be a limit."""

_ADDRESS_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[0-9.]+)(?::([0-9]{1,5}|_[A-Za-z0-9._-]{1,60}))?")
_IDENTIFIER = re.compile(r"(unknown|_[A-Za-z0-9._-]{1,60})(?::([0-9]{1,5}|_[A-Za-z0-9._-]{1,60}))?")
_HOST_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]{1,255})(?::([0-9]{1,5}))?")
# RFC 7239 section 4; white space around ";" is not in the grammar, but harmless.
_PAIR = re.compile(
    r"[ \t]*(?:([!#$%&'*+.^_`|~0-9A-Za-z-]+)="
    r"(?:([!#$%&'*+.^_`|~0-9A-Za-z-]+)|\"((?:[^\"\\]|\\.)*)\"))?[ \t]*(;|$)"
)


class TrustedProxies:
    """Those who are believed: addresses, networks (``10.0.0.0/8``), ``unix:`` or ``*``.

    Peers of unix sockets (no address) are trusted when anybody is. Raises ``ValueError`` naming the
    first entry that is none of these.
    """

    def __init__(self, allow: Sequence[str]) -> None:
        self._all = "*" in allow
        self._any = bool(allow)
        self._networks = [_network(entry) for entry in allow if entry not in ("*", "unix:")]
        self._known: dict[str, bool] = {}

    def trusts(self, host: str | None) -> bool:
        """Whether the peer or hop ``host`` is believed; ``None`` is the peer of a unix socket."""
        if host is None:
            return self._any
        known = self._known.get(host)
        if known is None:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            known = self._known[host] = self._all or self._contains(host)
        return known

    def apply(self, scope: dict[str, Any], headers: list[Header]) -> None:
        """Rewrite ``client``, ``scheme``, ``server`` of ``scope`` and the host of ``headers``.

        To be called only for a peer that is trusted. Never raises; what is malformed is ignored.
        """
        said: dict[bytes, bytes] = {}
        for name, value in headers:
            if name in _FIELDS:
                said[name] = value if name not in said else said[name] + b"," + value
        hop = _Hop()
        if b"forwarded" in said and len(said) == 1:
            self._walk_forwarded(said[b"forwarded"].decode("latin-1"), hop)
        else:
            self._walk_x_forwarded(said, hop)
        _rewrite(scope, headers, hop)

    def _contains(self, host: str) -> bool:
        try:
            address = _address(host.partition("%")[0])
        except ValueError:
            return False
        return any(address in network for network in self._networks)

    def _walk_x_forwarded(self, said: dict[bytes, bytes], hop: _Hop) -> None:
        hops = 0
        for element in reversed(_listed(said.get(b"x-forwarded-for", b""))):
            node = _node(element)
            if node is None:
                break
            hops += 1
            hop.client = node
            if not self.trusts(node[0]):
                break
        hop.proto = _said_by(hops, said.get(b"x-forwarded-proto", b"")).lower()
        hop.host = _said_by(hops, said.get(b"x-forwarded-host", b""))
        hop.port = _said_by(hops, said.get(b"x-forwarded-port", b""))

    def _walk_forwarded(self, text: str, hop: _Hop) -> None:
        for element in _elements_from_right(text):
            pairs = _pairs(element)
            node = _node(pairs["for"]) if pairs and "for" in pairs else None
            if pairs is None or (node is None and "for" in pairs):
                return
            hop.client = node or hop.client
            hop.proto = pairs.get("proto", hop.proto).lower()
            hop.host = pairs.get("host", hop.host)
            if node is None or not self.trusts(node[0]):
                return


_FIELDS = frozenset(
    (
        b"forwarded",
        b"x-forwarded-for",
        b"x-forwarded-proto",
        b"x-forwarded-host",
        b"x-forwarded-port",
    )
)


class _Hop:
    """What the left-most believed proxy said of the connection it got; "" is nothing."""

    __slots__ = ("client", "host", "port", "proto")

    def __init__(self) -> None:
        self.client: Node | None = None
        self.proto = ""
        self.host = ""
        self.port = ""


def _rewrite(scope: dict[str, Any], headers: list[Header], hop: _Hop) -> None:
    if hop.client is not None:
        scope["client"] = hop.client
    websocket = scope["type"] == "websocket"
    if hop.proto in ("https", "wss"):
        scope["scheme"] = "wss" if websocket else "https"
    elif hop.proto in ("http", "ws"):
        scope["scheme"] = "ws" if websocket else "http"
    port = _port(hop.port)
    if not hop.host and not port:
        return
    at = next((i for i, (name, _) in enumerate(headers) if name == b"host"), None)
    host, own_port = _host_port(hop.host)
    replaced = bool(host)
    if not host and port:
        # The port alone: it completes the name that is there.
        host, own_port = _host_port(headers[at][1].decode("latin-1") if at is not None else "")
    if not host:
        if port and scope.get("server"):
            scope["server"] = (scope["server"][0], port)
        return
    usual = 443 if scope["scheme"] in ("https", "wss") else 80
    # A port in the name is the one that the client used; -Port may be that of the proxy's socket.
    shown = own_port or (port if port != usual else 0)
    value = f"{host}:{shown}" if shown else host
    if at is None:
        headers.append((b"host", value.encode("ascii")))
    elif replaced or shown != own_port:
        headers[at] = (b"host", value.encode("ascii"))
    scope["server"] = (host.strip("[]"), own_port or port or usual)


def _network(entry: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(entry)
    except ValueError:
        pass
    try:
        meant = ipaddress.ip_network(entry, strict=False)
    except ValueError:
        raise ValueError(
            f'"{entry}" is not an address, a network such as 10.0.0.0/8, "unix:" or "*"'
        ) from None
    raise ValueError(f'"{entry}" is an address within a network: did you mean {meant}?')


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _listed(value: bytes) -> list[str]:
    """The elements of a comma-separated list, without the empty ones (RFC 9110 section 5.6.1)."""
    return [text for part in value.decode("latin-1").split(",") if (text := part.strip(" \t"))]


def _said_by(hops: int, value: bytes) -> str:
    values = _listed(value)
    return values[-min(max(hops, 1), len(values))] if values else ""


def _node(text: str) -> Node | None:
    """Address and port (0 if not known) of an element, or ``None`` for garbage.

    Takes what proxies write: ``192.0.2.1``, ``192.0.2.1:80``, ``2001:db8::1``,
    ``[2001:db8::1]:80``, ``unknown`` and ``_hidden`` (RFC 7239 section 6).
    """
    if match := _IDENTIFIER.fullmatch(text):
        return match[1], _port(match[2])
    match = _ADDRESS_PORT.fullmatch(text)
    host, port = (match[1].strip("[]"), match[2]) if match else (text, None)
    if "%" in host:
        return None
    try:
        return str(_address(host)), _port(port)
    except ValueError:
        return None


def _port(text: str | None) -> int:
    port = int(text) if text and text.isascii() and text.isdigit() and len(text) <= 5 else 0
    return port if port < 65536 else 0


def _host_port(text: str) -> tuple[str, int]:
    """Name (brackets kept) and port of a host field; ("", 0) for what may not become one."""
    match = _HOST_PORT.fullmatch(text)
    if match is None:
        return "", 0
    host, port = match[1], _port(match[2])
    if match[2] and not port:
        return "", 0
    if host.startswith("["):
        try:
            ipaddress.IPv6Address(host[1:-1])
        except ValueError:
            return "", 0
    return host, port


def _elements_from_right(text: str) -> Iterator[str]:
    """The elements of a ``Forwarded`` field, last first, commas in quoted strings respected.

    From the right because the left may be the client's: an unbalanced quote there must not swallow
    what a proxy has appended. A part with an odd number of quotes goes on to its left.
    """
    parts: list[str] = []
    odd = False
    for part in reversed(text.split(",")):
        parts.append(part)
        odd ^= _QUOTES.sub("", part).count('"') % 2 == 1
        if not odd:
            element = ",".join(reversed(parts))
            parts.clear()
            if element.strip(" \t"):
                yield element
    if parts:
        yield ",".join(reversed(parts))


_QUOTES = re.compile(r"\\.")


def _pairs(element: str) -> dict[str, str] | None:
    """The parameters of one ``Forwarded`` element, names in lower case; ``None`` if malformed."""
    pairs: dict[str, str] = {}
    at = 0
    while match := _PAIR.match(element, at):
        name, token, quoted, end = match.groups()
        if name is not None:
            name = name.lower()
            if name in pairs:  # RFC 7239 section 4: each at most once
                return None
            pairs[name] = token if token is not None else re.sub(r"\\(.)", r"\1", quoted)
        if not end:
            return pairs
        at = match.end()
    return None
