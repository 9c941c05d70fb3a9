"""What the application left to be done at its exit is done by each worker, and only by workers:
what it registered, and what its tasks do when they are cancelled.
"""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from tests.process.service import Service

pytestmark = pytest.mark.process

APPLICATION = """
import atexit, logging, os, pathlib, shutil, tempfile, weakref

place = pathlib.Path(os.environ["PLACE"])

def temporary(owner, prefix):
    folder = tempfile.mkdtemp(dir=place, prefix=prefix)
    weakref.finalize(owner, shutil.rmtree, folder)
    return folder

atexit.register(lambda: (place / f"left-{os.getpid()}").touch())
shared = temporary(logging, "at-import-")
class Buffered(logging.Handler):
    def emit(self, record):
        self.kept = record.getMessage()

    def close(self):
        (place / f"log-{os.getpid()}").write_text(self.kept)
        super().close()

log = logging.getLogger("buffered")
log.propagate = False
log.addHandler(Buffered())

async def app(scope, receive, send):
    assert (await receive())["type"] == "lifespan.startup"
    temporary(app, "at-startup-")
    assert os.path.isdir(shared), "another worker has removed it"
    log.warning("kept until the end")
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})
"""


@pytest.mark.parametrize("preload", [False, True], ids=["each", "preload"])
def test_exit_hooks(tmp_path: Path, preload: bool) -> None:
    (tmp_path / "registers.py").write_text(APPLICATION)
    place = tmp_path / "place"
    place.mkdir()
    words = ["-w", "2", "--app-dir", str(tmp_path), *(["--preload"] if preload else [])]
    with Service(*words, app="registers:app", environment={"PLACE": str(place)}) as service:
        service.serving()
        first, second = service.workers().values()
        service.process.terminate()
        assert service.ended() == 0

    def found(pattern: str) -> set[str]:
        return {path.name for path in place.iterdir() if re.fullmatch(pattern, path.name)}

    assert found("left-.*") == {f"left-{first}", f"left-{second}"}
    for worker in (first, second):
        assert (place / f"log-{worker}").read_text() == "kept until the end"
    assert found("at-startup-.*") == set()
    assert len(found("at-import-.*")) == preload  # it is of all workers, so of none


PARENT = """
import multiprocessing, os, pathlib, signal

child = multiprocessing.get_context("fork").Process(target=signal.pause)
child.start()
(pathlib.Path(os.environ["PLACE"]) / "child").write_text(str(child.pid))

async def app(scope, receive, send):
    assert (await receive())["type"] == "lifespan.startup"
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})
"""


def test_what_a_preloaded_application_has_started_is_no_child_of_workers(tmp_path: Path) -> None:
    """So they do not wait for it in their exit hooks: an error in the log for each of them."""
    (tmp_path / "parent.py").write_text(PARENT)
    words = ["-w", "2", "--app-dir", str(tmp_path), "--preload"]
    with Service(*words, app="parent:app", environment={"PLACE": str(tmp_path)}) as service:
        service.serving()
        os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)
        service.process.terminate()
        assert service.ended() == 0
    assert "can only join a child process" not in service.log


LEFT_BEHIND = """
import asyncio, os, pathlib

place = pathlib.Path(os.environ["PLACE"])
tasks = []

async def numbers():
    try:
        while True:
            yield 1
            await asyncio.sleep(60)
    finally:
        await asyncio.sleep(0)
        (place / f"generator-{os.getpid()}").touch()

async def counting():
    async for _ in numbers():
        pass

async def waiting():
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0)
        (place / f"task-{os.getpid()}").touch()

async def failing():
    try:
        await asyncio.Event().wait()
    finally:
        raise ZeroDivisionError("crash at the end")

async def stubborn():
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass

async def app(scope, receive, send):
    assert (await receive())["type"] == "lifespan.startup"
    tasks.extend(asyncio.create_task(one()) for one in (counting, waiting, failing, stubborn))
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})
"""


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_tasks_left_behind_are_cancelled(tmp_path: Path, loop: str) -> None:
    """As ``asyncio.run`` does; one that goes on all the same does not keep the worker."""
    (tmp_path / "leaves.py").write_text(LEFT_BEHIND)
    words = ["-w", "1", "--loop", loop, "--app-dir", str(tmp_path)]
    place = {"PLACE": str(tmp_path)}
    with Service(*words, app="leaves:app", environment=place, errors_expected=True) as service:
        service.serving()
        (worker,) = service.workers().values()
        service.process.terminate()
        assert service.ended() == 0
    assert (tmp_path / f"task-{worker}").exists()
    assert (tmp_path / f"generator-{worker}").exists()
    assert service.log.count("ZeroDivisionError: crash at the end") == 1
    assert "asynchronous generator" not in service.log
