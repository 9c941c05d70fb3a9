"""The end of a queue of ours: whoever got into it is served, and whoever did not is refused.

To close a listening socket is not enough, for master and template hold it as well, if only for a
moment; and to end it by ``shutdown(2)`` resets who came since it was last looked into, which may
have been some time ago if the machine has much to do. So first the kernel drops each packet that
begins a connection (classic BPF in ``SO_ATTACH_FILTER``, socket(7)), and only these: who is in the
middle of the handshake still gets in. Who was dropped tries again in a second, as TCP does, and is
refused then – or served, by a service that was started anew in the meantime.
"""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
from collections.abc import Sequence
from typing import Final

HANDSHAKE_S: Final = 0.05
"""For those who have begun a handshake to end it."""

Instruction = tuple[int, int, int, int]
"""Code, jump if true, jump if false, operand."""

_SO_ATTACH_FILTER: Final = 26
_SYN, _ACK = 0x02, 0x10
_NO_NEWCOMERS: Final[Sequence[Instruction]] = (
    (0x30, 0, 0, 13),  # ldb [13]: flags in the header of TCP
    (0x54, 0, 0, _SYN | _ACK),  # and
    (0x15, 0, 1, _SYN),  # jeq
    (0x06, 0, 0, 0),  # ret: drop it
    (0x06, 0, 0, 0xFFFFFFFF),  # ret: let all of it in
)


def admit_no_more(listener: socket.socket) -> None:
    """Let nobody else join the queue of ``listener`` (TCP), in all processes that hold it.

    Where the kernel takes no filters there is at least room for one only.
    """
    try:
        attach(listener, _SO_ATTACH_FILTER, _NO_NEWCOMERS)
    except OSError:
        with contextlib.suppress(OSError):
            listener.listen(0)


def end(listener: socket.socket) -> None:
    """After :func:`admit_no_more`, and when all who had joined were accepted: refuse the others."""
    with contextlib.suppress(OSError):  # somebody else who holds it was faster
        listener.shutdown(socket.SHUT_RD)


def attach(listener: socket.socket, option: int, program: Sequence[Instruction]) -> None:
    """Give the kernel a classic BPF ``program`` for ``listener``. Raises ``OSError``."""
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
    length_and_place = struct.pack("HL", len(program), ctypes.addressof(code))
    listener.setsockopt(socket.SOL_SOCKET, option, length_and_place)
