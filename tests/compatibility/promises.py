"""What every system gets, whatever it is: asked of each in the same words.

Considered and refused: a test class that all modules inherit. What a system does is read in its
own module; here is only how to ask.
"""

from __future__ import annotations

import concurrent.futures
import re
import signal
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from tests.compatibility.serving import PATIENCE_S, WORKERS, Site

RELOAD_QUICKLY = ("--bake-time", "0")
AT_ONCE = 50
CLIENTS = 4
"""Who ask without pause; half of them connect anew for each request."""

_reloaded = re.compile(r"reload complete: generation 2 serves on all")


def stopped(site: Site, word: str) -> None:
    """End ``site``; every worker has told its witness ``word`` in its shutdown, and nothing else
    was said.
    """
    site.stop()
    assert [site.witness.next() for _ in range(WORKERS)] == [word] * WORKERS


def sleeps_at_once(site: Site, path: str, sleep_s: float) -> None:
    """Many requests that each sleep for ``sleep_s`` take not much longer than one."""
    limits = httpx.Limits(max_connections=AT_ONCE)
    with httpx.Client(base_url=site.url, timeout=PATIENCE_S, limits=limits) as client:

        def ask(number: int) -> str:
            return client.get(path, params={"mark": number, "seconds": sleep_s}).text

        begun = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            assert list(pool.map(ask, range(AT_ONCE))) == [str(n) for n in range(AT_ONCE)]
        assert time.monotonic() - begun < sleep_s * AT_ONCE / 4


def reloads_without_loss(site: Site, path: str, word: str) -> None:
    """HUP while clients ask without pause: each is answered 200, by old workers and then by new.

    ``path`` answers the worker's process id; every worker that leaves tells its witness ``word``.
    """
    over = threading.Event()
    begun = threading.Barrier(CLIENTS + 1)

    def ask(kept_alive: bool) -> set[str]:
        pids: set[str] = set()
        with httpx.Client(base_url=site.url, timeout=PATIENCE_S) as client:
            client.get(path)
            begun.wait(PATIENCE_S)
            while not over.is_set():
                headers = {} if kept_alive else {"connection": "close"}
                answer = client.get(path, headers=headers)
                assert answer.status_code == 200
                pids.add(answer.text)
        return pids

    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        asked = [pool.submit(ask, number % 2 == 0) for number in range(CLIENTS)]
        try:
            begun.wait(PATIENCE_S)
            site.process.send_signal(signal.SIGHUP)
            site.wait_for(_reloaded)
            assert [site.witness.next() for _ in range(WORKERS)] == [word] * WORKERS
        finally:
            over.set()
        pids = set[str]().union(*(found.result(PATIENCE_S) for found in asked))
    assert len(pids) > WORKERS, "no worker was replaced while requests ran"


def head_has_no_body(client: httpx.Client, path: str) -> None:
    """HEAD has the fields of GET and no content, and the connection goes on."""
    got, answer = client.get(path), client.head(path)
    assert (answer.status_code, answer.content) == (got.status_code, b"")
    length = got.headers.get("content-length")
    assert answer.headers.get("content-length", length) == length
    assert client.get(path).content == got.content


class BrokenOff(Exception):
    """The client changed its mind in the middle of its upload."""


def broken_off(client: httpx.Client, path: str, site: Site) -> None:
    """Begin an upload to ``path`` and hang up when the application has said that it reads."""

    def pieces() -> Iterator[bytes]:
        yield b"a" * 1000
        assert site.witness.next() == "reading"
        raise BrokenOff

    with pytest.raises(BrokenOff):
        client.post(path, content=pieces())


def closed_with(ws: ClientConnection) -> tuple[int, str]:
    """Code and reason of the server's close frame; no message may come before it."""
    with pytest.raises(ConnectionClosed) as closed:
        ws.recv(PATIENCE_S)
    assert closed.value.rcvd is not None, "the connection broke without a close frame"
    return closed.value.rcvd.code, closed.value.rcvd.reason
