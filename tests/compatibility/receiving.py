"""An HTTP server of the test itself, for what applications report to others."""

from __future__ import annotations

import contextlib
import gzip
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.compatibility.serving import PATIENCE_S


@dataclass(frozen=True)
class Received:
    """One request, its body unpacked. Names of ``headers`` are in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes


class Receiver:
    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.netloc = f"127.0.0.1:{port}"
        self.requests: queue.Queue[Received] = queue.Queue()

    def next(self) -> Received:
        """The next request; waits for it."""
        return self.requests.get(timeout=PATIENCE_S)


@contextlib.contextmanager
def receiving() -> Iterator[Receiver]:
    """Answer every POST with an empty 200 until the block ends."""

    class Post(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers.get("content-length", "0")))
            if headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            receiver.requests.put(Received(self.path, headers, body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Post) as server:
        receiver = Receiver(server.server_port)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()
