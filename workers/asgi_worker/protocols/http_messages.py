"""What an application does wrong with the messages of an HTTP response, and how that is named.

Apart from the exchange because nothing here is on the way of a message that is right.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from asgi_worker.protocols.response import Header, check_header

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


def checked(headers: Iterable[Header]) -> tuple[Header, ...]:
    """Links or trailers; raises ``RuntimeError``."""
    found = tuple((name, value) for name, value in headers)
    for name, value in found:
        check_header(name, value)
    return found


def octets(body: object) -> bytes:
    """The body in a message that has something else than ``bytes``; raises ``RuntimeError``."""
    if isinstance(body, bytes | bytearray | memoryview):
        return bytes(body)
    hint = "; encode it" if isinstance(body, str) else ""
    raise RuntimeError(f"http.response.body: 'body' must be bytes, not {type(body).__name__}{hint}")
