"""The frame reader: what it makes of octets, however they are cut, and what it refuses."""

from __future__ import annotations

import itertools
import random
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate

from asgi_worker.protocols import frames
from asgi_worker.protocols.deflate import Deflate
from asgi_worker.protocols.frames import FrameReader, Violation
from tests.worker.frames_by_hand import (
    BINARY,
    CLOSE,
    CONTINUATION,
    FIN,
    PING,
    PONG,
    RSV1,
    TEXT,
    close,
    frame,
    text,
)

LIMIT_BYTES = 70_000


class Notes:
    """Notes all that a reader finds; stops the reader after each message if told so."""

    def __init__(self, deflate: Deflate | None = None, *, stop: bool = False) -> None:
        self.found: list[Any] = []
        self.stop = stop
        self.reader = FrameReader(self, self, LIMIT_BYTES, deflate)

    def note(self, *what: Any) -> None:
        self.found.append(what[0] if len(what) == 1 else what)
        if self.stop:
            self.reader.stop()

    def text(self, text: str) -> None:
        assert type(text) is str
        self.note(text)

    def binary(self, data: bytes) -> None:
        assert type(data) is bytes
        self.note(data)

    def ping(self, payload: bytes) -> None:
        self.found.append(("ping", payload))

    def pong(self, payload: bytes) -> None:
        self.found.append(("pong", payload))

    def closed(self, code: int, reason: str) -> None:
        self.found.append(("close", code, reason))


def agreed(**settings: Any) -> Deflate:
    return Deflate(
        PerMessageDeflate(
            remote_no_context_takeover=settings.get("fresh", False),
            local_no_context_takeover=settings.get("fresh", False),
            remote_max_window_bits=15,
            local_max_window_bits=12,
            compress_settings={"memLevel": 5},
        )
    )


def compressed(data: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-15)
    return (deflater.compress(data) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]


def whole(stream: bytes) -> Iterator[bytes]:
    yield stream


def octets(stream: bytes) -> Iterator[bytes]:
    for at in range(len(stream)):
        yield stream[at : at + 1]


def at_random(stream: bytes) -> Iterator[bytes]:
    chance = random.Random(6455)
    at = 0
    while at < len(stream):
        size = chance.choice((1, 2, 3, 7, 64, 1000, 30_000))
        yield stream[at : at + size]
        at += size


CUTS = pytest.mark.parametrize("cut", [whole, octets, at_random])
LONG = "Straße, 道, 🚲. " * 900  # 16-bit length, characters of 1, 2, 3 and 4 octets
LONGER = bytes(range(256)) * 260  # 64-bit length

GOOD: dict[str, tuple[bytes, list[Any]]] = {
    "text": (text("Hello"), ["Hello"]),
    "binary": (frame(FIN | BINARY, b"\x00\xff"), [b"\x00\xff"]),
    "empty text": (text(""), [""]),
    "empty binary": (frame(FIN | BINARY), [b""]),
    "125 octets": (frame(FIN | BINARY, b"x" * 125), [b"x" * 125]),
    "126 octets": (frame(FIN | BINARY, b"x" * 126), [b"x" * 126]),
    "127 octets": (frame(FIN | BINARY, b"x" * 127), [b"x" * 127]),
    "65535 octets": (frame(FIN | BINARY, b"x" * 65535), [b"x" * 65535]),
    "65536 octets": (frame(FIN | BINARY, b"x" * 65536), [b"x" * 65536]),
    "the limit": (frame(FIN | BINARY, b"x" * LIMIT_BYTES), [b"x" * LIMIT_BYTES]),
    "long text": (text(LONG), [LONG]),
    "long binary": (frame(FIN | BINARY, LONGER), [LONGER]),
    "mask of zeros": (frame(FIN | TEXT, b"plain", mask=bytes(4)), ["plain"]),
    "length not minimal": (b"\x82\xff" + struct.pack("!Q", 1) + bytes(4) + b"x", [b"x"]),
    "fragments": (
        frame(TEXT, b"one ") + frame(CONTINUATION, b"two ") + frame(FIN, b"three"),
        ["one two three"],
    ),
    "fragments cut a character": (frame(TEXT, b"\xf0\x9f") + frame(FIN, b"\x9a\xb2"), ["🚲"]),
    "empty fragments": (frame(TEXT) + frame(CONTINUATION) + frame(FIN), [""]),
    "only the first fragment has content": (frame(BINARY, b"x") + frame(FIN), [b"x"]),
    "controls between fragments": (
        frame(BINARY, b"a")
        + frame(FIN | PING, b"?")
        + frame(CONTINUATION, b"b")
        + frame(FIN | PONG, b"!")
        + frame(FIN, b"c"),
        [("ping", b"?"), ("pong", b"!"), b"abc"],
    ),
    "fragments at the limit": (
        frame(BINARY, b"x" * (LIMIT_BYTES - 1)) + frame(FIN, b"y"),
        [b"x" * (LIMIT_BYTES - 1) + b"y"],
    ),
    "ping": (frame(FIN | PING), [("ping", b"")]),
    "ping of 125 octets": (frame(FIN | PING, b"p" * 125), [("ping", b"p" * 125)]),
    "two messages": (text("one") + text("two"), ["one", "two"]),
    "a message after fragments": (frame(TEXT, b"a") + frame(FIN, b"b") + text("c"), ["ab", "c"]),
    "close": (close(1000, "bye"), [("close", 1000, "bye")]),
    "close without code": (close(), [("close", 1005, "")]),
    "close with a private code": (close(4999), [("close", 4999, "")]),
    "nothing after close": (close(1001) + text("too late"), [("close", 1001, "")]),
    "nothing wrong after close": (close(1001) + b"\xff\xff\xff", [("close", 1001, "")]),
}


@CUTS
@pytest.mark.parametrize(("stream", "found"), GOOD.values(), ids=GOOD.keys())
def test_good_frames(stream: bytes, found: list[Any], cut: Any) -> None:
    notes = Notes()
    for piece in cut(stream):
        notes.reader.feed(piece)
    assert notes.found == found


@pytest.mark.parametrize("cut", [whole, at_random])
def test_a_reader_that_is_stopped_after_each_message_loses_nothing(cut: Any) -> None:
    stream = b"".join(octets for octets, found in GOOD.values() if "close" not in str(found))
    wanted = [one for octets, found in GOOD.values() for one in found if "close" not in str(found)]
    notes = Notes(stop=True)
    for piece in cut(stream):
        notes.reader.feed(piece)
    for _ in wanted:
        notes.reader.resume()
    assert notes.found == wanted


def test_a_stopped_reader_hands_out_one_message_at_a_time() -> None:
    notes = Notes(stop=True)
    notes.reader.feed(text("one") + text("two") + text("three"))
    assert notes.found == ["one"]
    notes.reader.feed(text("four"))
    assert notes.found == ["one"]
    notes.reader.resume()
    assert notes.found == ["one", "two"]
    notes.stop = False
    notes.reader.resume()
    assert notes.found == ["one", "two", "three", "four"]


BAD: dict[str, tuple[bytes, int]] = {
    "not masked": (frame(FIN | TEXT, b"x", mask=None), 1002),
    "not masked, empty": (frame(FIN | TEXT, mask=None), 1002),
    "not masked, long": (frame(FIN | TEXT, b"x" * 300, mask=None), 1002),
    "ping not masked": (frame(FIN | PING, mask=None), 1002),
    "RSV1 without an extension": (frame(FIN | RSV1 | TEXT, b"x"), 1002),
    "RSV2": (frame(FIN | 0x20 | TEXT, b"x"), 1002),
    "RSV3": (frame(FIN | 0x10 | TEXT, b"x"), 1002),
    "RSV1 on a ping": (frame(FIN | RSV1 | PING), 1002),
    "RSV3 on a close frame": (frame(FIN | 0x10 | CLOSE), 1002),
    **{f"opcode {one:#x}": (frame(FIN | one, b"x"), 1002) for one in (3, 4, 5, 6, 7)},
    **{f"opcode {one:#x}": (frame(FIN | one, b"x"), 1002) for one in (11, 12, 13, 14, 15)},
    "fragmented ping": (frame(PING), 1002),
    "fragmented close": (frame(CLOSE), 1002),
    "long ping": (frame(FIN | PING, b"x" * 126), 1002),
    "long close": (frame(FIN | CLOSE, b"\x03\xe8" + b"x" * 124), 1002),
    "continuation of nothing": (frame(FIN | CONTINUATION, b"x"), 1002),
    "continuation after the end": (
        frame(TEXT, b"a") + frame(FIN, b"b") + frame(CONTINUATION, b"c"),
        1002,
    ),
    "text within a message": (frame(TEXT, b"a") + frame(FIN | TEXT, b"b"), 1002),
    "binary within a message": (frame(TEXT, b"a") + frame(BINARY, b"b"), 1002),
    "RSV1 on a continuation": (frame(TEXT, b"a") + frame(FIN | RSV1, b"b"), 1002),
    "length beyond 63 bits": (b"\x82\xff" + b"\xff" * 8 + bytes(4), 1002),
    "too big": (frame(FIN | BINARY, b"x" * (LIMIT_BYTES + 1)), 1009),
    "fragments too big": (
        frame(BINARY, b"x" * LIMIT_BYTES) + frame(CONTINUATION, b"x"),
        1009,
    ),
    "close of one octet": (frame(FIN | CLOSE, b"\x03"), 1002),
    **{
        f"close {code}": (close(code), 1002)
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)
    },
    "close reason not UTF-8": (frame(FIN | CLOSE, b"\x03\xe8\xff"), 1007),
    "text not UTF-8": (frame(FIN | TEXT, b"a\xffb"), 1007),
    "text cut within a character": (frame(FIN | TEXT, b"\xf0\x9f\x9a"), 1007),
    "a surrogate": (frame(FIN | TEXT, b"\xed\xa0\x80"), 1007),
    "overlong": (frame(FIN | TEXT, b"\xc0\xaf"), 1007),
    "beyond Unicode": (frame(FIN | TEXT, b"\xf4\x90\x80\x80"), 1007),
    "last fragment ends within a character": (frame(TEXT, b"\xf0\x9f") + frame(FIN, b"\x9a"), 1007),
    "bad second fragment": (frame(TEXT, b"a") + frame(CONTINUATION, b"\xff"), 1007),
}


@CUTS
@pytest.mark.parametrize("before", [b"", text("fine")], ids=["alone", "after a message"])
@pytest.mark.parametrize(("stream", "code"), BAD.values(), ids=BAD.keys())
def test_bad_frames(stream: bytes, code: int, before: bytes, cut: Any) -> None:
    notes = Notes()
    with pytest.raises(Violation) as caught:  # noqa: PT012 – somewhere on the way
        for piece in cut(before + stream):
            notes.reader.feed(piece)
    assert caught.value.code == code
    assert caught.value.reason
    assert [one for one in notes.found if one != "ab"] == (["fine"] if before else [])


FAST: dict[str, tuple[bytes, bytes, int]] = {
    "a length is refused before any of the payload": (
        b"\x82\xff" + struct.pack("!Q", LIMIT_BYTES + 1) + bytes(4),
        b"",
        1009,
    ),
    "a frame that is not masked is refused at its second octet": (b"\x81\x7f", b"", 1002),
    "a long ping is refused at its second octet": (b"\x89\xfe", b"", 1002),
    "text is refused at its first wrong octet": (
        b"\x81\xfe" + struct.pack("!H", 1000) + bytes(4) + "fine ä".encode(),
        b"\xf4\x90",
        1007,
    ),
    "… in a fragment too": (
        frame(TEXT, b"fine \xc3\xa4", mask=bytes(4))[:-1],
        b"\xff",
        1007,
    ),
}


@pytest.mark.parametrize(("fine", "wrong", "code"), FAST.values(), ids=FAST.keys())
def test_what_is_wrong_is_said_at_once(fine: bytes, wrong: bytes, code: int) -> None:
    notes = Notes()
    with pytest.raises(Violation) as caught:  # noqa: PT012 – the last octet is the wrong one
        for piece in octets(fine[: None if wrong else -1]):
            notes.reader.feed(piece)
        notes.reader.feed(wrong or fine[-1:])
    assert caught.value.code == code
    assert notes.found == []


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_messages_fragmented_and_cut_anyhow_arrive(data: st.DataObject) -> None:
    stream = b""
    wanted: list[Any] = []
    fresh = data.draw(st.booleans())
    for message in data.draw(st.lists(st.text(max_size=300) | st.binary(max_size=300), max_size=5)):
        first, payload = (TEXT, message.encode()) if isinstance(message, str) else (BINARY, message)
        if fresh and data.draw(st.booleans()):
            payload = compressed(payload)
            first |= RSV1
        ends = sorted(data.draw(st.lists(st.integers(0, len(payload)), max_size=4)))
        cuts = [0, *ends, len(payload)]
        for number, (start, end) in enumerate(itertools.pairwise(cuts)):
            final = FIN if number == len(cuts) - 2 else 0
            mask = data.draw(st.binary(min_size=4, max_size=4))
            stream += frame(final | (0 if number else first), payload[start:end], mask=mask)
            if not final and data.draw(st.booleans()):
                stream += frame(FIN | PING, b"between")
                wanted.append(("ping", b"between"))
        wanted.append(message)
    notes = Notes(agreed(fresh=True) if fresh else None)
    places = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    for start, end in zip([0, *places], [*places, len(stream)], strict=True):
        notes.reader.feed(stream[start:end])
    assert notes.found == wanted


def test_heads_that_a_server_sends() -> None:
    for size, length in (
        (0, b"\x00"),
        (125, b"\x7d"),
        (126, b"\x7e\x00\x7e"),
        (65535, b"\x7e\xff\xff"),
        (65536, b"\x7f" + struct.pack("!Q", 65536)),
        (1 << 40, b"\x7f" + struct.pack("!Q", 1 << 40)),
    ):
        assert frames.head(frames.TEXT, size) == b"\x81" + length
        assert frames.head(frames.BINARY, size) == b"\x82" + length
        assert frames.head(frames.TEXT, size, compressed=True) == b"\xc1" + length
        assert frames.head(frames.PONG, size) == b"\x8a" + length
    assert tuple(frames.head(frames.TEXT, size) for size in range(126)) == frames.TEXT_HEADS
    assert tuple(frames.head(frames.BINARY, size) for size in range(126)) == frames.BINARY_HEADS


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1007, 1011, 1014, 3000, 4999])
def test_close_frames(code: int) -> None:
    assert frames.close(code, "why") == b"\x88\x05" + struct.pack("!H", code) + b"why"


def test_a_close_frame_without_code() -> None:
    assert frames.close(1005, "cannot be said") == b"\x88\x00"


def test_a_long_reason_is_cut_between_characters() -> None:
    cut = frames.close(1000, "ü" * 100)
    assert cut == b"\x88\x7c" + b"\x03\xe8" + "ü".encode() * 61


@pytest.mark.parametrize("code", [0, 999, 1004, 1006, 1015, 2999, 5000, -1])
def test_codes_that_must_not_be_sent(code: int) -> None:
    with pytest.raises(ValueError, match="is not a close code that may be sent"):
        frames.close(code)


@pytest.mark.parametrize("code", ["1000", None, 1000.5, 1000.0, 1005.0])
def test_what_is_no_code(code: Any) -> None:
    with pytest.raises(ValueError, match=f"^the code must be int, not {code!r}$"):
        frames.close(code)
