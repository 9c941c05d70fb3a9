"""A WSGI application (PEP 3333) as an ASGI 3 one, called in a pool of threads.

``a2wsgi`` carries calls, messages and back-pressure between the event loop and the threads. What it
does otherwise than PEP 3333 and its readers expect is put right here, on both sides of it:

* once the client has gone, or a message was refused, nothing is sent any more and the application
  is stopped at its next piece; a2wsgi would leave its thread waiting for ever;
* an upload that breaks off is an error, not a short body; ``readline(limit)`` waits for its line;
* the head goes with the first piece of the body, so ``start_response`` with ``exc_info`` can still
  replace it, and a body in one piece goes from the thread to the loop in one message, not in three;
* a header field with an underscore is left out: it would look like the one with a hyphen;
* ``PATH_INFO`` has the bytes of the request, not what is left of them after decoding.

Considered and refused: a bridge that is all ours. It would save little more than a queue and a pool
that others have tried.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import io
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import unquote_to_bytes
from wsgiref.util import FileWrapper

from asgi_worker.protocols.exchange import ClientDisconnected

if TYPE_CHECKING:
    from asgi_worker.application import Application, Message, Receive, Scope, Send

Environ = dict[str, Any]
Write = Callable[[bytes], object]

INPUT_BUFFER_BYTES: Final = 64 * 1024
FILE_PIECE_BYTES: Final = 64 * 1024
"""Frameworks ask for 4 or 8 KiB, which is much too little to go from thread to thread for."""
_KEY: Final = "asgi_worker.wsgi.call"


def asgi3(application: Any, *, threads: int) -> Application:
    """The WSGI ``application`` as an ASGI 3 callable that runs ``threads`` requests at a time.

    Raises ``ImportError`` if a2wsgi is not installed.
    """
    from a2wsgi import WSGIMiddleware

    def in_thread(environ: Environ, start_response: Callable[..., Write]) -> _Response:
        call: _Call = environ["asgi.scope"][_KEY]
        return _Response(application, call, call.complete_environ(environ), start_response)

    bridge = cast("Application", WSGIMiddleware(cast("Any", in_thread), workers=threads))

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await _Call(scope, receive, send).run(bridge)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        else:
            raise RuntimeError("a WSGI application has no lifespan: leave --lifespan on out")

    return serve


class _Call:
    """One request: what loop and thread must know of each other. Its methods run on the loop, but
    for :meth:`complete_environ`.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.receive = receive
        self.loop = asyncio.get_running_loop()
        self.error: Exception | None = None
        """Why nothing can be sent any more."""
        self.is_complete = False
        self.head: Message | None = None
        """To be sent before anything of the body."""
        self.whole = b""
        """All of the body, if it is to be sent with its end."""
        self._scope = scope
        self._send = send

    async def run(self, bridge: Application) -> None:
        scope = {**self._scope, "headers": _fields(self._scope["headers"]), _KEY: self}
        try:
            await bridge(scope, self.receive, self.send)
        except asyncio.CancelledError:
            self.error = ClientDisconnected("the request was cancelled")
            raise
        except (SystemExit, KeyboardInterrupt) as error:  # would stop the event loop
            failed = RuntimeError(f"the application called exit ({error!r})")
            raise failed.with_traceback(error.__traceback__) from None
        if self.error is not None:
            raise self.error

    async def send(self, message: Message) -> None:
        """Never raises: a2wsgi would stop to take what the thread has to say, and block it."""
        if self.error is not None:
            return
        head, self.head = self.head, None
        try:
            if head is not None:
                await self._send(head)
            if message["type"] == "http.response.start":  # without which a2wsgi knows no write()
                return
            if not message.get("more_body", False):
                self.is_complete = True
                message["body"] = self.whole
            await self._send(message)
        except Exception as error:  # noqa: BLE001 – whatever it is, the thread gets it
            self.error = error

    def complete_environ(self, environ: Environ) -> Environ:
        """What a2wsgi made of the request, put right where that loses something."""
        scope = self._scope
        root_path = scope["root_path"]
        target = (scope["raw_path"] or b"").removeprefix(root_path.encode())
        query = scope["query_string"]
        uri = (target + b"?" + query if query else target).decode("latin-1")
        environ.update(
            {
                "asgi.scope": scope,
                "SCRIPT_NAME": root_path.encode().decode("latin-1"),
                "PATH_INFO": unquote_to_bytes(target).decode("latin-1"),
                "REQUEST_URI": uri,
                "RAW_URI": uri,
                "wsgi.input": io.BufferedReader(
                    cast("io.RawIOBase", _Body(self)), INPUT_BUFFER_BYTES
                ),
                "wsgi.input_terminated": True,  # also if it has no length: read to its end
                "wsgi.errors": sys.stderr,
                "wsgi.file_wrapper": _file_wrapper,
            }
        )
        environ.setdefault("REMOTE_ADDR", "")
        if not scope["server"] or scope["server"][1] is None:  # a unix socket
            port = "443" if scope["scheme"] == "https" else "80"
            environ.update(SERVER_NAME="localhost", SERVER_PORT=port)
        return environ


class _Response:
    """What the application answers, in its thread: an iterable for a2wsgi, which closes it last."""

    def __init__(
        self, application: Any, call: _Call, environ: Environ, start: Callable[..., Write]
    ) -> None:
        self._application = application
        self._call = call
        self._environ = environ
        self._start = start
        self._head: tuple[int, list[tuple[bytes, bytes]]] | None = None
        self._is_sent = False  # the head is, or will be with what comes next
        self._write: Write | None = None
        self._body: Any = None

    def start_response(
        self, status: Any, response_headers: Iterable[tuple[Any, Any]], exc_info: Any = None
    ) -> Write:
        """PEP 3333, "The start_response() Callable"."""
        try:
            if exc_info and self._is_sent:
                raise exc_info[1].with_traceback(exc_info[2])
        finally:
            is_replaced, exc_info = bool(exc_info), None  # no circle of frames
        if self._head is not None and not is_replaced:
            raise RuntimeError("start_response() was called before; only exc_info allows it again")
        if not isinstance(status, str) or not status[:3].isdigit():
            raise TypeError(f"start_response(): the status is '200 OK' or alike, not {status!r}")
        headers = []
        for name, value in response_headers:
            if not (isinstance(name, str) and isinstance(value, str)):
                pair = (name, value)
                raise TypeError(f"start_response(): names and values are str, not {pair!r}")
            headers.append((name.lower().encode("latin-1"), value.strip().encode("latin-1")))
        self._head = int(status[:3]), headers
        return self.write

    def write(self, piece: bytes) -> None:
        """PEP 3333, "The write() Callable"."""
        if self._check(piece):
            self._send_head()
            if self._write is None:
                self._write = self._start("200 OK", [])  # only to get at it: our head is sent
            self._write(piece)

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._pieces()
        except (concurrent.futures.CancelledError, asyncio.CancelledError) as error:
            # For the loop this would be the request that is cancelled.
            raise RuntimeError(f"the application raised {error!r}") from error

    def _pieces(self) -> Iterator[bytes]:
        body = self._body = self._application(self._environ, self.start_response)
        if isinstance(body, bytes | str) or not hasattr(body, "__iter__"):
            hint = "return a list: [body]" if isinstance(body, bytes | str) else "is it ASGI?"
            kind = type(body).__name__
            raise TypeError(f"the application returned {kind}, not an iterable of bytes; {hint}")
        is_whole = hasattr(body, "__len__") and len(body) == 1
        for piece in body:
            if self._check(piece):
                self._send_head()
                if is_whole:
                    self._call.whole = piece
                else:
                    yield piece
        self._send_head()

    def close(self) -> None:
        """PEP 3333: whatever comes, also when the body was not iterated over to its end."""
        close = getattr(self._body, "close", None)
        if close is not None:
            close()

    def _check(self, piece: object) -> bool:
        """Whether ``piece`` is anything to be sent; raises if it cannot be."""
        if self._call.error is not None:
            raise self._call.error
        if not isinstance(piece, bytes | bytearray):
            hint = "; encode it" if isinstance(piece, str) else ""
            raise TypeError(f"the application sent {type(piece).__name__}, not bytes{hint}")
        return bool(piece)

    def _send_head(self) -> None:
        """With what comes next, unless it has been sent."""
        if self._is_sent:
            return
        if self._head is None:
            raise RuntimeError("the application did not call start_response() before its body")
        status, headers = self._head
        self._call.head = {"type": "http.response.start", "status": status, "headers": headers}
        self._is_sent = True


class _Body:
    """The request body as the raw stream under ``wsgi.input``, read in the application's thread."""

    closed = False

    def __init__(self, call: _Call) -> None:
        self._call = call
        self._rest = b""
        self._more = True

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        while not self._rest and self._more:
            self._receive()
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size

    def readall(self) -> bytes:
        pieces = [self._rest]
        while self._more:
            self._receive()
            pieces.append(self._rest)
        self._rest = b""
        return b"".join(pieces)

    def flush(self) -> None:
        """Asked for by ``BufferedReader``, as the next."""

    def close(self) -> None:
        self.closed = True

    def _receive(self) -> None:
        call = self._call
        message = asyncio.run_coroutine_threadsafe(_coroutine(call.receive), call.loop).result()
        if message["type"] == "http.disconnect":
            self._more = False
            if not call.is_complete:
                raise ClientDisconnected("the client went away before its request was complete")
            return
        self._rest = message.get("body", b"")
        self._more = message.get("more_body", False)


async def _coroutine(receive: Receive) -> Message:
    return await receive()


def _fields(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Header fields as CGI variables can tell them apart, and the parts of a cookie joined as a
    cookie's (RFC 6265 §5.4), not by commas.
    """
    fields = [(name, value) for name, value in headers if b"_" not in name]
    cookies = [value for name, value in fields if name == b"cookie"]
    if len(cookies) > 1:
        fields = [field for field in fields if field[0] != b"cookie"]
        fields.append((b"cookie", b"; ".join(cookies)))
    return fields


def _file_wrapper(file: Any, block_bytes: int = 0) -> Iterator[bytes]:
    """PEP 3333, "Optional Platform-Specific File Handling"."""
    return FileWrapper(file, max(block_bytes, FILE_PIECE_BYTES))
