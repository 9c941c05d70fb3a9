"""Back-pressure: neither side can make the worker hold more than it should."""

from __future__ import annotations

import asyncio
import tracemalloc
import zlib
from typing import Any

import pytest

from asgi_worker.application import Message, Receive, Send
from tests.worker.conftest import Run
from tests.worker.frames_by_hand import (
    BINARY,
    CONTINUATION,
    DEFLATE,
    FIN,
    PING,
    PONG,
    RSV1,
    TEXT,
    close,
    frame,
    handshake,
    open_websocket,
    text,
)
from tests.worker.serving import Arena
from tests.worker.websocket_apps import ACCEPT, Noted, echo

MEBIBYTE = 1024 * 1024


class Gated:
    """An application that takes messages only while its gate is open."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.got: list[Message] = []

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        while True:
            await self.gate.wait()
            message = await receive()
            if message["type"] == "websocket.disconnect":
                return
            self.got.append(message)


def incoming(arena: Arena) -> Any:
    (connection,) = arena.server.connections
    return connection._incoming  # type: ignore[attr-defined]


@pytest.mark.parametrize("max_queue", [1, 3, 32])
def test_no_more_messages_than_the_queue_may_hold(max_queue: int, run: Run) -> None:
    app = Gated()

    async def scenario() -> None:
        async with Arena(app, ws_max_queue=max_queue, ws_ping_interval_s=None) as arena:
            client = await open_websocket(arena)
            queue = incoming(arena)
            await client.send(*(text(str(number)) for number in range(100)))
            await arena.eventually(lambda: queue.paused, "reading did not stop")
            assert len(queue.queue) == max_queue
            await client.send(*(text(str(number)) for number in range(100, 200)), close())
            app.gate.set()
            assert (await client.closed()).code is None
            assert await client.end() == b""

    run(scenario())
    assert [message["text"] for message in app.got] == [str(number) for number in range(200)]


def test_no_more_bytes_than_the_queue_may_hold(run: Run) -> None:
    app = Gated()

    async def scenario() -> None:
        async with Arena(app, ws_ping_interval_s=None) as arena:
            client = await open_websocket(arena)
            queue = incoming(arena)
            sending = asyncio.create_task(
                client.send(frame(FIN | BINARY, bytes(400_000)) * 30, close())
            )
            await arena.eventually(lambda: queue.paused, "reading did not stop")
            assert len(queue.queue) == 3
            app.gate.set()
            await sending
            assert (await client.closed()).code is None

    run(scenario())
    assert [len(message["bytes"]) for message in app.got] == [400_000] * 30


def test_small_compressed_frames_do_not_become_large_heaps(run: Run) -> None:
    app = Gated()
    deflater = zlib.compressobj(wbits=-12)
    data = (deflater.compress(bytes(900_000)) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]

    async def scenario() -> None:
        async with Arena(app, ws_ping_interval_s=None) as arena:
            client = await open_websocket(
                arena, "/", f"{DEFLATE}; client_no_context_takeover; client_max_window_bits=12"
            )
            queue = incoming(arena)
            tracemalloc.start()
            try:
                await client.send(frame(FIN | RSV1 | BINARY, data) * 40, close())
                await arena.eventually(lambda: queue.paused, "reading did not stop")
                assert len(queue.queue) == 2
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert peak < 6 * MEBIBYTE
            app.gate.set()
            assert (await client.closed()).code is None

    run(scenario())
    assert len(app.got) == 40


def test_a_message_in_the_smallest_pieces_takes_no_more_than_its_size(run: Run) -> None:
    async def scenario() -> None:
        async with Arena(echo, ws_ping_interval_s=None) as arena:
            client = await open_websocket(arena)
            tracemalloc.start()
            try:
                piece = frame(CONTINUATION) + frame(CONTINUATION, b"x") + frame(CONTINUATION)
                await client.send(frame(TEXT))
                for _ in range(20):
                    await client.send(piece * 1000)
                await client.send(frame(FIN | PING))
                assert await client.frame() == (FIN | PONG, b"")
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert peak < MEBIBYTE
            await client.send(frame(FIN, b"!"))
            assert await client.text() == "x" * 20_000 + "!"
            await client.send(close())
            await client.end()

    run(scenario())


def test_a_client_that_pings_and_does_not_read(run: Run) -> None:
    """Pongs do not pile up; the last ping is answered when there is room again."""

    async def scenario() -> None:
        async with Arena(echo, ws_ping_interval_s=None) as arena:
            client = await open_websocket(arena)
            (connection,) = arena.server.connections
            output = connection._output  # type: ignore[attr-defined]
            client.wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
            pings = 0
            while not output.write_paused:
                await client.send(frame(FIN | PING, b"p" * 125) * 500)
                pings += 500
                await asyncio.sleep(0)
            held = output.transport.get_write_buffer_size()
            await client.send(frame(FIN | PING, b"q" * 125) * 5000, frame(FIN | PING, b"last"))
            await arena.eventually(
                lambda: connection._owed_pong == b"last",  # type: ignore[attr-defined]
                "the pings were not read",
            )
            assert output.transport.get_write_buffer_size() == held
            client.wire.writer.transport.resume_reading()  # type: ignore[attr-defined]
            while (pong := await client.frame()) != (FIN | PONG, b"last"):
                assert pong == (FIN | PONG, b"p" * 125)
                pings -= 1
            assert pings >= 0
            await client.send(close())
            await client.closed()

    run(scenario())


@pytest.mark.parametrize("size", [1000, 20_000, 300_000])
def test_an_application_is_held_back_by_a_client_that_reads_slowly(size: int, run: Run) -> None:
    total = 15_000_000

    async def act(receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        for number in range(total // size):
            await send({"type": "websocket.send", "bytes": number.to_bytes(4, "big") * (size // 4)})

    app = Noted(act)

    async def scenario() -> None:
        async with Arena(app, ws_ping_interval_s=None) as arena:
            client = await open_websocket(arena)
            (connection,) = arena.server.connections
            transport = connection._output.transport  # type: ignore[attr-defined]
            await arena.eventually(
                lambda: connection._output.waiters,  # type: ignore[attr-defined]
                "the application was not held back",
            )
            assert transport.get_write_buffer_size() < 2 * (64 * 1024 + size)
            assert not app.ended
            for number in range(total // size):
                first, payload = await client.frame()
                assert (first, payload[:4]) == (FIN | BINARY, number.to_bytes(4, "big"))
            assert (await client.closed()).code == 1000
            await client.send(close(1000))
            assert await client.end() == b""

    tracemalloc.start()
    try:
        run(scenario())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * MEBIBYTE


def test_many_senders_are_held_back_together(run: Run) -> None:
    """Waking them does not let each of them add another message."""
    message = {"type": "websocket.send", "bytes": bytes(60_000)}

    async def act(receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)

        async def sender() -> None:
            for _ in range(20):
                await send(message)

        await asyncio.gather(*(sender() for _ in range(30)))

    app = Noted(act)

    async def scenario() -> None:
        async with Arena(app, ws_ping_interval_s=None) as arena:
            client = await open_websocket(arena)
            (connection,) = arena.server.connections
            output = connection._output  # type: ignore[attr-defined]
            await arena.eventually(lambda: output.waiters, "nobody was held back")
            for _ in range(600):
                await client.frame()
                assert output.transport.get_write_buffer_size() < 200_000
            assert (await client.closed()).code == 1000
            await client.send(close(1000))
            await client.end()

    run(scenario())


def test_cancelling_receive_loses_no_message(run: Run) -> None:
    async def act(receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        got = 0
        while got < 200:
            task = asyncio.ensure_future(receive())
            await asyncio.sleep(0)
            if got % 2:
                task.cancel()
            try:
                message = await task
            except asyncio.CancelledError:
                message = await receive()
            assert message["text"] == str(got)
            got += 1

    app = Noted(act)

    async def scenario() -> None:
        async with Arena(app, ws_ping_interval_s=None) as arena:
            client = await open_websocket(arena)
            for number in range(200):
                await client.send(text(str(number)))
                if number % 3:
                    await asyncio.sleep(0)
            assert (await client.closed()).code == 1000
            await client.send(close(1000))
            await client.end()

    run(scenario())
    assert app.error is None


def test_a_time_out_at_the_moment_of_arrival_loses_no_message(run: Run) -> None:
    waiting: list[asyncio.Future[Message]] = []

    async def act(receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        waiting.append(asyncio.ensure_future(receive()))
        with pytest.raises(asyncio.CancelledError):
            await waiting[0]
        assert (await receive())["text"] == "precious"

    app = Noted(act)

    async def scenario() -> None:
        async with Arena(app) as arena:
            client = await open_websocket(arena)
            queue = incoming(arena)
            await arena.eventually(lambda: queue._waiter, "nobody waits")
            queue.text("precious")
            waiting[0].cancel()  # the message is here, the task that waits has not run yet
            assert (await client.closed()).code == 1000
            await client.send(close(1000))
            await client.end()

    run(scenario())
    assert app.error is None


def test_who_gives_up_waiting_passes_on_what_it_was_woken_for(run: Run) -> None:
    waiting: list[asyncio.Future[Message]] = []

    async def act(receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        waiting.extend(asyncio.ensure_future(receive()) for _ in range(4))
        await asyncio.wait(waiting)

    app = Noted(act)

    async def scenario() -> None:
        waiting.clear()
        async with Arena(app) as arena:
            client = await open_websocket(arena)
            queue = incoming(arena)
            await arena.eventually(lambda: len(queue._others) == 3, "not all wait")
            waiting[0].cancel()  # nothing has come yet
            queue.text("precious")  # for the second …
            waiting[1].cancel()  # … which has not run since
            waiting[3].cancel()
            assert (await waiting[2])["text"] == "precious"
            assert (await client.closed()).code == 1000
            await client.send(close(1000))
            await client.end()

    run(scenario())
    assert app.error is None
    assert [one.cancelled() for one in waiting] == [True, True, False, True]


def test_messages_of_one_turn_arrive_in_order(run: Run) -> None:
    """Gathered, large and control frames keep their order whatever leaves when."""

    async def act(receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        while (message := await receive())["type"] == "websocket.receive":
            number = int(message["text"])
            await send({"type": "websocket.send", "text": f"{number} small"})
            await send({"type": "websocket.send", "text": f"{number} " + "x" * 100_000})
            if number % 3 == 0:
                await asyncio.sleep(0)
            await send({"type": "websocket.send", "bytes": b"%d" % number})

    async def scenario() -> None:
        async with Arena(Noted(act)) as arena:
            client = await open_websocket(arena)
            await client.send(*(text(str(number)) for number in range(30)))
            for number in range(30):
                assert await client.text() == f"{number} small"
                assert (await client.text()).startswith(f"{number} xxx")
                assert await client.frame() == (FIN | BINARY, b"%d" % number)
            await client.send(close())
            await client.end()

    run(scenario())


def test_what_was_sent_before_the_close_arrives(run: Run) -> None:
    async def act(receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        for number in range(5):
            await send({"type": "websocket.send", "text": str(number)})

    async def scenario() -> None:
        async with Arena(Noted(act)) as arena:
            client = await open_websocket(arena)
            assert [await client.text() for _ in range(5)] == list("01234")
            assert (await client.closed()).code == 1000
            await client.send(close(1000))
            assert await client.end() == b""

    run(scenario())


def test_early_data_is_bounded(run: Run) -> None:
    """A client that does not wait for the handshake's answer fills no memory."""
    accept = asyncio.Event()

    async def act(receive: Receive, send: Send) -> None:
        await receive()
        await accept.wait()
        await send(ACCEPT)
        while (await receive())["type"] != "websocket.disconnect":
            pass

    app = Noted(act)

    async def scenario() -> None:
        async with Arena(app) as arena:
            wire = await arena.connect()
            await wire.write(handshake())
            await arena.eventually(lambda: app.got, "the application was not called")
            sending = asyncio.create_task(
                wire.write(frame(FIN | BINARY, bytes(100_000)) * 300 + close(1000))
            )
            await arena.eventually(lambda: incoming(arena).paused, "reading did not stop")
            assert len(incoming(arena)._early) < 400_000
            accept.set()
            await sending
            await wire.read_until(b"\x88\x02\x03\xe8")

    run(scenario())
    assert len([message for message in app.got if "bytes" in message]) == 300
