"""The channel between master and child: one datagram a message, descriptors beside it.

What arrives is closed on ``exec``: a program that the application starts must keep neither a
channel (its reader would not see the end of it) nor a process descriptor. :func:`socket.recv_fds`
cannot do that: it takes flags, and ignores them.
"""

from __future__ import annotations

import os
import socket
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from asgi_worker.contract import LONGEST_MESSAGE_BYTES, Reopen

MOST_DESCRIPTORS = 8
"""With one message."""


def pair() -> tuple[socket.socket, socket.socket]:
    """The master's end, which never blocks, and the other's. Raises ``OSError``."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    return ours, theirs


def receive(end: socket.socket, flags: int = 0) -> tuple[bytes, list[int]]:
    """One datagram, empty at end-of-file, and its descriptors.

    Without descriptors to spare in this process some of them do not arrive. Raises ``OSError``.
    """
    room = socket.CMSG_LEN(MOST_DESCRIPTORS * array("i").itemsize)
    datagram, ancillary, _, _ = end.recvmsg(
        LONGEST_MESSAGE_BYTES, room, flags | socket.MSG_CMSG_CLOEXEC
    )
    fds = array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return datagram, list(fds)


@contextmanager
def closing(fds: list[int]) -> Iterator[list[int]]:
    """Close those that are still in the list at the end."""
    try:
        yield fds
    finally:
        for descriptor in fds:
            os.close(descriptor)


def put_in_place(message: Reopen, fds: Iterable[int]) -> None:
    """Put each of ``fds`` in the place of its target. Only the standard streams are inherited by
    programs that are started.
    """
    for target, descriptor in zip(message.targets, fds, strict=False):
        os.dup2(descriptor, target, inheritable=target <= 2)
