"""Requests as a trusted proxy hands them on."""

from __future__ import annotations

from typing import Any

from asgi_worker.protocols.forwarded import TrustedProxies

PEER = ("127.0.0.1", 40000)
LOCAL = ("127.0.0.1", "::1", "10.0.0.0/8")
Fields = dict[str, str] | list[tuple[str, str]]


def applied(
    fields: Fields,
    *,
    allow: tuple[str, ...] = LOCAL,
    host: str | None = "inner:8000",
    scope_type: str = "http",
    server: tuple[str, int | None] | None = ("127.0.0.1", 8000),
) -> tuple[dict[str, Any], list[tuple[bytes, bytes]]]:
    """Scope and headers after a trusted peer has sent ``fields``."""
    headers = [(b"accept", b"*/*")]
    if host is not None:
        headers.append((b"host", host.encode("latin-1")))
    pairs = fields.items() if isinstance(fields, dict) else fields
    headers += [(name.encode(), value.encode("latin-1", "replace")) for name, value in pairs]
    scope = {
        "type": scope_type,
        "scheme": "ws" if scope_type == "websocket" else "http",
        "client": PEER,
        "server": server,
    }
    TrustedProxies(allow).apply(scope, headers)
    return scope, headers


def client_of(fields: Fields, allow: tuple[str, ...] = LOCAL) -> Any:
    return applied(fields, allow=allow)[0]["client"]


def host_of(headers: list[tuple[bytes, bytes]]) -> str | None:
    hosts = [value for name, value in headers if name == b"host"]
    assert len(hosts) <= 1
    return hosts[0].decode("latin-1") if hosts else None
