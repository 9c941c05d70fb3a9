"""Connections move at random moments under random traffic, and every octet is compared.

``python -m tests.process.fuzz [--seconds 30] [--seed N] [--loop asyncio]`` keeps a few dozen
connections busy with requests of all sizes, pipelined, chunked and sent piece by piece, and with
WebSockets, while reloads come in storms and processes are stopped for moments; nobody is killed.
No connection may ever end, but for WebSockets that are told to come again, and no answer may differ
from what follows from its request. Exit status 1 and the seed if not.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import os
import random
import re
import secrets
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

import psutil

from tests.process.boards import Board
from tests.process.callers import LAST, LENGTH, open_connection
from tests.process.fuzzed import filling
from tests.process.loaded import CALM
from tests.process.service import Service
from tests.process.websocket_user import CLOSE, HANDSHAKE, PING, PONG, TEXT, frame, next_frame

HTTP_USERS = 24
WEBSOCKET_USERS = 6
WORKERS = 3
PATIENCE_S = 30.0
PID = re.compile(rb"\r\nx-pid: *(\d+)\r\n", re.IGNORECASE)
CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked\r\n", re.IGNORECASE)
BINARY = 0x2
COME_AGAIN = 1012


class Wrong(Exception):
    """Something was not as expected."""


class Request(NamedTuple):
    """What is sent, and the body that has to come."""

    sent: bytes
    expected: bytes


def a_request(chance: random.Random) -> Request:
    seed, size = chance.randrange(10**9), chance.choice((0, 1, 100, 3000, 20_000, 150_000))
    pieces, pause_ms = chance.choice((0, 0, 0, 1, 2, 5)), chance.choice((0, 0, 1, 20))
    body = chance.randbytes(chance.choice((0, 0, 0, 1, 700, 16_384, 70_000)))
    expected = hashlib.sha256(body).hexdigest().encode() + filling(seed, size)
    fields = [b"Host: fuzz", b"X-Padding: " + b"x" * chance.choice((0, 10, 1000, 7000))]
    if body and chance.random() < 0.5:
        fields.append(b"Transfer-Encoding: chunked")
        body = chunked(chance, body)
    elif body or chance.random() < 0.3:
        fields.append(b"Content-Length: %d" % len(body))
    method = "POST" if body else "GET"
    line = f"{method} /{seed}/{size}/{pieces}/{pause_ms} HTTP/1.1".encode()
    return Request(b"\r\n".join((line, *fields, b"", body)), expected)


def chunked(chance: random.Random, body: bytes) -> bytes:
    found = b""
    while body:
        size = chance.randrange(1, len(body) + 1) if len(body) > 16 else len(body)
        found += b"%x\r\n%s\r\n" % (size, body[:size])
        body = body[size:]
    return found + b"0\r\n\r\n"


class Fuzz:
    """What all users of a run have in common, and what they have seen."""

    def __init__(self, address: tuple[str, int], seed: int, seconds: float) -> None:
        self.address = address
        self.seed = seed
        self.over_at = time.monotonic() + seconds
        self.answers = 0
        self.octets = 0
        self.moves = 0
        """Answers by another worker than that of the answer before, on one connection."""
        self.echoes = 0
        self.renewals = 0

    @property
    def over(self) -> bool:
        return time.monotonic() > self.over_at

    async def run(self, provoke: Coroutine[Any, Any, None]) -> None:
        """Raises :class:`Wrong` at the first octet that is not as it has to be."""
        users = [HttpUser(self, number).run() for number in range(HTTP_USERS)]
        users += [WebSocketUser(self, 1000 + number).run() for number in range(WEBSOCKET_USERS)]
        async with asyncio.TaskGroup() as group:
            for work in (provoke, *users):
                group.create_task(work)


async def dribble(chance: random.Random, writer: asyncio.StreamWriter, data: bytes) -> None:
    """Send ``data`` in pieces of any size, with pauses of any length."""
    cuts = sorted(chance.randrange(len(data)) for _ in range(chance.choice((0, 0, 1, 3, 8))))
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        writer.write(data[start:end])
        await writer.drain()
        await asyncio.sleep(chance.choice((0, 0, 0.001, 0.03)))


class HttpUser:
    """One connection, on which there is a question and an answer, and another, to the end."""

    def __init__(self, fuzz: Fuzz, number: int) -> None:
        self.fuzz = fuzz
        self.chance = random.Random(f"{fuzz.seed} {number}")
        self.name = f"user {number}"
        self.pid = 0

    async def run(self) -> None:
        reader, writer = await open_connection(self.fuzz.address)
        try:
            while not self.fuzz.over:
                async with asyncio.timeout(PATIENCE_S):
                    await self.converse(reader, writer)
                await asyncio.sleep(self.chance.choice((0, 0.01, 0.05, 0.2)))
            writer.write_eof()
            if rest := await reader.read():
                raise Wrong(f"{self.name}: {len(rest)} octets too many: {rest[:100]!r}")
        except (OSError, EOFError, asyncio.LimitOverrunError) as error:
            raise Wrong(f"{self.name}, last answered by {self.pid}: {error!r}") from error
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests = [a_request(self.chance) for _ in range(self.chance.choice((1, 1, 1, 2, 4)))]
        sending = asyncio.create_task(
            dribble(self.chance, writer, b"".join(one.sent for one in requests))
        )
        try:
            for one in requests:
                self.compare(await self.answer(reader), one)
            await sending
        finally:
            sending.cancel()

    def compare(self, body: bytes, request: Request) -> None:
        if body != request.expected:
            at = next(
                (n for n, pair in enumerate(zip(body, request.expected)) if pair[0] != pair[1]),  # noqa: B905
                min(len(body), len(request.expected)),
            )
            line = request.sent.partition(b"\r\n")[0].decode()
            raise Wrong(
                f"{self.name}, answered by {self.pid}: {line}: differs from octet {at} on, "
                f"{len(body)} octets instead of {len(request.expected)}"
            )
        self.fuzz.answers += 1
        self.fuzz.octets += len(body) + len(request.sent)

    async def answer(self, reader: asyncio.StreamReader) -> bytes:
        head = await reader.readuntil(b"\r\n\r\n")
        length, pid = LENGTH.search(head), PID.search(head)
        if not head.startswith(b"HTTP/1.1 200 ") or LAST.search(head) or pid is None:
            raise Wrong(f"{self.name}, last answered by {self.pid}: {head!r}")
        self.fuzz.moves += self.pid not in (0, int(pid[1]))
        self.pid = int(pid[1])
        if length:
            return await reader.readexactly(int(length[1]))
        if not CHUNKED.search(head):
            raise Wrong(f"{self.name}: a body without an end: {head!r}")
        body = b""
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readexactly(2)
        return body


class WebSocketUser:
    """What it says has to come back. It comes again when it is told to."""

    def __init__(self, fuzz: Fuzz, number: int) -> None:
        self.fuzz = fuzz
        self.chance = random.Random(f"{fuzz.seed} {number}")
        self.name = f"WebSocket {number}"

    async def run(self) -> None:
        while not self.fuzz.over:
            reader, writer = await open_connection(self.fuzz.address)
            try:
                await self.talk(reader, writer)
            except (OSError, EOFError) as error:
                raise Wrong(f"{self.name}: {error!r}") from error
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await dribble(self.chance, writer, HANDSHAKE)
        async with asyncio.timeout(PATIENCE_S):
            head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101 "):
            raise Wrong(f"{self.name}: {head!r}")
        data = bytearray()
        while not self.fuzz.over:
            said = [self.message() for _ in range(self.chance.choice((1, 1, 3)))]
            await dribble(self.chance, writer, b"".join(frame(*one) for one in said))
            for one in said:
                async with asyncio.timeout(PATIENCE_S):
                    heard = await self.hear(reader, writer, data)
                if heard == (CLOSE, COME_AGAIN.to_bytes(2, "big")):
                    self.fuzz.renewals += 1
                    return
                if heard != one:
                    raise Wrong(f"{self.name}: not what was said: {heard[0]} {heard[1][:80]!r}")
                self.fuzz.echoes += 1
                self.fuzz.octets += 2 * len(one[1])
            await asyncio.sleep(self.chance.choice((0, 0.02, 0.1)))

    def message(self) -> tuple[int, bytes]:
        payload = self.chance.randbytes(self.chance.choice((0, 1, 62, 63, 2000, 30_000)))
        return self.chance.choice(((BINARY, payload), (TEXT, payload.hex().encode())))

    async def hear(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytearray
    ) -> tuple[int, bytes]:
        while True:
            if (found := next_frame(data)) is None:
                more = await reader.read(65536)
                if not more:
                    raise EOFError("closed without a word")
                data += more
            elif found[0] == PING:
                writer.write(frame(PONG, found[1]))
            else:
                return found if found[0] != CLOSE else (CLOSE, found[1][:2])


class Provoker:
    """Reloads, and processes that get no turn for moments, at random."""

    def __init__(self, fuzz: Fuzz, service: Service) -> None:
        self.fuzz = fuzz
        self.service = service
        self.chance = random.Random(f"{fuzz.seed} provoker")
        self.done: Counter[str] = Counter()

    async def run(self) -> None:
        while not self.fuzz.over:
            event: Callable[[], Coroutine[Any, Any, None]] = self.chance.choice(
                (self.reload, self.reload, self.storm, self.stop, self.stop, self.stop)
            )
            self.done[event.__name__] += 1
            await event()
            await asyncio.sleep(self.chance.uniform(0, 0.2))
            self.service.read_on(0.001)

    async def reload(self) -> None:
        self.service.hang_up()

    async def storm(self) -> None:
        for _ in range(10):
            self.service.hang_up()
            await asyncio.sleep(self.chance.uniform(0, 0.03))

    async def stop(self) -> None:
        """One process of the service, whichever: a worker mostly."""
        children = psutil.Process(self.service.process.pid).children()
        workers = [one.pid for one in self.service.crew()]
        pid = self.chance.choice([*workers, *workers, *(one.pid for one in children)] or [0])
        with contextlib.suppress(ProcessLookupError):
            if pid:
                os.kill(pid, signal.SIGSTOP)
                await asyncio.sleep(self.chance.choice((0.01, 0.05, 0.1, 0.3)))
                os.kill(pid, signal.SIGCONT)


def run(seconds: float, seed: int, *words: str) -> list[str]:
    """What was wrong."""
    print(f"fuzz for {seconds:g} s with seed {seed}")
    service = Service(
        *("-w", str(WORKERS), "--bake-time", "0", "--keep-alive-timeout", "60"),
        *(*CALM, "--graceful-timeout", "60", *words),
        app="tests.process.fuzzed:app",
        environment={"PYTHONDEVMODE": ""},
    )
    with service:
        fuzz = Fuzz(service.serving(), seed, seconds)
        provoker = Provoker(fuzz, service)
        try:
            asyncio.run(fuzz.run(provoker.run()))
        except* Wrong as group:
            wrong = [str(error) for error in group.exceptions]
        else:
            wrong = []
        helped = Board(service).total("given_idle", "given_fresh", "helped", "rescued")
    reloads = service.log.count("reload complete")
    print(
        f"{fuzz.answers} answers, {fuzz.echoes} echoes, {fuzz.octets / 1e6:.1f} MB compared; "
        f"{fuzz.moves} moves seen, {helped} by those who are left, {fuzz.renewals} WebSockets "
        f"renewed in {reloads} reloads; {dict(provoker.done)}"
    )
    for text in wrong:
        print(f"WRONG: {text}")
    if not wrong and not (fuzz.moves and fuzz.renewals and fuzz.echoes):
        wrong.append("nothing has moved")
    if wrong:
        print(service.log)
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--loop", default="auto")
    given = parser.parse_args()
    seed = secrets.randbelow(1_000_000) if given.seed is None else given.seed
    wrong = run(given.seconds, seed, "--loop", given.loop)
    print(f"fuzz with seed {seed}: {'failed' if wrong else 'nothing is wrong'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
