"""The application under load, in as many versions as a test rolls out: good ones and broken ones.

:class:`Releases` is the directory from which it is served; the module in it is what a deployment
would replace. Every answer tells the version and the worker.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import hashlib
import os
import re
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio  # sleeps on trio, too

from tests.process.users import FILLING

MODULE = "shop"
BROKEN = {
    "import error": "raise RuntimeError('this release cannot be imported')\n",
    "lifespan error": "app = application({version!r}, startup='fails')\n",
    "hang at import": "import time\ntime.sleep(1000)\n",
    "hang at start": "app = application({version!r}, startup='hangs')\n",
    "crash": "app = application({version!r}, dies_after_s=1.0)\n",
}
GOOD = "app = application({version!r})\n"


class Releases:
    """A directory with the module ``shop``; ``words`` make the service serve it."""

    def __enter__(self) -> Self:
        self._directory = tempfile.TemporaryDirectory(prefix="releases")
        self.path = Path(self._directory.name)
        self.words = ["--app-dir", str(self.path)]
        self.app = f"{MODULE}:app"
        self.install("v1")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._directory.cleanup()

    def install(self, version: str, fault: str = "") -> None:
        """Replace what is on the disk, in one moment."""
        text = "from tests.process.releases import application\n"
        text += (BROKEN[fault] if fault else GOOD).format(version=version)
        fresh = self.path / "fresh"
        fresh.write_text(text)
        fresh.replace(self.path / f"{MODULE}.py")


def application(version: str, *, startup: str = "", dies_after_s: float | None = None) -> Any:
    """An ASGI application that says who it is."""
    return _Application(version, startup, dies_after_s)


class _Application:
    def __init__(self, version: str, startup: str, dies_after_s: float | None) -> None:
        self.version = version
        self.startup = startup
        self.dies_after_s = dies_after_s
        self.identity = b""
        self.sick = False

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if not self.identity:
            slot, generation = (os.environ[f"ASGI_SUPERVISE_{n}"] for n in ("SLOT", "GENERATION"))
            text = f"version={self.version} slot={slot} gen={generation} pid={os.getpid()}\n"
            self.identity = text.encode()
        match scope["type"], scope["path"] if scope["type"] == "http" else "":
            case "lifespan", _:
                await self.live(receive, send)
            case "websocket", _:
                await self.echo(receive, send)
            case _, "/told-upload" | "/late-upload" as path:
                os.write(2, b"upload begins\n")
                if path == "/late-upload":
                    await anyio.sleep(1)
                await self.answer(send, await digest(receive) + b" " + self.identity)
            case _, "/upload":
                await self.answer(send, await digest(receive) + b" " + self.identity)
            case _, "/large":
                await self.answer(send, self.identity + FILLING)
            case _, "/sick":
                self.sick = True
                await self.answer(send, self.identity)
            case _, "/healthz":
                await self.answer(send, self.identity, 500 if self.sick else 200)
            case _, path if path.startswith("/block/"):
                os.write(2, b"%d blocks\n" % os.getpid())
                BLOCKS[path.removeprefix("/block/")]()
                await self.answer(send, self.identity)
            case _, path if path.startswith("/slow/"):
                os.write(2, b"slow request begins\n")
                await anyio.sleep(float(path.removeprefix("/slow/")))
                await self.answer(send, self.identity)
            case _:
                await self.answer(send, self.identity)

    async def answer(self, send: Any, body: bytes, status: int = 200) -> None:
        length = (b"content-length", b"%d" % len(body))
        await send({"type": "http.response.start", "status": status, "headers": [length]})
        await send({"type": "http.response.body", "body": body})

    async def live(self, receive: Any, send: Any) -> None:
        await receive()
        if self.startup == "fails":  # with --lifespan=auto an exception would mean: none of that
            reason = f"version {self.version} finds no database"
            await send({"type": "lifespan.startup.failed", "message": reason})
            return
        if self.startup == "hangs":
            await anyio.sleep(1000)
        await send({"type": "lifespan.startup.complete"})
        if self.dies_after_s is not None:
            asyncio.get_running_loop().call_later(self.dies_after_s, os._exit, 9)
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async def echo(self, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "bytes": self.identity})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})


async def digest(receive: Any) -> bytes:
    found = hashlib.sha256()
    more = True
    while more:
        message = await receive()
        found.update(message.get("body", b""))
        more = message.get("more_body", False)
    return found.hexdigest().encode()


def block_in_sleep() -> None:
    time.sleep(3)


def block_in_lock() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def block_in_c() -> None:
    """The GIL is held; a signal ends one of these naps."""
    for _ in range(30):
        ctypes.PyDLL(None).usleep(100_000)


def block_in_regex() -> None:
    re.match(r"(a+)+$", "a" * 25 + "b")


def block_in_gc() -> None:
    """Collections of a heap like that of a large application, one after the other."""
    heap: list[object] = [[] for _ in range(2_000_000)]
    end = time.monotonic() + 3
    while time.monotonic() < end:
        gc.collect()
    heap.clear()


def block_in_debugger() -> None:
    """Until somebody types ``continue``."""
    breakpoint()  # noqa: T100 - that is the point


BLOCKS = {
    "sleep": block_in_sleep,
    "lock": block_in_lock,
    "c": block_in_c,
    "regex": block_in_regex,
    "gc": block_in_gc,
    "debugger": block_in_debugger,
}
