"""Malformed and odd requests: each gets what the RFCs name, however its bytes are cut.

A row of the corpus is sent whole, byte by byte and in pieces of seven; with another request right
behind it; and on a connection that was used before. Had two of these been understood in two ways,
somebody else's server in front of ours could be made to disagree with it.
"""

from __future__ import annotations

import pytest
from tests.worker.conftest import Run
from tests.worker.requests import ROWS, Row
from tests.worker.requests.conversation import (
    BODY_LIMIT_BYTES,
    Recorder,
    follow,
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


def test_the_corpus_is_as_large_as_promised() -> None:
    assert len(ROWS) >= 170
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert len({row.sent for row in ROWS}) > len(ROWS) - 5
