"""Compression of messages: what goes in comes out, and no more of it than there is room for."""

from __future__ import annotations

import tracemalloc
import zlib
from typing import Any

import pytest
from websockets.extensions.permessage_deflate import PerMessageDeflate

from asgi_worker.protocols.deflate import Deflate
from asgi_worker.protocols.frames import FrameReader, Violation
from tests.worker.frames_by_hand import BINARY, FIN, RSV1, frame

ROOM = 1_000_000
TAIL = b"\x00\x00\xff\xff"
JSON = b'{"type": "position", "x": 17.25, "y": -3.5, "name": "somebody"}'


def deflate(*, fresh_in: bool = False, fresh_out: bool = False, bits: int = 15) -> Deflate:
    return Deflate(PerMessageDeflate(fresh_in, fresh_out, bits, bits, {"memLevel": 5}))


class Peer:
    """The other side, on zlib alone."""

    def __init__(self, bits: int = 15) -> None:
        self.deflater = zlib.compressobj(wbits=-bits)
        self.inflater = zlib.decompressobj(wbits=-bits)

    def compress(self, data: bytes) -> bytes:
        return (self.deflater.compress(data) + self.deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]

    def decompress(self, data: bytes) -> bytes:
        return self.inflater.decompress(data + b"\x00\x00\xff\xff")


def final_block(data: bytes) -> bytes:
    """A message as a sender ends it that has no sync flush (RFC 7692 §7.2.3.4)."""
    deflater = zlib.compressobj(wbits=-15)
    return deflater.compress(data) + deflater.flush() + b"\x00"


@pytest.mark.parametrize("bits", [9, 12, 15])
def test_both_directions_keep_their_context(bits: int) -> None:
    ours, peer = deflate(bits=bits), Peer(bits)
    sizes = []
    for _ in range(3):
        sent = ours.deflate(JSON)
        sizes.append(len(sent))
        assert peer.decompress(sent) == JSON
        assert ours.inflate(peer.compress(JSON), ROOM, last=True) == JSON
    assert sizes[1] < sizes[0] / 3


def test_without_context_each_message_stands_alone() -> None:
    ours = deflate(fresh_in=True, fresh_out=True)
    assert ours.deflate(JSON) == ours.deflate(JSON)
    for _ in range(2):
        assert ours.inflate(Peer().compress(JSON), ROOM, last=True) == JSON


def test_a_message_in_pieces() -> None:
    ours, peer = deflate(), Peer()
    for message in (JSON * 50, b"", JSON):
        data = peer.compress(message)
        out = b"".join(ours.inflate(data[i : i + 1], ROOM, last=False) for i in range(len(data)))
        assert out + ours.inflate(b"", ROOM, last=True) == message


@pytest.mark.parametrize("size", [1, 100, 2043, 2044, 70_000])
@pytest.mark.parametrize("last", [True, False])
def test_room_for_exactly_the_message(size: int, last: bool) -> None:
    data = Peer().compress(b"x" * size) + (b"" if last else TAIL)
    assert deflate().inflate(data, size, last=last) == b"x" * size
    with pytest.raises(Violation) as caught:
        deflate().inflate(data, size - 1, last=last)
    assert caught.value.code == 1009


def test_no_room_is_not_taken_for_no_limit() -> None:
    ours, peer = deflate(), Peer()
    assert ours.inflate(peer.compress(b"x" * 100) + TAIL, 100, last=False) == b"x" * 100
    with pytest.raises(Violation) as caught:
        ours.inflate(peer.compress(b"x" * 50_000_000), 0, last=False)
    assert caught.value.code == 1009


@pytest.mark.parametrize("fragments", [1, 2, 20])
def test_a_bomb_is_not_inflated(fragments: int) -> None:
    bomb = Peer().compress(bytes(50_000_000))

    class Sink:
        def text(self, text: str) -> None: ...
        def binary(self, data: bytes) -> None: ...
        def ping(self, payload: bytes) -> None: ...
        def pong(self, payload: bytes) -> None: ...
        def closed(self, code: int, reason: str) -> None: ...

    size = -(-len(bomb) // fragments)
    pieces = [bomb[i : i + size] for i in range(0, len(bomb), size)]
    stream = b"".join(
        frame((FIN if n == fragments - 1 else 0) | (RSV1 | BINARY if n == 0 else 0), piece)
        for n, piece in enumerate(pieces)
    )
    reader = FrameReader(Sink(), Sink(), ROOM, deflate())
    tracemalloc.start()
    try:
        with pytest.raises(Violation) as caught:
            reader.feed(stream)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.code == 1009
    assert peak < 4 * ROOM


def test_a_final_block_ends_a_message_and_not_the_stream() -> None:
    ours = deflate()
    for _ in range(3):
        assert ours.inflate(final_block(JSON), ROOM, last=True) == JSON
    assert ours.inflate(Peer().compress(b"after"), ROOM, last=True) == b"after"


def test_the_context_goes_on_after_a_final_block() -> None:
    deflater = zlib.compressobj(wbits=-15)
    first = deflater.compress(JSON) + deflater.flush() + b"\x00"
    second = zlib.compressobj(wbits=-15, zdict=JSON)
    data = (second.compress(JSON) + second.flush(zlib.Z_SYNC_FLUSH))[:-4]
    assert len(data) < len(JSON) / 3
    ours = deflate()
    assert ours.inflate(first, ROOM, last=True) == JSON
    assert ours.inflate(data, ROOM, last=True) == JSON


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\xff\xff\xff\xff", 1007),
        (b"\x03\x00" * 5000, 1007),  # empty final blocks: each would need a new stream
        (final_block(b"x" * 2_000_000), 1009),
        (final_block(b"x")[:-1] + Peer().compress(b"x" * 2_000_000), 1009),
    ],
    ids=["no deflate stream", "many final blocks", "bomb in a final block", "bomb behind one"],
)
def test_what_is_refused(data: bytes, code: int) -> None:
    with pytest.raises(Violation) as caught:
        deflate().inflate(data, ROOM, last=True)
    assert caught.value.code == code


def test_nothing_is_set_up_before_the_first_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each direction costs tens of kilobytes, which idle connections need not."""
    made: list[str] = []
    for name in ("compressobj", "decompressobj"):
        original = getattr(zlib, name)

        def note(*args: Any, name: str = name, original: Any = original, **keys: Any) -> Any:
            made.append(name)
            return original(*args, **keys)

        monkeypatch.setattr(zlib, name, note)
    agreed = PerMessageDeflate(False, False, 15, 15, {})
    made.clear()
    ours = Deflate(agreed)
    assert made == []
    ours.deflate(b"x")
    assert made == ["compressobj"]
