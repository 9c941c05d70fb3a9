"""Connections to a weighted group of listeners under SYN cookies, in a network of our own.

As a program it prints, as JSON, how many came to each slot and how many cookies were taken. Exits
with status 77 where a process may not have a network of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import socket
import struct
import sys
from collections import Counter
from pathlib import Path

from asgi_supervise.host import sockets

NOT_ALLOWED = 77
WEIGHTS = 1, 0, 3
CONNECTIONS = 200
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS = 0x8914
IFF_UP = 0x1


def enter_own_network() -> None:
    """One in which there is nobody but us, and every handshake is made with a cookie."""
    flags = CLONE_NEWNET if os.geteuid() == 0 else CLONE_NEWUSER | CLONE_NEWNET
    if ctypes.CDLL(None).unshare(flags) != 0:
        raise PermissionError
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))
    Path("/proc/sys/net/ipv4/tcp_syncookies").write_text("2")


def cookies() -> Counter[str]:
    """What the kernel counts of them (proc(5), netstat)."""
    names, figures = Path("/proc/net/netstat").read_text().splitlines()[:2]
    return Counter(dict(zip(names.split()[1:], map(int, figures.split()[1:]), strict=True)))


def connect(bind: str) -> list[int]:
    """How many of so many connections came to each slot."""
    listeners = sockets.listen([bind], slots=3, backlog=CONNECTIONS, uds_mode=0o600, owner=None)
    listeners.steer(WEIGHTS)
    address = listeners.by_slot[0][0].getsockname()[:2]
    with contextlib.ExitStack() as opened:
        opened.callback(listeners.close)
        for _ in range(CONNECTIONS):
            opened.enter_context(socket.create_connection(address, timeout=10))
        return [accepted(listener) for (listener,) in listeners.by_slot]


def accepted(listener: socket.socket) -> int:
    """How many waited."""
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            listener.accept()[0].close()
            count += 1
    return count


if __name__ == "__main__":
    try:
        enter_own_network()
    except OSError:
        sys.exit(NOT_ALLOWED)
    counts = {bind: connect(bind) for bind in ("127.0.0.1:0", "[::1]:0")}
    print(json.dumps([counts, cookies()["SyncookiesRecv"], cookies()["SyncookiesFailed"]]))
