"""What trusted proxies say about a request: X-Forwarded-For, -Proto, -Host, -Port, and Forwarded.

The only place that decides who is believed. Each proxy appends what it saw to the right end, so the
lists are walked from the right while the one who spoke is trusted: the peer speaks for the last
element, the address in the last element for the one before it, and so on. The client is the first
address that is not trusted, or the left-most one if all are. Everything further left may have been
written by the client and is not looked at.

-Proto, -Host and -Port belong to hops as well. Most proxies replace them, some append. Of a list,
the value is taken that stands as far from the right as the client's address does in its own, or the
left-most if there are fewer: where trusted proxies append, what stands further left is not theirs.

``Forwarded`` (RFC 7239) is read when no X-Forwarded field is there. Preferring it would be wrong:
the usual proxies append to X-Forwarded-For and pass a ``Forwarded`` on as the client wrote it, so
that anybody could choose his address, scheme and host.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

Header = tuple[bytes, bytes]
Node = tuple[str, int]

MOST_HOPS = 64
"""Elements looked at, from the right; a chain of proxies is never that long, an attack may be."""

REMEMBERED = 2048
REMEMBERED_BYTES = 256
"""How many judgements are remembered, of fields how long: clients write them, so both are bounded.

Clients come back, and a look into a dict costs a tenth of parsing what their proxies say."""

_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
_ADDRESS_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[0-9.]+)(?::([0-9]{1,5}|_[A-Za-z0-9._-]{1,60}))?")
_IDENTIFIER = re.compile(r"(unknown|_[A-Za-z0-9._-]{1,60})(?::([0-9]{1,5}|_[A-Za-z0-9._-]{1,60}))?")
_HOST_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]{1,255})(?::([0-9]{1,5}))?")
# RFC 7239 section 4; white space around ";" is not in the grammar, but harmless.
# Possessive, so that a long run of spaces is looked at once.
_PAIR = re.compile(
    r"[ \t]*+(?:([!#$%&'*+.^_`|~0-9A-Za-z-]+)="
    r"(?:([!#$%&'*+.^_`|~0-9A-Za-z-]+)|\"((?:[^\"\\]|\\.)*+)\"))?[ \t]*+(;|\Z)"
)
_ESCAPED = re.compile(r"\\(.)")

_FIELDS = frozenset(
    (
        b"forwarded",
        b"x-forwarded-for",
        b"x-forwarded-proto",
        b"x-forwarded-host",
        b"x-forwarded-port",
    )
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
        self._understood: dict[tuple[tuple[bytes, bytes], ...], _Said] = {}

    def trusts(self, host: str | None) -> bool:
        """Whether the peer or hop ``host`` is believed; ``None`` is the peer of a unix socket."""
        if host is None:
            return self._any
        known = self._known.get(host)
        if known is None:
            known = self._all or self._contains(host)
            _remember(self._known, host, known)
        return known

    def apply(self, scope: dict[str, Any], headers: list[Header]) -> None:
        """Rewrite ``client``, ``scheme``, ``server`` of ``scope`` and the host of ``headers``.

        To be called only for a peer that is trusted. Never raises; what is malformed is ignored.
        """
        fields: dict[bytes, bytes] = {}
        for name, value in headers:
            if name in _FIELDS:
                fields[name] = value if name not in fields else fields[name] + b"," + value
        key = tuple(fields.items())
        said = self._understood.get(key)
        if said is None:
            said = self._understand(fields)
            if sum(map(len, fields.values())) <= REMEMBERED_BYTES:
                _remember(self._understood, key, said)
        if said.client is not None:
            scope["client"] = said.client
        if said.secure is not None:
            scope["scheme"] = _SCHEMES[scope["type"] == "websocket", said.secure]
        if said.name or said.port:
            _rewrite_host(scope, headers, said)

    def _contains(self, host: str) -> bool:
        try:
            address = _address(host.partition("%")[0])
        except ValueError:
            return False
        return any(address in network for network in self._networks)

    def _understand(self, fields: dict[bytes, bytes]) -> _Said:
        if b"forwarded" in fields and len(fields) == 1:
            return self._walk_forwarded(fields[b"forwarded"].decode("latin-1"))
        return self._walk_x_forwarded(fields)

    def _walk_x_forwarded(self, fields: dict[bytes, bytes]) -> _Said:
        client = None
        hops = 0
        for element in reversed(_listed(fields.get(b"x-forwarded-for", b""))):
            node = _node(element)
            if node is None:
                break
            hops += 1
            client = node
            if not self.trusts(node[0]):
                break
        proto, host, port = (
            _said_by(hops, fields.get(name, b""))
            for name in (b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port")
        )
        return _said(client, proto, host, port)

    def _walk_forwarded(self, text: str) -> _Said:
        client = None
        proto = host = ""
        for element in _elements_from_right(text):
            pairs = _pairs(element)
            node = _node(pairs["for"]) if pairs and "for" in pairs else None
            if pairs is None or (node is None and "for" in pairs):
                break
            client = node or client
            proto = pairs.get("proto", proto)
            host = pairs.get("host", host)
            if node is None or not self.trusts(node[0]):
                break
        return _said(client, proto, host, "")


class _Said(msgspec.Struct, frozen=True):
    """What the left-most believed proxy said of the connection it got."""

    client: Node | None
    secure: bool | None
    name: str  # of the host asked for, "" if not said
    name_port: int  # the port beside that name, else 0
    port: int  # of X-Forwarded-Port, else 0


_SCHEMES = {
    (False, False): "http",
    (False, True): "https",
    (True, False): "ws",
    (True, True): "wss",
}


def _said(client: Node | None, proto: str, host: str, port: str) -> _Said:
    name, name_port = _host_port(host)
    secure = {"http": False, "ws": False, "https": True, "wss": True}.get(proto.lower())
    return _Said(client, secure, name, name_port, _port(port))


def _remember(memory: dict[Any, Any], key: object, value: object) -> None:
    if len(memory) >= REMEMBERED:
        memory.clear()
    memory[key] = value


def _rewrite_host(scope: dict[str, Any], headers: list[Header], said: _Said) -> None:
    name, name_port, port = said.name, said.name_port, said.port
    usual = 443 if scope["scheme"] in ("https", "wss") else 80
    at = next((i for i, (field, _) in enumerate(headers) if field == b"host"), None)
    if name:
        # The port in a name is the one the client used; -Port may be that of the proxy's socket.
        scope["server"] = (name.strip("[]"), name_port or port or usual)
    else:
        server = scope.get("server")
        if server is not None and server[1] is not None:
            scope["server"] = (server[0], port)
        if at is not None:
            name, name_port = _host_port(headers[at][1].decode("latin-1"))
    if not name:
        return
    shown = name_port or (port if port != usual else 0)
    field = (b"host", f"{name}:{shown}".encode() if shown else name.encode())
    if at is None:
        headers.append(field)
    else:
        headers[at] = field


def _network(entry: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        network = ipaddress.ip_network(entry)
    except ValueError:
        pass
    else:
        if network.version == 6 and network.subnet_of(_MAPPED):
            mapped = _address(str(network.network_address))
            return ipaddress.ip_network(f"{mapped}/{network.prefixlen - _MAPPED.prefixlen}")
        return network
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
    parts = value.decode("latin-1").rsplit(",", MOST_HOPS)
    return [text for part in parts[-MOST_HOPS:] if (text := part.strip(" \t"))]


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
    host, port = (match[1], match[2]) if match else (text, None)
    if "%" in host:
        return None  # a zone means nothing here, and may hold any characters
    try:
        address = ipaddress.IPv6Address(host[1:-1]) if match and host[0] == "[" else host
        return str(_address(str(address))), _port(port)
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
    for part in reversed(text.rsplit(",", MOST_HOPS)[-MOST_HOPS:]):
        parts.append(part)
        odd ^= _ESCAPED.sub("", part).count('"') % 2 == 1
        if not odd:
            element = ",".join(reversed(parts))
            parts.clear()
            if element.strip(" \t"):
                yield element
    if parts:
        yield ",".join(reversed(parts))


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
            pairs[name] = token if token is not None else _ESCAPED.sub(r"\1", quoted)
        if not end:
            return pairs
        at = match.end()
    return None
