"""Send a row of the corpus to a server and find out which of its outcomes came true."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import random
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Self

from asgi_worker.application import Message, Receive, Scope, Send
from tests.worker.requests.row import Outcome, Row, Seen
from tests.worker.serving import PATIENCE_S, Arena

BODY_LIMIT_BYTES = 100_000
AFTER = b"GET /after?x HTTP/1.1\r\nHost: after\r\n\r\n"
SEEN_AFTER = Seen("GET", "/after", b"/after", b"x", b"", "1.1", ((b"host", b"after"),))
WARM = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
SEEN_WARM = Seen("GET", "/", b"/", b"", b"", "1.1", ((b"host", b"a"),))


class Recorder:
    """The application: reads every request to its end and keeps what it saw."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.called = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http", scope
        self.called += 1
        body = b""
        more = True
        while more:
            message: Message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            more = message["more_body"]
        seen = Seen(
            scope["method"],
            scope["path"],
            scope["raw_path"],
            scope["query_string"],
            body,
            scope["http_version"],
            tuple(scope["headers"]),
        )
        self.seen.append(seen)
        text = mark(seen)
        headers = [(b"content-length", b"%d" % len(text))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": text})


def mark(seen: Seen) -> bytes:
    """What tells the answer to this request from others."""
    return b"%b %b?%b %d" % (seen.method.encode(), seen.raw_path, seen.query, len(seen.body))


class Refusals(logging.Handler):
    """Log lines of the worker."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def __enter__(self) -> Self:
        logger = logging.getLogger("asgi_worker")
        self.level_before = logger.level
        logger.setLevel(logging.DEBUG)
        logger.addHandler(self)
        return self

    def __exit__(self, *exc: object) -> None:
        logger = logging.getLogger("asgi_worker")
        logger.setLevel(self.level_before)
        logger.removeHandler(self)


@dataclasses.dataclass
class Answer:
    """One response as the client read it."""

    status: int
    fields: dict[bytes, bytes]
    body: bytes

    def closes(self, version: str) -> bool:
        """Whether it says that the connection ends here (RFC 9112 §9.3)."""
        options = {word.strip() for word in self.fields.get(b"connection", b"").lower().split(b",")}
        return b"close" in options or (version == "1.0" and b"keep-alive" not in options)


@dataclasses.dataclass
class Transcript:
    """One conversation: what the client read, what the application saw, what was logged."""

    answers: list[Answer]
    interim: list[int]
    ended: bool
    seen: list[Seen]
    called: int
    lines: list[str]

    def __str__(self) -> str:
        answers = [f"{one.status} {one.body[:30]!r}" for one in self.answers]
        seen = [f"{mark(one)!r} {one.version} {one.fields}"[:300] for one in self.seen]
        end = "ended" if self.ended else "open"
        return f"{answers}, {self.interim}, {end}; {self.called} calls, seen {seen}; {self.lines}"


class Line:
    """The client's end: a bare socket, because a stream loses what a reset follows."""

    def __init__(self, port: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.port = port
        self.sock = socket.socket()
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = b""
        self.ended = False

    async def __aenter__(self) -> Self:
        await self.loop.sock_connect(self.sock, ("127.0.0.1", self.port))
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.sock.close()

    async def send(self, pieces: Iterable[bytes], *, ends: bool) -> None:
        """Each piece in a segment of its own, until the server has had enough."""
        try:
            for piece in pieces:
                await self.loop.sock_sendall(self.sock, piece)
                for _ in range(3):  # turns of the loop, for the server to read just this
                    await asyncio.sleep(0)
                if self.ended:
                    return
            if ends:
                self.sock.shutdown(socket.SHUT_WR)
        except (ConnectionError, OSError):
            pass  # refused before its end; the answer tells

    async def more(self) -> bool:
        """Receive something; false at the end of the connection, be it by a reset."""
        if self.ended:
            return False
        try:
            async with asyncio.timeout(PATIENCE_S):
                data = await self.loop.sock_recv(self.sock, 65536)
        except ConnectionError:
            data = b""
        self.received += data
        self.ended = not data
        return not self.ended

    async def answer(self, has_body: Callable[[int], bool]) -> Answer | None:
        """The next answer, or ``None`` at the end of the connection."""
        while b"\r\n\r\n" not in self.received:
            if not await self.more():
                assert self.received == b"", f"half an answer: {self.received!r}"
                return None
        head, _, rest = self.received.partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        version, status, _ = first.split(b" ", 2)
        assert version == b"HTTP/1.1"
        pairs = [line.split(b": ", 1) for line in lines]
        fields = {name.lower(): value for name, value in pairs}
        assert len(fields) == len(pairs), f"a field twice: {head!r}"
        length = int(fields[b"content-length"]) if has_body(int(status)) else 0
        self.received = rest
        while len(self.received) < length:
            assert await self.more(), f"half an answer: {head!r} {self.received!r}"
        body, self.received = self.received[:length], self.received[length:]
        return Answer(int(status), fields, body)


async def converse(
    arena: Arena, recorder: Recorder, row: Row, pieces: Iterable[bytes], most: int
) -> Transcript:
    """Send ``pieces`` on a new connection and read until ``most`` answers or the end."""
    recorder.seen.clear()
    recorder.called = 0
    answers: list[Answer] = []
    interim: list[int] = []

    def has_body(status: int) -> bool:
        number = len(answers)
        to_head = number < len(recorder.seen) and recorder.seen[number].method == "HEAD"
        return status >= 200 and not to_head

    async with Line(arena.port) as line:
        with Refusals() as log:
            sending = asyncio.ensure_future(line.send(pieces, ends=row.ends))
            try:
                while len(answers) < most or row.ends:
                    answer = await line.answer(has_body)
                    if answer is None:
                        break
                    if answer.status < 200:
                        interim.append(answer.status)
                        continue
                    answers.append(answer)
                    if answer.closes(version_of(recorder, len(answers))):
                        while await line.more():
                            pass
                        assert not line.received, f"after the last answer: {line.received!r}"
                        break
                await sending
            finally:
                sending.cancel()
        return Transcript(
            answers, interim, line.ended, list(recorder.seen), recorder.called, log.lines
        )


def version_of(recorder: Recorder, answered: int) -> str:
    """The HTTP version of the request that was answered just now; a refusal always closes."""
    return recorder.seen[answered - 1].version if len(recorder.seen) >= answered else "1.1"


def faults(row: Row, outcome: Outcome, got: Transcript) -> list[str]:
    """All that ``outcome`` promises and ``got`` does not keep."""
    statuses = [200] * len(outcome.seen) + ([outcome.status] if outcome.status else [])
    refusal = got.answers[-1] if outcome.status and got.answers else None
    pairs = list(zip(outcome.seen, got.seen, strict=False))
    answers = list(zip(got.seen, got.answers, strict=False))
    kept = {
        "statuses": [answer.status for answer in got.answers] == statuses,
        "number of requests": len(got.seen) == len(outcome.seen),
        "what was seen": all(alike(expected, actual) for expected, actual in pairs),
        "whose answer": all(
            answer.body == (b"" if seen.method == "HEAD" else mark(seen))
            for seen, answer in answers
            if answer.status == 200
        ),
        "calls of the application": got.called <= len(outcome.seen) + outcome.begun,
        "end of the connection": got.ended is not outcome.open,
        "interim answers": set(got.interim) <= ({100} if row.interim else set()),
        "connection field": refusal is None or refusal.fields.get(b"connection") == b"close",
        "allow field": refusal is None or (b"allow" in refusal.fields) == (refusal.status == 405),
        "lines in the log": row.ends or len(got.lines) == (outcome.status is not None),
        "status in the log": refusal is None or f"({refusal.status})" in "".join(got.lines),
    }
    return [what for what, true in kept.items() if not true]


def alike(expected: Seen, actual: Seen) -> bool:
    if expected.fields is None:
        actual = dataclasses.replace(actual, fields=None)
    return actual == expected


def check(row: Row, outcome: Outcome, got: Transcript, how: str) -> None:
    """Every promise of ``outcome`` is kept."""
    broken = faults(row, outcome, got)
    assert not broken, f"{row.name}, {how} (RFC {row.section}): {', '.join(broken)} of {got}"


def meant(row: Row, got: Transcript, how: str) -> Outcome:
    """The outcome of ``row`` that came true, with all that it promises."""
    for outcome in row.outcomes:
        if not faults(row, outcome, got):
            return outcome
    broken = [", ".join(faults(row, outcome, got)) for outcome in row.outcomes]
    raise AssertionError(f"{row.name}, {how} (RFC {row.section}): {' / '.join(broken)} of {got}")


def same_kind(row: Row, outcome: Outcome, got: Transcript, how: str) -> None:
    """The same was understood as in ``outcome``; of several statuses that a row allows, any."""
    others = [
        dataclasses.replace(outcome, status=other.status)
        for other in row.outcomes
        if outcome.status and other.status
    ]
    check(row, next((one for one in others if not faults(row, one, got)), outcome), got, how)


def most_answers(row: Row) -> int:
    return max(len(one.seen) + (one.status is not None) for one in row.outcomes)


def cut(data: bytes, size: int) -> Iterator[bytes]:
    """Pieces of ``size`` bytes; the middle of what is very long goes in larger ones."""
    start = 0
    while start < len(data):
        middle = 400 < start < len(data) - 400
        end = min(start + 997, len(data) - 400) if middle else start + size
        yield data[start:end]
        start = end


def shred(data: bytes, chance: random.Random) -> Iterator[bytes]:
    """Pieces of any size, those of a few bytes as likely as those of thousands."""
    start = 0
    while start < len(data):
        end = start + int(chance.paretovariate(0.5))
        yield data[start:end]
        start = end


async def speak(arena: Arena, recorder: Recorder, row: Row) -> Outcome:
    """Whole and in pieces, the outcome is the same one."""
    most = most_answers(row)
    outcome = meant(row, await converse(arena, recorder, row, [row.sent], most), "whole")
    for how, pieces in {
        "byte by byte": cut(row.sent, 1),
        "in pieces of 7": cut(row.sent, 7),
        "in random pieces": shred(row.sent, random.Random(row.name)),
    }.items():
        same_kind(row, outcome, await converse(arena, recorder, row, pieces, most), how)
    return outcome


async def follow(arena: Arena, recorder: Recorder, row: Row, outcome: Outcome) -> None:
    """A request right behind is answered exactly once if the connection is open, else never."""
    if row.ends:
        return
    most = len(outcome.seen) + 1
    behind = dataclasses.replace(row, sent=row.sent + AFTER)
    expected = outcome
    if outcome.open:
        expected = dataclasses.replace(outcome, seen=(*outcome.seen, SEEN_AFTER))
    for how, pieces in {
        "a request right behind": [behind.sent],
        "a request behind": [row.sent, AFTER],
        "a request behind, byte by byte": cut(behind.sent, 1),
    }.items():
        got = await converse(arena, recorder, behind, pieces, most)
        same_kind(behind, expected, got, how)


async def in_a_row(arena: Arena, recorder: Recorder, rows: list[Row], name: str) -> None:
    """Rows on one connection, all but the last leaving it open, are seen as they are alone."""
    alone = [
        meant(row, await converse(arena, recorder, row, [row.sent], most_answers(row)), "alone")
        for row in rows
    ]
    seen = tuple(seen for outcome in alone for seen in outcome.seen)
    expected = dataclasses.replace(alone[-1], seen=seen)
    # An unknown method right behind another request may be taken for a malformed line.
    also = dataclasses.replace(expected, status=400 if expected.status == 501 else expected.status)
    together = Row(
        " + ".join(row.name for row in rows),
        rows[-1].section,
        b"".join(row.sent for row in rows),
        (expected, also),
        interim=any(row.interim for row in rows),
    )
    most = len(seen) + (expected.status is not None)
    for how, pieces in {
        "in one piece": [together.sent],
        "a row a piece": [row.sent for row in rows],
        "byte by byte": cut(together.sent, 1),
        "in random pieces": shred(together.sent, random.Random(name)),
    }.items():
        got = await converse(arena, recorder, together, pieces, most)
        same_kind(together, expected, got, how)


async def warmed(arena: Arena, recorder: Recorder, row: Row, outcome: Outcome) -> None:
    """The same on a connection that has answered the same plain request several times before."""
    expected = dataclasses.replace(outcome, seen=(*[SEEN_WARM] * 3, *outcome.seen))
    for first in (WARM, b"\r\n" + WARM):
        pieces = [first, first, first, row.sent]
        got = await converse(arena, recorder, row, pieces, most_answers(row) + 3)
        same_kind(row, expected, got, f"after {first!r}")
