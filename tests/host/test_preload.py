from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.host.test_contract import ROOT

pytestmark = pytest.mark.process

LOOK = """
import gc, os, sys, threading
import asgi_worker.main  # as the template has
if child := os.fork():  # and it is forked itself
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
from asgi_supervise.host import preload
from asgi_worker.application import load
from asgi_worker.contract import WorkerSettings
before = preload.descriptors()
app = load(WorkerSettings(app="app:app", app_dir=sys.argv[1]))
gc.collect()
print(*preload.remains(before), sep="\\n", end="")
sys.stdout.flush()
os._exit(0)
"""
ASGI = "\nasync def app(scope, receive, send): ...\n"


def remains(directory: Path, code: str) -> list[str]:
    """What is said of an application of this code."""
    (directory / "app.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "-c", LOOK, str(directory)],
        cwd=ROOT,
        env={"PYTHONPATH": "supervisor:workers"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


STARLETTE = """
from starlette.applications import Starlette
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route
app = Starlette(routes=[Route("/", lambda request: PlainTextResponse(""))])
app.add_middleware(GZipMiddleware)
"""
FASTAPI = """
import httpx
from fastapi import Depends, FastAPI
from fastapi.responses import JSONResponse
from pydantic import BaseModel
class Item(BaseModel):
    name: str
app = FastAPI()
@app.post("/")
async def make(item: Item) -> Item:
    return item
app.openapi()
"""
DJANGO = """
import django
from django.conf import settings
settings.configure(
    SECRET_KEY="x", ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"],
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "/tmp/none"}},
)
from django.core.asgi import get_asgi_application
urlpatterns = []
app = get_asgi_application()
"""
HARMLESS = """
import asyncio, logging, mmap, os, tempfile, threading
logging.basicConfig(filename=os.path.join(os.path.dirname(__file__), "log"))
template = open(__file__)
shared = mmap.mmap(-1, 4096)
async def nothing(): ...
asyncio.run(nothing())
left = asyncio.new_event_loop()
left.close()
done = threading.Thread(target=print, args=(end := "",), kwargs={"end": ""})
done.start()
done.join()
"""


@pytest.mark.parametrize("code", [ASGI, STARLETTE, FASTAPI, DJANGO, HARMLESS + ASGI])
def test_no_false_alarm(tmp_path: Path, code: str) -> None:
    pytest.importorskip("starlette")
    pytest.importorskip("fastapi")
    pytest.importorskip("django")
    assert remains(tmp_path, code.replace('"/tmp/none"', repr(str(tmp_path / "db")))) == []


THREADS = """
import concurrent.futures, functools, threading
def poll(interval): threading.Event().wait(60)
class Reporter(threading.Thread):
    def run(self): threading.Event().wait(60)
class Client:
    def pump(self): threading.Event().wait(60)
    def __call__(self): threading.Event().wait(60)
threading.Thread(target=poll, args=(1,), name="poller").start()
threading.Thread(target=functools.partial(functools.partial(poll), 1), name="partial").start()
threading.Thread(target=Client().pump, name="pump").start()
threading.Thread(target=Client(), name="called", daemon=True).start()
Reporter(name="reporter").start()
pool = concurrent.futures.ThreadPoolExecutor(1)
pool.submit(int)
"""


def test_threads_are_named_with_what_they_run(tmp_path: Path) -> None:
    app = re.escape(str(tmp_path / "app.py"))
    patterns = [
        rf'thread "called" running app\.Client \({app}:8\)',
        rf'thread "partial" running app\.poll \({app}:3\)',
        rf'thread "poller" running app\.poll \({app}:3\)',
        rf'thread "pump" running app\.Client\.pump \({app}:7\)',
        rf'thread "reporter" running app\.Reporter\.run \({app}:5\)',
        r'thread "ThreadPoolExecutor-0_0" running concurrent\.futures\.thread\._worker \(.*:\d+\)',
    ]
    lines = remains(tmp_path, THREADS + ASGI)
    assert len(lines) == len(patterns)
    for line, pattern in zip(
        sorted(lines, key=str.lower), sorted(patterns, key=str.lower), strict=True
    ):
        assert re.fullmatch(pattern, line), line


NATIVE = """
import ctypes
libc = ctypes.CDLL(None)
pause = ctypes.cast(libc.pause, ctypes.c_void_p)
for _ in range(2):
    number = ctypes.c_ulong()
    assert libc.pthread_create(ctypes.byref(number), None, pause, None) == 0
"""


def test_threads_that_python_does_not_know_are_counted(tmp_path: Path) -> None:
    (line,) = remains(tmp_path, NATIVE + ASGI)
    assert re.fullmatch(r"2 native threads \(python\S*\) of an extension module", line)


OPENED = """
import os, select, socket, sqlite3
listening = socket.create_server(("127.0.0.1", 0))
port = listening.getsockname()[1]
client = socket.create_connection(("127.0.0.1", port))
served, _ = listening.accept()
one, other = socket.socketpair()
unconnected = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
pipe = os.pipe()
epoll = select.epoll()
database = sqlite3.connect(os.path.join(os.path.dirname(__file__), "db"))
"""


def test_descriptors_are_named_with_their_addresses(tmp_path: Path) -> None:
    lines = [re.sub(r"\d+", "N", line) for line in remains(tmp_path, OPENED + ASGI)]
    host = "N.N.N.N:N"
    expected = [
        f"socket listening on {host}",
        f"socket {host} → {host}",
        f"socket {host} → {host}",
        "socket pair",
        "socket pair",
        "socket [::]:N, not connected",
        "pipe",
        "pipe",
        "eventpoll",
        f"file {tmp_path}/db, open for writing: all workers write from the same place in it",
    ]
    assert lines == [f"descriptor N: {re.sub(r'[0-9]+', 'N', what)}" for what in expected]


SELECTOR_LOOP = "asyncio.unix_events._UnixSelectorEventLoop"


@pytest.mark.parametrize(
    ("code", "loop"),
    [
        ("import asyncio\nloop = asyncio.new_event_loop()", SELECTOR_LOOP),
        ("import asyncio\nasyncio.set_event_loop(asyncio.new_event_loop())", SELECTOR_LOOP),
        ("import uvloop\nloop = uvloop.new_event_loop()", "uvloop.Loop"),
    ],
)
def test_loops_are_found_wherever_they_are(tmp_path: Path, code: str, loop: str) -> None:
    first, *rest = remains(tmp_path, code + ASGI)
    assert first == f"event loop {loop} (not running, not closed)"
    of_loop = r"descriptors [\d, ]+: such as event loops have \(epoll, pipe or socket pair\)"
    assert all(re.fullmatch(of_loop, line) for line in rest)
    assert len(rest) == 1


RUNNING = """
import asyncio, threading
loop = asyncio.new_event_loop()
threading.Thread(target=loop.run_forever, name="background").start()
while not loop.is_running(): pass
"""


def test_a_loop_that_runs_in_a_thread(tmp_path: Path) -> None:
    thread, loop, _ = remains(tmp_path, RUNNING + ASGI)
    assert thread.startswith('thread "background" running asyncio.base_events.BaseEventLoop.run_f')
    assert loop == f"event loop {SELECTOR_LOOP} (running)"
