"""What the application left to be done at its exit is done by each worker, and only by workers."""

from __future__ import annotations

import re
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
