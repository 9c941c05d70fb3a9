"""A crowd of users in a process of its own, paced by a rate, that counts every failure.

    with Crowd(Plan(…)) as crowd:   # all are connected, and the rate is reached
        …
    result = crowd.stop()

``python -m tests.process.crowd PLAN`` is that process: it says ``ready``, answers every line on its
standard input with what has been seen until then (as JSON), and with the last of it when the line
is ``stop``. End-of-file means that nobody wants to know any more.
"""

from __future__ import annotations

import asyncio
import gc
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from tests.process.tally import Book, Plan, Result
from tests.process.users import FILLING, Question, User, Visitor, get, upload
from tests.process.websocket_user import Talker

ROOT = Path(__file__).parents[2]
GATHERING_S = 20.0
WATCH_S = 0.25
REACHED = 0.9


class Crowd:
    """The users of ``plan``, while the ``with`` block lasts."""

    def __init__(self, plan: Plan, title: str = "crowd") -> None:
        self.plan = plan
        self.title = title
        self._words = [sys.executable, "-m", "tests.process.crowd"]
        self._last: Result | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [*self._words, msgspec.json.encode(self.plan).decode()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            cwd=ROOT,
        )
        self._selector = selectors.DefaultSelector()
        assert self._process.stdout is not None
        self._selector.register(self._process.stdout, selectors.EVENT_READ)
        self._unread = b""
        try:
            assert self._line(GATHERING_S + 10) == b"ready"
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        try:
            if self._last is None:
                print((self.stop() if kind is None else self.so_far()).table(self.title))
        finally:
            self._end()

    def so_far(self) -> Result:
        """What has been seen until now."""
        return self._ask(b"count\n", 10)

    def stop(self) -> Result:
        """Ask no more, wait for the answers that are due; what was seen, which is printed too."""
        if self._last is None:
            self._last = self._ask(b"stop\n", self.plan.patience_s + 10)
            print(self._last.table(self.title))
        return self._last

    def until(self, seen: Callable[[Result], bool], what: str, within_s: float = 20.0) -> Result:
        """Look until ``seen``."""
        deadline = time.monotonic() + within_s
        while not seen(result := self.so_far()):
            assert time.monotonic() < deadline, f"in vain: {what}\n{result.table(self.title)}"
            time.sleep(0.02)
        return result

    def _ask(self, command: bytes, within_s: float) -> Result:
        assert self._process.stdin is not None
        self._process.stdin.write(command)
        return msgspec.json.decode(self._line(within_s), type=Result)

    def _line(self, within_s: float) -> bytes:
        deadline = time.monotonic() + within_s
        assert self._process.stdout is not None
        while b"\n" not in self._unread:
            assert self._selector.select(max(0, deadline - time.monotonic())), "the crowd is silent"
            data = os.read(self._process.stdout.fileno(), 1 << 20)
            assert data, "the crowd has died"
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _end(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._selector.close()
        self._process.stdin.close()
        self._process.stdout.close()


def gather(book: Book) -> list[User]:
    """All users of the plan. A few shares of the rate are fixed, the rest is for the kept-alive."""
    plan = book.plan
    shares = {"websockets": 0.06, "uploaders": 0.04, "fresh": 0.08}
    rates = {name: plan.rate * share for name, share in shares.items() if getattr(plan, name)}
    kept_rate = plan.rate - sum(rates.values())
    kept, fresh = Question(get("/", keep=True)), Question(get("/", keep=False))
    large = Question(get("/large", keep=False), after=FILLING)

    def visitors(count: int, name: str, rate: float, ask: Callable[[], Question], **how: bool):  # type: ignore[no-untyped-def]
        return [Visitor(book, name, rate / count, ask, **how) for _ in range(count)]

    return [
        *visitors(plan.kept, "kept-alive", kept_rate, lambda: kept, keep=True),
        *visitors(plan.fresh, "new connection", rates.get("fresh", 0), lambda: fresh, keep=False),
        *visitors(plan.uploaders, "upload", rates.get("uploaders", 0), upload, keep=True),
        *visitors(
            (plan.slow + 1) // 2, "slow sender", plan.slow, lambda: kept, keep=True, dribbles=True
        ),
        *visitors(
            plan.slow // 2, "slow reader", plan.slow, lambda: large, keep=False, reads_slowly=True
        ),
        *(Talker(book, rates["websockets"] / plan.websockets) for _ in range(plan.websockets)),
    ]


class Session:
    """The process of the crowd."""

    def __init__(self, plan: Plan) -> None:
        self.book = Book(plan, asyncio.get_running_loop())
        self.users = gather(self.book)
        self.over = asyncio.Event()
        self._commands = b""

    async def run(self) -> None:
        self.book.loop.add_reader(0, self._commanded)
        watch = asyncio.create_task(self._watch())
        await self._gathered()
        self.book.begin()
        say(b"ready")
        await self.over.wait()
        deadline = time.monotonic() + self.book.plan.patience_s
        while time.monotonic() < deadline:
            if not any(user.busy for user in self.users):
                break
            await asyncio.sleep(0.01)
        say(msgspec.json.encode(self.book.result()))
        watch.cancel()
        for user in self.users:
            user.leave()

    async def _gathered(self) -> None:
        """Until all have been served and the rate is reached; or not, which the rate tells."""
        deadline = time.monotonic() + GATHERING_S
        wanted = self.book.plan.rate * WATCH_S * REACHED
        while time.monotonic() < deadline:
            before = self.book.answers
            await asyncio.sleep(WATCH_S)
            if self.book.answers - before >= wanted and all(user.served for user in self.users):
                return

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_S)
            now = time.monotonic()
            for user in self.users:
                user.look_at_the_clock(now)

    def _commanded(self) -> None:
        data = os.read(0, 4096)
        if not data:
            os._exit(1)
        self._commands += data
        while b"\n" in self._commands:
            command, _, self._commands = self._commands.partition(b"\n")
            if command == b"stop":
                self.book.leaving = True
                self.book.end()
                self.over.set()
            else:
                say(msgspec.json.encode(self.book.result()))


def say(line: bytes) -> None:
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


async def main(plan: Plan) -> None:
    await Session(plan).run()


if __name__ == "__main__":
    import uvloop

    gc.freeze()
    uvloop.run(main(msgspec.json.decode(sys.argv[1], type=Plan)))
