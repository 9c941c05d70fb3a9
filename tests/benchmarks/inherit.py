"""Start a server with a listening socket that it inherits: `inherit.py PORT PROGRAM ARGUMENT …`.

The socket is descriptor 3. All workers accept from the one queue behind it.
"""

from __future__ import annotations

import os
import socket
import sys


def main(port: int, program: list[str]) -> None:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(2048)
    os.dup2(listener.fileno(), 3)
    os.set_inheritable(3, True)  # which it would not be if it was 3 before
    os.execvp(program[0], program)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
