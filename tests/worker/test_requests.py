"""Malformed and odd requests: each gets what the RFCs name, however its bytes are cut.

A row of the corpus is sent whole, byte by byte and in pieces of seven; with another request right
behind it; and on a connection that was used before. Had two of these been understood in two ways,
somebody else's server in front of ours could be made to disagree with it.
"""

from __future__ import annotations

import asyncio
import random
import socket

import pytest

from asgi_worker.application import Receive, Scope, Send
from tests.worker.conftest import Run
from tests.worker.requests import ROWS, Row
from tests.worker.requests.conversation import (
    AFTER,
    BODY_LIMIT_BYTES,
    Recorder,
    follow,
    in_a_row,
    speak,
    warmed,
)
from tests.worker.serving import Arena


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_request(run: Run, row: Row) -> None:
    async def scenario() -> None:
        recorder = Recorder()
        async with Arena(recorder, body_max_bytes=BODY_LIMIT_BYTES) as arena:
            outcome = await speak(arena, recorder, row)
            await follow(arena, recorder, row, outcome)
            await warmed(arena, recorder, row, outcome)
            wire = await arena.connect()
            assert (await wire.get("/alive"))[0] == b"HTTP/1.1 200 OK"
            assert arena.server.errors == 0

    run(scenario())


SHORT = [row for row in ROWS if len(row.sent) < 2000 and not row.ends]
OPEN = [row for row in SHORT if all(outcome.open for outcome in row.outcomes)]


@pytest.mark.parametrize("number", range(60))
def test_requests_in_a_row(run: Run, number: int) -> None:
    """Nothing of a request is left when the next one begins on its connection."""
    chance = random.Random(number)
    rows = [*chance.choices(OPEN, k=chance.randrange(2, 7)), chance.choice(SHORT)]
    if number % 3 == 0:
        rows[:0] = chance.choices(OPEN, k=1) * 3  # what repeats itself may be remembered

    async def scenario() -> None:
        recorder = Recorder()
        async with Arena(recorder, body_max_bytes=BODY_LIMIT_BYTES) as arena:
            await in_a_row(arena, recorder, rows, str(number))

    run(scenario())


@pytest.mark.parametrize("requests", [1, 100, 1000])
def test_pipelining_is_bounded(run: Run, requests: int) -> None:
    """A client that sends and sends without an answer is made to wait, not remembered."""
    enough_bytes = 2 * 1024 * 1024  # more than the buffers of both sides hold
    data = AFTER * requests

    async def scenario() -> None:
        answer = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await answer.wait()
            await send({"type": "http.response.start", "status": 204})
            await send({"type": "http.response.body"})

        async with Arena(app) as arena:
            arena.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
            loop = asyncio.get_running_loop()
            with socket.socket() as client:
                client.setblocking(False)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
                await loop.sock_connect(client, ("127.0.0.1", arena.port))
                sent = stuck = 0
                while stuck < 100:  # turns of the loop without a byte taken
                    try:
                        sent += client.send(data[sent % len(data) :])
                        stuck = 0
                    except BlockingIOError:
                        stuck += 1
                    assert sent < enough_bytes, "the server takes everything"
                    await asyncio.sleep(0)
                answer.set()

    run(scenario())


def test_the_corpus_is_as_large_as_promised() -> None:
    assert len(ROWS) >= 170
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert len({row.sent for row in ROWS}) > len(ROWS) - 5
