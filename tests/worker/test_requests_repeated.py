"""Requests that resemble those before them on their connection are read like any other.

A server may remember what it has parsed. Whatever it remembers, where segments begin and end must
not decide what a request means: each conversation here ends in the same answers as if the last
piece had come on a connection of its own.
"""

from __future__ import annotations

import pytest

from tests.worker.conftest import Run
from tests.worker.requests.conversation import BODY_LIMIT_BYTES, Recorder, converse
from tests.worker.requests.row import row
from tests.worker.serving import Arena

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
BEGUN = b"POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
CHUNKED = b"POST /p HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
OTHER = b"GET / HTTP/1.1\r\nHost: b\r\n\r\n"
TRICK = b"GET /x HTTP/1.1\r\n"


def after_body(tail: bytes) -> list[bytes]:
    """A body whose end and the request behind it come in one segment, three times."""
    return [BEGUN % len(tail), tail + GET] * 3


CONVERSATIONS = {
    "a line more, after empty lines": ([b"\r\n" + GET] * 3, TRICK + GET, 400),
    "a line more, after an empty LF": ([b"\n" + GET] * 3, TRICK + GET, 400),
    "a line more, after bodies": (after_body(b"ab\r\n"), TRICK + GET, 400),
    "a line more, after bodies like it": (after_body(b"GET /z HTTP/1.1\r\n"), TRICK + GET, 400),
    "a head more, after chunks": ([CHUNKED, b"0\r\n\r\n" + GET] * 3, TRICK + b"\r\n" + GET, 400),
    "a head more, after trailers": (
        [CHUNKED, b"0\r\n", b"X: y\r\n\r\n" + GET] * 3, TRICK + b"X: y\r\n\r\n" + GET, 400),
    "other fields, after much at once": (
        [GET * 700, OTHER.replace(b"/", b"/%41", 1)] * 3, OTHER, 200),
    "the same again": ([GET] * 5, GET, 200),
    "another target": ([GET] * 5, GET.replace(b"/ ", b"/%41?b ", 1), 200),
    "a fragment": ([GET] * 5, GET.replace(b"/ ", b"/#b ", 1), 400),
    "an asterisk": ([GET] * 5, GET.replace(b"/ ", b"* ", 1), 400),
    "an absolute target": ([GET] * 5, GET.replace(b"/ ", b"http://b/ ", 1), 200),
    "a tab in the target": ([GET] * 5, GET.replace(b"/ ", b"/\t ", 1), 400),
    "a bare CR in the target": ([GET] * 5, GET.replace(b"/ ", b"/\rX ", 1), 400),
    "not of ASCII": ([GET] * 5, GET.replace(b"/ ", b"/\xff ", 1), 400),
    "no target": ([GET] * 5, GET.replace(b"/ ", b" ", 1), 400),
    "another method": ([GET] * 5, GET.replace(b"GET", b"POST", 1), 200),
    "method in lower case": ([GET] * 5, GET.replace(b"GET", b"get", 1), 501),
    "CONNECT": ([GET] * 5, GET.replace(b"GET", b"CONNECT", 1), 405),
    "another version": ([GET] * 5, GET.replace(b"1.1", b"2.0", 1), 505),
    "HTTP/1.0": ([GET] * 5, GET.replace(b"1.1", b"1.0", 1), 200),
    "a Host more": ([GET] * 5, GET.replace(b"1.1", b"1.1\r\nHost: b", 1), 400),
    "a folded line": ([GET] * 5, GET.replace(b"1.1\r\n", b"1.1\r\nX: y\r\n ", 1), 400),
    "a length before": ([GET] * 5, GET.replace(b"1.1", b"1.1\r\nContent-Length: +1", 1), 400),
    "a coding before": ([GET] * 5, GET.replace(b"1.1", b"1.1\r\nTransfer-Encoding: x", 1), 400),
    "close": ([GET] * 5, GET.replace(b"1.1", b"1.1\r\nConnection: close", 1), 200),
    "spaces": ([GET] * 5, GET.replace(b"/ ", b"/a b ", 1), 400),
}  # fmt: skip


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_request_after_others_that_it_resembles(run: Run, name: str) -> None:
    before, last, status = CONVERSATIONS[name]

    async def scenario() -> None:
        recorder = Recorder()
        async with Arena(recorder, body_max_bytes=BODY_LIMIT_BYTES) as arena:
            nothing = row(name, "9112 11.2", b"")
            alone = await converse(arena, recorder, nothing, [last], 1)
            number = b"".join(before).count(b"Host:")
            got = await converse(arena, recorder, nothing, [*before, last], number + 1)
            assert [answer.status for answer in alone.answers] == [status], name
            assert [answer.status for answer in got.answers] == [200] * number + [status], name
            assert got.ended == alone.ended, name
            assert got.seen[number:] == alone.seen, name
            assert len(got.lines) == len(alone.lines), name

    run(scenario())
