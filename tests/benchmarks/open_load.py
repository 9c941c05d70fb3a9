"""Load that comes when it comes, not when the server has time for it. Needs no library.

Run as `open_load.py`, in a process of its own. A job (:class:`Job`, as JSON) is read from standard
input; what came of it (:class:`Outcome`) is written to standard output. A request is due at a
moment that is fixed beforehand, and its latency is counted from there: what a server that hangs
does to all that should have been asked meanwhile is in the figures.

Either each request has a connection of its own, or there are so many users, each with one that it
keeps, and a request is made by one who is idle; when all are busy it waits, and the time counts. Or
some requests are made by users, and the others by guests, who come for that one. If
all requests are due at once that is load of the other kind, where each
user asks again as soon as it has its answer.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import random
import select
import socket
import sys
import time
from dataclasses import asdict, dataclass, field

PATIENCE_S = 10.0
"""Without any answer for so long, the rest is given up."""
SETTLE_S = 0.5
"""Between the first request of all users and the load: time to move connections."""
WARM_UP = "/burn/0"
_TRIES = 3
_BUFFER = 64 * 1024


@dataclass(frozen=True)
class Job:
    port: int
    arrivals: list[tuple[float, str]]
    """When, in seconds from the beginning, which path is asked for."""
    users: int = 0
    """That keep a connection each; 0: a new connection for each request."""
    guests: float = 0.0
    """The part of the requests that is made by none of the users, on a connection of its own."""
    drawn: bool = False
    """Whether the user who asks is drawn at random – in which order the connections were shared out
    shall not matter – and not the one who has been idle for longest, so that none is idle long."""
    urgent: bool = True
    """Whether to be scheduled before the workers, so that no time is lost before a request is
    sent or after its answer came. Not for load that never rests."""


@dataclass
class Outcome:
    """In the order of the arrivals; what was not answered has latency -1 and worker 0."""

    latencies_ms: list[float]
    workers: list[int]
    late_ms: list[float] = field(default_factory=list)
    """How long after it was due each request was looked at: what this program is to blame for."""
    opened: int = 0
    """Connections."""
    broken: int = 0
    """Connections that ended before the answer; the request was made again on another one."""
    wrong: int = 0
    """Answers with another status than 200."""
    cpu_s: float = 0.0
    seconds: float = 0.0
    urgent: bool = False


class User:
    """One connection, or what is to become one."""

    __slots__ = ("guest", "number", "received", "request", "sock", "tries", "unsent")

    def __init__(self, *, guest: bool) -> None:
        self.guest = guest
        """Whether the connection is for one request only."""
        self.sock: socket.socket | None = None
        self.number = -1
        """Of the arrival whose answer is awaited; -1: none."""
        self.request = b""
        self.unsent = b""
        self.received = b""
        self.tries = 0


class Load:
    def __init__(self, job: Job) -> None:
        count = len(job.arrivals)
        self.job = job
        self.outcome = Outcome([-1.0] * count, [0] * count)
        self.poll = select.epoll()
        self.busy: dict[int, User] = {}
        self.free: collections.deque[User] = collections.deque()
        self.draw = random.Random(0)
        self.waiting: collections.deque[int] = collections.deque()
        self.answered = 0
        self.started = 0.0

    def run(self) -> Outcome:
        self._warm_up()
        outcome, arrivals = self.outcome, self.job.arrivals
        outcome.urgent = self.job.urgent and _hurry()
        used = time.process_time()
        self.started = time.perf_counter()
        due = 0
        heard_at = self.started
        while self.answered < len(arrivals):
            now = time.perf_counter()
            while due < len(arrivals) and (late := now - self.started - arrivals[due][0]) >= 0:
                outcome.late_ms.append(late * 1000)
                self._arrive(due)
                due += 1
            left_s = arrivals[due][0] - now + self.started if due < len(arrivals) else 1.0
            # select, because the timeout of epoll is in whole milliseconds
            if select.select([self.poll], [], [], max(left_s, 0.0))[0]:
                self._listen()
                heard_at = time.perf_counter()
            elif now - heard_at > PATIENCE_S and due == len(arrivals):
                break
        outcome.seconds = time.perf_counter() - self.started
        outcome.cpu_s = time.process_time() - used
        return outcome

    def _warm_up(self) -> None:
        """Open the connections of all users, then let each ask once."""
        users = [User(guest=False) for _ in range(self.job.users)]
        for user in users:
            self._connect(user)
        for user in users:
            assert user.sock is not None
            user.sock.settimeout(PATIENCE_S)
            user.sock.sendall(_request(WARM_UP, user))
            received = b""
            while _complete(received) is None:
                received += user.sock.recv(_BUFFER) or sys.exit("refused to serve")
            user.sock.setblocking(False)
            self.free.append(user)
        if users:
            time.sleep(SETTLE_S)
            self._listen()

    def _arrive(self, number: int) -> None:
        if not self.job.users or self.draw.random() < self.job.guests:
            self._ask(User(guest=True), number)
        elif self.free:
            if self.job.drawn:
                self.free.rotate(self.draw.randrange(len(self.free)))
            self._ask(self.free.popleft(), number)
        else:
            self.waiting.append(number)

    def _ask(self, user: User, number: int) -> None:
        user.number = number
        user.tries = 0
        user.request = _request(self.job.arrivals[number][1], user)
        self._send(user)

    def _send(self, user: User) -> None:
        """Begin with the request; what is not taken at once is sent when the socket has room."""
        user.received = b""
        user.tries += 1
        if user.sock is None:
            self._connect(user)
        assert user.sock is not None
        user.unsent = user.request
        if not self._flush(user):
            self.poll.modify(user.sock, select.EPOLLIN | select.EPOLLOUT)

    def _connect(self, user: User) -> None:
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(("127.0.0.1", self.job.port))  # on this machine it is there at once
        user.sock = sock
        self.busy[sock.fileno()] = user
        self.poll.register(sock, select.EPOLLIN)
        self.outcome.opened += 1

    def _flush(self, user: User) -> bool:
        """Whether nothing is left to be sent."""
        assert user.sock is not None
        try:
            user.unsent = user.unsent[user.sock.send(user.unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            user.unsent = b""  # that the connection has ended is about to be read
        return not user.unsent

    def _listen(self) -> None:
        for descriptor, event in self.poll.poll(0):
            user = self.busy.get(descriptor)
            if user is None or user.sock is None:
                continue
            if event & select.EPOLLOUT and self._flush(user):
                self.poll.modify(user.sock, select.EPOLLIN)
            if event & ~select.EPOLLOUT:
                self._receive(user)

    def _receive(self, user: User) -> None:
        assert user.sock is not None
        try:
            data = user.sock.recv(_BUFFER)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._ended(user)
            return
        user.received += data
        answer = _complete(user.received)
        if answer is not None and user.number >= 0:
            self._answered(user, *answer)

    def _answered(self, user: User, status: bytes, body: bytes, closes: bool) -> None:
        number, user.number = user.number, -1
        due = self.started + self.job.arrivals[number][0]
        if status == b"200":
            self.outcome.latencies_ms[number] = (time.perf_counter() - due) * 1000
            self.outcome.workers[number] = int(body)
        else:
            self.outcome.wrong += 1
        self.answered += 1
        if closes or user.guest:
            self._close(user)
        self._next(user)

    def _ended(self, user: User) -> None:
        """The server has closed, or refused, the connection."""
        self._close(user)
        if user.number < 0:
            return  # an idle one: the user opens another when it needs one
        self.outcome.broken += 1
        if user.tries < _TRIES:
            self._send(user)
        else:
            user.number = -1
            self.answered += 1
            self._next(user)

    def _next(self, user: User) -> None:
        if user.guest:
            return
        if self.waiting:
            self._ask(user, self.waiting.popleft())
        else:
            self.free.append(user)

    def _close(self, user: User) -> None:
        assert user.sock is not None
        del self.busy[user.sock.fileno()]
        user.sock.close()
        user.sock = None


def _request(path: str, user: User) -> bytes:
    last = "Connection: close\r\n" if user.guest else ""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{last}\r\n".encode()


def _complete(received: bytes) -> tuple[bytes, bytes, bool] | None:
    """Status, body and whether the connection ends, once a response is there as a whole."""
    head, end, body = received.partition(b"\r\n\r\n")
    lower = head.lower()
    _, named, rest = lower.partition(b"\r\ncontent-length:")
    if not end or (named and len(body) < int(rest.partition(b"\r\n")[0])):
        return None
    return head.split(b" ", 2)[1], body, b"\r\nconnection: close" in lower


def _hurry() -> bool:
    """Be scheduled as soon as there is something to do, if we may."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        return True
    return False


if __name__ == "__main__":
    print(json.dumps(asdict(Load(Job(**json.load(sys.stdin))).run())))
