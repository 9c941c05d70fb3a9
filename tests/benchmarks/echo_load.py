"""WebSocket load: raw frames made beforehand, echoes counted by their bytes. Needs no library.

Run as `echo_load.py PORT PAYLOAD_BYTES CONNECTIONS DEPTH SECONDS`, in a process of its own. Every
connection sends a batch of DEPTH masked frames, waits until all came back, sends the next. What is
said on standard output, and waited for on standard input, keeps handshakes, warm-up and close out
of the measurement:

    out: READY            handshakes done, first echoes were right; the server is idle
    in:  (a line)         go
    out: RESULT …         as load.lua prints it; everything sent came back, the server is idle again
    in:  (end of file)    leave

Extensions are not offered, so nothing is compressed.
"""

from __future__ import annotations

import select
import socket
import sys
import time
from typing import NoReturn

_MASK = b"\x37\xfa\x21\x3d"
_HANDSHAKE = (
    "GET /echo HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: Upgrade\r\n"
    "Upgrade: websocket\r\nOrigin: http://127.0.0.1:{port}\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
_PATIENCE_S = 10.0
_BOTH = select.EPOLLIN | select.EPOLLOUT


def fail(reason: str) -> NoReturn:
    print(f"FAILED {reason}", flush=True)
    sys.exit(1)


def frame(payload: bytes, mask: bytes = b"") -> bytes:
    size = len(payload)
    bit = 0x80 if mask else 0
    if size < 126:
        head = bytes((0x82, bit | size))
    else:
        head = bytes((0x82, bit | 126)) + size.to_bytes(2, "big")
    if not mask:
        return head + payload
    key = int.from_bytes((mask * (size // 4 + 1))[:size], "big")
    return head + mask + (int.from_bytes(payload, "big") ^ key).to_bytes(size, "big")


def receive_exactly(sock: socket.socket, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        data = sock.recv(size - len(received))
        if not data:
            fail("the server closed the connection")
        received += data
    return bytes(received)


def connect(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(_HANDSHAKE.format(port=port).encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += receive_exactly(sock, 1)
    if not head.startswith(b"HTTP/1.1 101 "):
        fail(f"handshake answered {head.partition(bytes([13]))[0].decode(errors='replace')}")
    return sock


def check(socks: list[socket.socket], payload: bytes) -> None:
    """One frame there and back on every connection, compared octet by octet."""
    there, back = frame(payload, _MASK), frame(payload)
    for sock in socks:
        sock.settimeout(_PATIENCE_S)
        sock.sendall(there)
        if receive_exactly(sock, len(back)) != back:
            fail("what came back is not what was sent")


class Client:
    """One connection under load: what is still to be sent and to come back of the batch."""

    __slots__ = ("batch", "batch_echo_bytes", "sent_at", "sock", "to_come", "to_send")

    def __init__(self, sock: socket.socket, batch: bytes, batch_echo_bytes: int) -> None:
        self.sock = sock
        self.batch = batch
        self.batch_echo_bytes = batch_echo_bytes
        self.to_send = memoryview(b"")
        self.to_come = 0
        self.sent_at = 0.0

    def start(self) -> bool:
        """Whether the whole batch is with the kernel."""
        self.to_send = memoryview(self.batch)
        self.to_come = self.batch_echo_bytes
        self.sent_at = time.perf_counter()
        return self.send()

    def send(self) -> bool:
        """Whether all is with the kernel now."""
        try:
            self.to_send = self.to_send[self.sock.send(self.to_send) :]
        except BlockingIOError:
            pass
        return not self.to_send

    def receive(self, buffer: bytearray) -> bool:
        """Whether the whole batch is back."""
        received = self.sock.recv_into(buffer)
        if not received:
            fail("the server closed a connection under load")
        self.to_come -= received
        if self.to_come < 0:
            fail("more came back than was sent")
        return not self.to_come


def run(clients: list[Client], seconds: float) -> tuple[int, float, list[float]]:
    """How many batches came back, how long that took, and how long each took, sorted."""
    poll = select.epoll()
    by_number = {client.sock.fileno(): client for client in clients}
    buffer = bytearray(256 * 1024)
    started = time.perf_counter()
    stop_at = started + seconds
    durations: list[float] = []
    for number, client in by_number.items():
        client.sock.setblocking(False)
        poll.register(number, _BOTH)
        client.start()
    outstanding = len(clients)
    while outstanding:
        events = poll.poll(_PATIENCE_S)
        if not events:
            fail(f"{outstanding} batches did not come back within {_PATIENCE_S:.0f} s")
        for number, event in events:
            client = by_number[number]
            if event & select.EPOLLOUT and (not client.to_send or client.send()):
                poll.modify(number, select.EPOLLIN)
            if event & select.EPOLLIN and client.receive(buffer):
                now = time.perf_counter()
                durations.append(now - client.sent_at)
                if now >= stop_at:
                    outstanding -= 1
                elif not client.start():
                    poll.modify(number, _BOTH)
    poll.close()
    return len(durations), time.perf_counter() - started, sorted(durations)


def main(port: int, size: int, connections: int, depth: int, seconds: int) -> None:
    payload = (b"a message of a chat, or of a game. " * (size // 32 + 1))[:size]
    socks = [connect(port) for _ in range(connections)]
    check(socks, payload)
    batch = frame(payload, _MASK) * depth
    clients = [Client(sock, batch, len(frame(payload)) * depth) for sock in socks]
    run(clients, 0.1)
    print("READY", flush=True)
    sys.stdin.readline()
    batches, took, durations = run(clients, seconds)
    p50, p99 = (durations[int(len(durations) * share)] * 1e6 for share in (0.5, 0.99))
    print(f"RESULT {batches * depth} {took * 1e6:.0f} {p50:.0f} {p99:.0f} 0 0 0 0", flush=True)
    sys.stdin.read()
    check(socks, payload)


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:]))
