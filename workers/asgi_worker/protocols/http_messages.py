"""What an application does wrong with the messages of an HTTP response, and how that is named.

Apart from the exchange because nothing here is on the way of a message that is right.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from asgi_worker.protocols.response import Header, check_header, pairs

if TYPE_CHECKING:
    from asgi_worker.application import Message

_AWAITED: Final = "is each send awaited?"

# Each in the order of ``exchange.Phase``.
_EXPECTED: Final = (
    "'http.response.start'",
    "'http.response.body'",
    "'http.response.body'",
    "nothing but the file",
    "'http.response.trailers'",
)
MISSING: Final = (
    f"http.response.start was not sent ({_AWAITED})",
    f"http.response.body was not sent ({_AWAITED})",
    "its last http.response.body has more_body=True",
    "the file was not sent whole",
    "http.response.trailers was not sent",
)
"""Why a response is not complete."""
TOO_LATE: Final = (
    "%s: the application sent more of the body after the last of it, which is ignored: each "
    "http.response.body but the last has to have more_body=True"
)


def untyped(message: object) -> RuntimeError:
    """The error for what has no ``type``."""
    return RuntimeError(f"a message is a dict with a 'type', not {message!r}")


def unexpected(kind: str, phase: int) -> RuntimeError:
    """The error for a message that cannot be sent in ``phase``."""
    return RuntimeError(f"unexpected ASGI message {kind!r}: expected {_EXPECTED[phase]} here")


def trailers(headers: Iterable[Header]) -> tuple[Header, ...]:
    """The ``headers`` of an ``http.response.trailers``; raises ``RuntimeError``."""
    found = tuple(pairs(headers))
    for name, value in found:
        check_header(name, value)
    return found


def links(message: Message) -> tuple[Header, ...]:
    """The headers of an ``http.response.early_hint``; raises ``RuntimeError``."""
    wanted = message.get("links")
    if not isinstance(wanted, Iterable) or isinstance(wanted, bytes | str):
        raise RuntimeError(
            f"http.response.early_hint: 'links' must be an iterable of bytes, not {wanted!r}"
        )
    return trailers((b"link", link) for link in wanted)


def file_path(message: Message) -> str:
    """The path in an ``http.response.pathsend``; raises ``RuntimeError``."""
    path = message.get("path")
    if not isinstance(path, str) or not os.path.isabs(path) or "\0" in path:
        raise RuntimeError(
            f"http.response.pathsend: 'path' must be an absolute path in a str, not {path!r}"
        )
    return path


def octets(body: object) -> bytes:
    """The body in a message that has something else than ``bytes``; raises ``RuntimeError``."""
    if isinstance(body, bytes | bytearray | memoryview):
        return bytes(body)
    hint = "; encode it" if isinstance(body, str) else ""
    raise RuntimeError(f"http.response.body: 'body' must be bytes, not {type(body).__name__}{hint}")
