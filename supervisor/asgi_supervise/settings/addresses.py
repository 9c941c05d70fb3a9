"""Where to listen: the ways to say it become one tuple of normal addresses.

An address is ``host:port``, ``[v6]:port``, ``unix:path`` or ``fd://N``; nothing is resolved or
opened here. ``--host``/``--port``, ``--uds`` and ``--fd`` say the same as one ``--bind`` and exist
because people know them from uvicorn.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any

from asgi_supervise.settings.values import Kind

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8000
_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?")


def parse_bind(raw: Any) -> str:
    """The normal form of one ``--bind``; raises ``ValueError`` with what is wrong."""
    if not isinstance(raw, str) or not raw:
        raise ValueError("must be host:port, [v6]:port, unix:path or fd://N")
    if raw.startswith("unix:"):
        return unix_address(raw.removeprefix("unix:").removeprefix("//"))
    if raw.startswith("fd:"):
        number = raw.removeprefix("fd:").removeprefix("//")
        if not re.fullmatch(r"[0-9]{1,9}", number):
            raise ValueError("must be fd://N with N the number of an inherited socket")
        return f"fd://{int(number)}"
    if "/" in raw:
        raise ValueError("must be host:port, [v6]:port, unix:path or fd://N")
    if _is_v6(raw):
        raise ValueError("put an IPv6 address in brackets: [::1]:8000")
    host, colon, port = raw.rpartition(":")
    if not colon or raw.endswith("]"):
        if re.fullmatch(r"[0-9]+", raw):
            raise ValueError(f"has no host: write 127.0.0.1:{raw}, or 0.0.0.0:{raw} for everybody")
        host, port = raw, str(DEFAULT_PORT)
    if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError("the port must be a number from 0 to 65535")
    return tcp_address(host or "0.0.0.0", int(port))


def parse_host(raw: Any) -> str:
    """A host name or address, IPv6 with or without brackets; without the brackets."""
    if not isinstance(raw, str) or not raw:
        raise ValueError("must be a host name or an address")
    host = raw[1:-1] if raw.startswith("[") and raw.endswith("]") else raw
    if _is_v6(host):
        return host
    if host != raw or not _NAME.fullmatch(host):
        raise ValueError("neither a host name nor an address")
    if host in ("unix", "fd"):
        raise ValueError(f"begins another kind of address; write {host}. for such a host")
    return host


def tcp_address(host: str, port: int) -> str:
    """``host:port``, with brackets where IPv6 needs them."""
    host = parse_host(host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def unix_address(path: Any) -> str:
    """``unix:path``; the kernel takes at most 107 bytes of path."""
    if not isinstance(path, str) or not path or "\0" in path:
        raise ValueError("must name a path")
    if len(path.encode()) > 107:
        raise ValueError("the path is too long for a unix socket (107 bytes at most)")
    return f"unix:{path}"


def _is_v6(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).version == 6
    except ValueError:
        return False


BINDS = Kind("ADDRESS", parse_bind, ", ".join, is_list=True)
UDS = Kind("PATH", lambda raw: unix_address(raw).removeprefix("unix:"), str)
HOST = Kind("HOST", parse_host, lambda value: value or DEFAULT_HOST)
