"""Readers of the access log that are slow, full or gone do not hurt the worker."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop

from asgi_worker.access_log import BACKLOG_BYTES, AccessLog
from tests.worker.access_lines import note, noted, numbers


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


class TestStalledReader:
    """The reader of a pipe that does not read must not stop the worker."""

    @pytest.mark.parametrize("state", ["blocking", "non-blocking", "filled by others meanwhile"])
    def test_lines_wait_for_it(
        self, runner: asyncio.Runner, pipe: tuple[int, int], state: str
    ) -> None:
        reader, writer = pipe
        os.set_blocking(writer, state == "blocking")
        os.set_blocking(reader, False)
        lines = 3000  # several times what the pipe holds

        async def main() -> bytes:
            loop = asyncio.get_running_loop()
            log = AccessLog(loop, writer)
            if state == "filled by others meanwhile":
                log._poll = None  # what was said to be writable turns out not to be
            for number in range(lines):
                note(log, noted(number, 100))
                if number % 10 == 0:
                    await asyncio.sleep(0)
            data, complete = bytearray(), loop.create_future()

            def read() -> None:
                data.extend(os.read(reader, 65536))
                if data.count(b"\n") == lines:
                    complete.set_result(None)

            loop.add_reader(reader, read)
            await asyncio.wait_for(complete, 30)
            loop.remove_reader(reader)
            assert log.lost == 0
            return bytes(data)

        assert numbers(runner.run(main())) == list(range(lines))

    def test_beyond_the_limit_lines_are_lost_counted_and_told_once(
        self,
        runner: asyncio.Runner,
        pipe: tuple[int, int],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        reader, writer = pipe
        lines = 0
        data = bytearray()

        async def main() -> int:
            nonlocal lines
            loop = asyncio.get_running_loop()
            log = AccessLog(loop, writer)
            while log.lost < 500:
                note(log, noted(lines, 1000))
                lines += 1
                if lines % 10 == 0:
                    await asyncio.sleep(0)
            assert lines > BACKLOG_BYTES // 1100
            assert lines < 2 * BACKLOG_BYTES // 1000
            reading = loop.run_in_executor(None, read_until, reader, data, log, lines)
            await asyncio.wait_for(reading, 30)
            # The reader is back: so are the lines.
            note(log, noted(lines))
            lines += 1
            await asyncio.sleep(0)
            data.extend(os.read(reader, 65536))
            return log.lost

        def read_until(fd: int, data: bytearray, log: AccessLog, lines: int) -> None:
            while data.count(b"\n") < lines - log.lost:
                data.extend(os.read(fd, 65536))

        with caplog.at_level(logging.INFO):
            lost = runner.run(main())
        received = numbers(bytes(data))
        assert len(received) + lost == lines
        first = len(received) - 1
        assert received == [*range(first), lines - 1]
        assert [record.message for record in caplog.records] == [
            (
                "cannot write the access log: its reader does not read; lines are lost, "
                "and counted until it works again"
            )
        ]

    def test_waiting_costs_nothing(self, runner: asyncio.Runner, pipe: tuple[int, int]) -> None:
        _, writer = pipe

        async def main() -> float:
            log = AccessLog(asyncio.get_running_loop(), writer)
            for number in range(2000):
                note(log, noted(number, 100))
            await asyncio.sleep(0)
            begin = time.process_time()
            await asyncio.sleep(0.4)
            return time.process_time() - begin

        assert runner.run(main()) < 0.2

    def test_at_exit_it_gets_a_last_chance(
        self, pipe: tuple[int, int], caplog: pytest.LogCaptureFixture
    ) -> None:
        reader, writer = pipe
        loop = asyncio.new_event_loop()
        log = AccessLog(loop, writer)
        for number in range(2000):
            note(log, noted(number, 100))
        log.flush(0.05)
        loop.close()
        received = numbers(os.read(reader, 1024 * 1024))
        assert len(received) + log.lost == 2000
        assert received == list(range(len(received)))
        assert caplog.messages[-1] == f"{log.lost} lines of the access log were lost"


class TestErrors:
    def write_thrice(self, runner: asyncio.Runner, fd: int) -> AccessLog:
        async def main() -> AccessLog:
            log = AccessLog(asyncio.get_running_loop(), fd)
            for _ in range(3):
                note(log)
                note(log)
                await asyncio.sleep(0)
            log.flush()
            return log

        return runner.run(main())

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="has no /dev/full")
    def test_a_full_disk(self, runner: asyncio.Runner, caplog: pytest.LogCaptureFixture) -> None:
        fd = os.open("/dev/full", os.O_WRONLY)
        log = self.write_thrice(runner, fd)
        os.close(fd)
        assert log.lost == 6
        assert caplog.messages == [
            (
                "cannot write the access log: No space left on device; lines are lost, "
                "and counted until it works again"
            ),
            "6 lines of the access log were lost",
        ]

    def test_a_reader_that_is_gone(
        self, runner: asyncio.Runner, pipe: tuple[int, int], caplog: pytest.LogCaptureFixture
    ) -> None:
        reader, writer = pipe
        os.close(reader)
        assert self.write_thrice(runner, writer).lost == 6
        assert [message.count("Broken pipe") for message in caplog.messages] == [1, 0]

    def test_a_reader_that_goes_while_lines_wait(
        self, runner: asyncio.Runner, pipe: tuple[int, int]
    ) -> None:
        reader, writer = pipe

        async def main() -> AccessLog:
            log = AccessLog(asyncio.get_running_loop(), writer)
            for number in range(2000):
                note(log, noted(number, 100))
            await asyncio.sleep(0)
            os.close(reader)
            log.flush()
            return log

        log = runner.run(main())
        assert 1000 < log.lost < 2000

    def test_a_descriptor_that_was_closed_from_the_start(
        self, runner: asyncio.Runner, pipe: tuple[int, int], caplog: pytest.LogCaptureFixture
    ) -> None:
        reader, writer = pipe
        closed = fcntl.fcntl(writer, fcntl.F_DUPFD, 500)  # a number that the loop does not take
        os.close(closed)

        async def main() -> AccessLog:
            log = AccessLog(asyncio.get_running_loop(), closed)
            os.dup2(writer, closed)  # somebody else gets its number
            note(log)
            await asyncio.sleep(0)
            os.close(closed)
            return log

        assert runner.run(main()).lost == 1
        os.set_blocking(reader, False)
        with pytest.raises(BlockingIOError):
            os.read(reader, 1)
        assert "Bad file descriptor" in caplog.messages[0]


class TestRecovery:
    def test_what_was_lost_is_told_when_writing_works_again(
        self, runner: asyncio.Runner, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A disk that is full for a while: told once, counted, and told again when it is over."""
        fd = os.open("/dev/full", os.O_WRONLY)
        path = tmp_path / "access.log"

        async def main() -> None:
            loop = asyncio.get_running_loop()
            log = AccessLog(loop, fd)
            for outage in (1, 2):
                full = os.open("/dev/full", os.O_WRONLY)
                os.dup2(full, fd)
                os.close(full)
                for _ in range(3):
                    note(log)
                    await asyncio.sleep(0)
                room = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                os.dup2(room, fd)
                os.close(room)
                while len(caplog.messages) < 2 * outage:
                    note(log, noted(outage))
                    await asyncio.sleep(0.01)
            log.flush()

        try:
            with caplog.at_level(logging.INFO):
                runner.run(asyncio.wait_for(main(), 60))
        finally:
            os.close(fd)
        lost = "3 lines of the access log were lost"
        full = (
            "cannot write the access log: No space left on device; lines are lost, "
            "and counted until it works again"
        )
        assert caplog.messages == [full, lost] * 2
        assert set(numbers(path.read_bytes())) == {1, 2}

    def test_half_a_line_does_not_spoil_the_next(
        self, runner: asyncio.Runner, tmp_path: Path
    ) -> None:
        """The disk became full within a line: what is written later starts on a line of its own."""
        path = tmp_path / "access.log"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

        async def main() -> int:
            log = AccessLog(asyncio.get_running_loop(), fd)
            note(log, noted(1))
            await asyncio.sleep(0)
            resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, hard))
            note(log, noted(2))
            await asyncio.sleep(0)
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            note(log, noted(3))
            await asyncio.sleep(0)
            return log.lost

        try:
            assert runner.run(main()) == 1
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            os.close(fd)
        lines = path.read_bytes().splitlines(keepends=True)
        assert len(lines) == 3
        assert numbers(lines[0] + lines[2]) == [1, 3]

    @pytest.mark.parametrize("first", ["pipe", "file", "closed"])
    def test_reopening_finds_out_what_there_is_to_write_to(
        self, runner: asyncio.Runner, tmp_path: Path, pipe: tuple[int, int], first: str
    ) -> None:
        reader, writer = pipe
        path = tmp_path / "access.log"
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        high = 500  # which nothing else takes while it is closed
        fd = fcntl.fcntl(writer if first == "pipe" else file, fcntl.F_DUPFD, high)
        other = file if first == "pipe" else writer
        if first == "closed":
            os.close(fd)

        async def main() -> AccessLog:
            log = AccessLog(asyncio.get_running_loop(), fd)
            os.dup2(other, fd)
            log.reopened()
            for number in range(2000):
                note(log, noted(number, 100))
            await asyncio.sleep(0)  # a pipe takes some of it, and must not be waited for
            return log

        log = runner.run(main())
        if first == "pipe":
            assert numbers(path.read_bytes()) == list(range(2000))
        else:
            received = numbers(os.read(reader, 1024 * 1024))
            assert 100 < len(received) < 2000
            assert received == list(range(len(received)))
            assert log.lost == 0
        os.close(fd)
        os.close(file)
