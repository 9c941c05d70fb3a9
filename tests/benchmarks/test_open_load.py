"""The load says what happened, also where the server would rather not have it known."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.benchmarks.open_load import Job, Load, Outcome

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n77"
CLOSING = OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
REFUSED = OK.replace(b"200 OK", b"503 Service Unavailable")
Answer = Callable[[int], bytes]
"""To the request with that number, on whichever connection; empty: the connection is closed."""


@contextlib.contextmanager
def serving(answer: Answer) -> Iterator[int]:
    """A server that serves one connection after the other, in pieces; its port."""
    count = 0

    def serve() -> None:
        nonlocal count
        while True:
            connection, _ = listener.accept()
            with connection:
                while request := connection.recv(4096):
                    if request == b"END":
                        return
                    reply = answer(count)
                    count += 1
                    if not reply:
                        break
                    connection.sendall(reply[:30])
                    connection.sendall(reply[30:])
                    if reply is CLOSING:
                        break

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            with socket.create_connection(listener.getsockname()) as end:
                end.sendall(b"END")
            thread.join()


def load(answer: Answer, dues: list[float], users: int = 0, guests: float = 0.0) -> Outcome:
    with serving(answer) as port:
        work = Load(Job(port, [(due, "/burn/0") for due in dues], users, guests, urgent=False))
        outcome = work.run()
        for user in list(work.busy.values()):
            assert user.sock is not None
            user.sock.close()
        work.poll.close()
        return outcome


def test_each_request_has_a_connection_of_its_own() -> None:
    outcome = load(lambda number: CLOSING, [0.0, 0.01, 0.02])
    assert outcome.opened == 3
    assert outcome.workers == [77, 77, 77]
    assert (outcome.broken, outcome.wrong) == (0, 0)


def test_a_user_keeps_its_connection() -> None:
    outcome = load(lambda number: OK, [0.0, 0.01, 0.02], users=1)
    assert outcome.opened == 1
    assert outcome.workers == [77, 77, 77]


@pytest.mark.parametrize(("guests", "opened"), [(0.0, 2), (1.0, 4)])
def test_guests_come_for_one_request_each(guests: float, opened: int) -> None:
    def answer(number: int) -> bytes:
        return OK if number else CLOSING  # the user leaves room: only one is served at a time

    outcome = load(answer, [0.0, 0.01, 0.02], users=1, guests=guests)
    assert outcome.opened == opened
    assert outcome.workers == [77, 77, 77]
    assert outcome.broken == 0


def test_what_was_due_while_the_server_hung_was_late_by_that() -> None:
    """Whoever asks only after an answer would count one slow request."""
    may_answer = threading.Event()

    def answer(number: int) -> bytes:
        if number == 1:  # 0 is that of the warm-up
            may_answer.wait(0.3)
        return OK

    outcome = load(answer, [0.0, 0.1, 0.2], users=1)
    first, second, third = outcome.latencies_ms
    assert first >= 295
    assert second >= 195
    assert third >= 95
    assert first > second > third


def test_all_that_is_due_at_once_is_asked_one_after_the_other() -> None:
    outcome = load(lambda number: OK, [0.0] * 50, users=1)
    assert outcome.opened == 1
    assert outcome.workers == [77] * 50


def test_a_user_who_is_sent_away_comes_back_on_another_connection() -> None:
    outcome = load(lambda number: CLOSING if number == 1 else OK, [0.0, 0.01], users=1)
    assert outcome.opened == 2
    assert outcome.broken == 0
    assert outcome.workers == [77, 77]


def test_a_connection_that_breaks_is_counted_and_the_request_made_again() -> None:
    outcome = load(lambda number: b"" if number == 1 else OK, [0.0], users=1)
    assert outcome.broken == 1
    assert outcome.opened == 2
    assert outcome.workers == [77]


@pytest.mark.parametrize("users", [0, 1])
def test_what_is_never_answered_is_not_forgotten(users: int) -> None:
    outcome = load(lambda number: b"" if number or not users else OK, [0.0, 0.01], users=users)
    assert outcome.latencies_ms == [-1.0, -1.0]
    assert outcome.broken == 6


def test_an_error_is_no_answer() -> None:
    outcome = load(lambda number: REFUSED, [0.0])
    assert outcome.wrong == 1
    assert outcome.latencies_ms == [-1.0]
