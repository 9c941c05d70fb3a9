"""Access-log lines: their form, and how they are written."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import select
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from asgi_worker.access_log import AccessLog
from tests.worker.access_lines import LINE, note, noted, numbers


@pytest.fixture(params=[uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield runner


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        with contextlib.suppress(OSError):  # the test may have closed it
            os.close(fd)


def written(client: tuple[str, int] | None, method: str, target: str) -> bytes:
    """What one request leaves in a file."""
    loop = asyncio.new_event_loop()
    reader, writer = os.pipe()
    try:
        log = AccessLog(loop, writer)
        log.record(client, method, target, "1.1", 200, 1234, 0.00084)
        log.flush()
        return os.read(reader, 65536)
    finally:
        os.close(reader)
        os.close(writer)
        loop.close()


@pytest.mark.parametrize(
    ("client", "shown"),
    [
        (("127.0.0.1", 52144), "127.0.0.1:52144"),
        (("2001:db8::1", 80), "[2001:db8::1]:80"),
        (("203.0.113.7", 0), "203.0.113.7:0"),
        (("_hidden", 0), "_hidden:0"),
        (None, "-"),
    ],
)
def test_the_line(client: tuple[str, int] | None, shown: str) -> None:
    line = written(client, "GET", "/path?query")
    assert line.decode() == f'{shown} - "GET /path?query HTTP/1.1" 200 1234B 0.8ms\n'


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        ("/%20?a=b&c", "/%20?a=b&c"),
        ('/"quoted"', r"/\"quoted\""),
        ('/x HTTP/1.1" 200 0B 0.0ms\n::1 - "GET /', r"/x HTTP/1.1\" 200 0B 0.0ms\n::1 - \"GET /"),
        ("/back\\slash", r"/back\\slash"),
        ("/\x00\x07\x1b[31m\x7f\r\n\t", r"/\x00\x07\x1b[31m\x7f\r\n\t"),
        ("/caf\xe9\x85", r"/caf\xe9\x85"),
        ("/\u2028\ud800\U0001f40d", r"/\u2028\ud800\U0001f40d"),
    ],
)
def test_what_could_forge_a_line_is_escaped(target: str, shown: str) -> None:
    line = written(None, "GET", target).decode("ascii")
    assert line == f'- - "GET {shown} HTTP/1.1" 200 1234B 0.8ms\n'


@pytest.mark.parametrize("target", ["/" + "x" * 70_000, "/" + "\n" * 70_000])
def test_a_line_fits_into_one_piece_of_a_pipe(target: str) -> None:
    line = written(("2001:db8:1111:2222:3333:4444:5555:6666", 65535), "OPTIONS", target)
    assert len(line) <= 4096
    assert line.endswith(b'... HTTP/1.1" 200 1234B 0.8ms\n')


@given(method=st.text(max_size=20), target=st.text())
def test_any_text_gives_one_line_of_the_known_form(method: str, target: str) -> None:
    line = written(("192.0.2.1", 80), method, target).decode("ascii")
    assert line.count("\n") == 1
    match = LINE.fullmatch(line[:-1])
    assert match is not None
    shown = match["request"]
    if not shown.endswith("..."):
        back = shown.replace('\\"', '"').encode("ascii").decode("unicode_escape")
        assert back == f"{method} {target}"


class TestWrites:
    """A SEQPACKET socket keeps the border between one ``write`` and the next."""

    @pytest.fixture
    def packets(self) -> Iterator[tuple[socket.socket, socket.socket]]:
        reader, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with reader, writer:
            reader.setblocking(False)
            yield reader, writer

    def test_one_for_all_lines_of_a_turn(
        self, runner: asyncio.Runner, packets: tuple[socket.socket, socket.socket]
    ) -> None:
        reader, writer = packets

        async def main() -> None:
            log = AccessLog(asyncio.get_running_loop(), writer.fileno())
            for turn in range(3):
                for line in range(5):
                    note(log, noted(turn * 5 + line))
                with pytest.raises(BlockingIOError):
                    reader.recv(65536)
                await asyncio.sleep(0)
                assert numbers(reader.recv(65536)) == list(range(turn * 5, turn * 5 + 5))
                with pytest.raises(BlockingIOError):
                    reader.recv(65536)

        runner.run(main())

    def test_in_pieces_that_a_pipe_takes_whole(
        self, runner: asyncio.Runner, packets: tuple[socket.socket, socket.socket]
    ) -> None:
        reader, writer = packets

        async def main() -> list[bytes]:
            log = AccessLog(asyncio.get_running_loop(), writer.fileno())
            for number in range(40):
                note(log, noted(number, number * 20))
            await asyncio.sleep(0)
            return receive_all(reader)

        pieces = runner.run(main())
        assert [number for piece in pieces for number in numbers(piece)] == list(range(40))
        assert max(map(len, pieces)) <= select.PIPE_BUF
        # … and not in smaller ones than it must be.
        assert all(len(a) + len(b) > select.PIPE_BUF for a, b in itertools.pairwise(pieces))

    def test_what_is_left_at_exit(
        self, runner: asyncio.Runner, packets: tuple[socket.socket, socket.socket]
    ) -> None:
        reader, writer = packets

        async def main() -> None:
            log = AccessLog(asyncio.get_running_loop(), writer.fileno())
            note(log, noted(1))
            log.flush()
            assert numbers(reader.recv(65536)) == [1]
            await asyncio.sleep(0)  # the turn's own write finds nothing left
            note(log, noted(2))
            await asyncio.sleep(0)

        runner.run(main())
        assert [numbers(piece) for piece in receive_all(reader)] == [[2]]


def receive_all(reader: socket.socket) -> list[bytes]:
    received = []
    while True:
        try:
            received.append(reader.recv(65536))
        except BlockingIOError:
            return received


def test_a_file_is_written_too(runner: asyncio.Runner, tmp_path: os.PathLike[str]) -> None:
    path = os.path.join(tmp_path, "access.log")

    async def main() -> None:
        fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        log = AccessLog(asyncio.get_running_loop(), fd)
        for number in range(1000):
            note(log, noted(number, 100))
        await asyncio.sleep(0)
        os.close(fd)
        assert log.lost == 0

    runner.run(main())
    with open(path, "rb") as file:
        assert numbers(file.read()) == list(range(1000))


WRITER = """
    import asyncio, sys
    from asgi_worker.access_log import AccessLog

    async def main(name, lines):
        log = AccessLog(asyncio.get_running_loop(), 1)
        print("ready", file=sys.stderr, flush=True)
        sys.stdin.read()  # all begin together
        for number in range(lines):
            target = f"/{number}?{name}" + "x" * (number * 37 % 900)
            log.record(("127.0.0.1", 1), "GET", target, "1.1", 200, 0, 0.0)
            if number % 40 == 39:
                await asyncio.sleep(0)
        log.flush(60)
        assert log.lost == 0

    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


def test_lines_of_several_processes_in_one_pipe_are_never_torn(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    lines = 1500
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WRITER), name, str(lines)],
            stdin=subprocess.PIPE,
            stdout=writer,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        for name in "abcd"
    ]
    os.close(writer)
    for worker in workers:
        assert worker.stderr is not None
        assert worker.stderr.readline() == b"ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.close()
    data = b""
    while chunk := os.read(reader, 65536):
        data += chunk
    for worker in workers:
        assert worker.wait() == 0
        assert worker.stderr is not None
        worker.stderr.close()
    order: dict[str, list[int]] = {name: [] for name in "abcd"}
    names = ""
    for line in data.decode("ascii").splitlines():
        match = LINE.fullmatch(line)
        assert match is not None, line
        number, _, filling = match["request"].removeprefix("GET /").partition("?")
        name = filling[:1]
        order[name].append(int(number))
        names += name
        assert filling == name + "x" * (int(number) * 37 % 900)
    assert order == {name: list(range(lines)) for name in "abcd"}
    assert sum(a != b for a, b in itertools.pairwise(names)) > 4  # they wrote at the same time
