"""Which slot gets a new connection: a program in the kernel for each group of listeners.

The kernel spreads the connections of a ``SO_REUSEPORT`` group by a hash over all its sockets, also
over one whose worker is gone, or hangs. A classic-BPF program attached to the group decides
instead: it draws a random number and compares it with running sums of weights. It needs no
privilege and is replaced at once and as a whole (socket(7), ``SO_ATTACH_REUSEPORT_CBPF``).

What the program returns is an index into the group, in the order in which its sockets began to
listen; :mod:`asgi_supervise.host.sockets` makes them in the order of slots.

A handshake that has begun keeps its slot. Not under SYN cookies, with which the kernel remembers
nothing of it: there its last packet is chosen a slot for anew, and any of the group takes the
cookie that another has given. So the weights hold there too, and sooner.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

from asgi_worker.ending import Instruction
from asgi_worker.ending import attach as attach_program

SO_ATTACH_REUSEPORT_CBPF: Final = 51
_LOAD_RANDOM: Final = (0x20, 0, 0, 0xFFFFF000 + 56)  # ld [SKF_AD_OFF + SKF_AD_RANDOM]
_MODULO: Final = 0x94
_JUMP_IF_GREATER_OR_EQUAL: Final = 0x35
_RETURN: Final = 0x06


def program(weights: Sequence[int]) -> list[Instruction]:
    """Instructions (code, jump if true, jump if false, operand) that choose an index by weight.

    Raises ``ValueError`` if no weight is more than 0.
    """
    total = sum(weights)
    if total <= 0:
        raise ValueError("no index can be chosen")
    steps = [_LOAD_RANDOM, (_MODULO, 0, 0, total)]
    for index, (weight, below) in enumerate(zip(weights, accumulate(weights), strict=True)):
        if weight:
            steps += [(_JUMP_IF_GREATER_OR_EQUAL, 1, 0, below), (_RETURN, 0, 0, index)]
    return steps[:-2] + steps[-1:]  # who comes to the last needs no comparison


def attach(listener: socket.socket, weights: Sequence[int]) -> None:
    """Let the group of ``listener`` choose by ``weights``. Raises ``OSError``."""
    attach_program(listener, SO_ATTACH_REUSEPORT_CBPF, program(weights))
