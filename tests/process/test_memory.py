"""What is larger than memory flows through a worker and does not stay there."""

from __future__ import annotations

import socket
import time

import psutil
import pytest

from tests.process.floods import PIECE
from tests.process.service import Service, connected

pytestmark = [pytest.mark.process, pytest.mark.slow]

GIB = 1024**3
MIB = 1024**2
FLAT_BYTES = 2 * MIB


class Gauge:
    """How much the memory of a process that nobody else has (USS) varies, while it is looked at."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self.least = self.most = self._uss()
        self._next = 0.0

    def look(self) -> None:
        now = time.monotonic()
        if now >= self._next:
            uss = self._uss()
            self.least, self.most = min(self.least, uss), max(self.most, uss)
            self._next = now + 0.05

    def _uss(self) -> int:
        return int(self._process.memory_full_info().uss)


def upload(client: socket.socket, size: int, gauge: Gauge | None) -> None:
    client.sendall(b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n" % size)
    piece = bytes(MIB)
    for _ in range(size // MIB):
        client.sendall(piece)
        if gauge is not None:
            gauge.look()
    answer = b""
    while not answer.endswith(b"\r\n\r\n%d" % size):
        answer += client.recv(4096)


def download(client: socket.socket, size: int, gauge: Gauge | None) -> None:
    """Read slower than the application writes."""
    pieces = size // len(PIECE)
    client.sendall(b"GET /%d HTTP/1.1\r\nHost: t\r\n\r\n" % pieces)
    expected = pieces * (len(PIECE) + len(b"10000\r\n\r\n"))
    received = 0
    buffer = bytearray(MIB)
    end = b""
    while received < expected or not end.endswith(b"1\r\n0\r\n0\r\n\r\n"):
        count = client.recv_into(buffer)
        assert count, "the response broke off"
        received += count
        end = (end + buffer[max(0, count - 16) : count])[-16:]
        if gauge is not None and received % (64 * MIB) < count:
            time.sleep(0.01)
        if gauge is not None:
            gauge.look()


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("flow", [upload, download], ids=["upload", "download"])
def test_two_gibibytes_leave_memory_flat(flow: object, loop: str) -> None:
    move = upload if flow is upload else download
    with Service("-w", "1", "--loop", loop, app="tests.process.floods:app") as service:
        address = service.serving()
        (pid,) = service.workers().values()
        with connected(address, timeout_s=60) as client:
            move(client, 128 * MIB, None)
            gauge = Gauge(pid)
            move(client, 2 * GIB, gauge)
    print(f"{move.__name__} on {loop}: {(gauge.most - gauge.least) / MIB:.2f} MiB between extremes")
    assert gauge.most - gauge.least <= 2 * FLAT_BYTES
