"""Servers with several workers that are to share their load, and what they are asked.

All serve the application of ``busy.py``. What they do with connections is left as it comes, except
where the name says so.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from tests.benchmarks.load import Failed
from tests.benchmarks.open_load import PATIENCE_S, Job, Outcome
from tests.benchmarks.servers import OURS, SOURCES, CannotServe, Running, Server

ONE_QUEUE = f"{OURS}, one queue"
"""What others are compared with: whoever is free takes the next connection."""
KERNEL = f"{OURS}, kernel"
OFF = f"{OURS}, off"

_BUSY = "tests.benchmarks.busy:app"
_OURS = "asgi-supervise -w {workers} --loop uvloop --no-access-log"
_INHERIT = f"python {SOURCES / 'inherit.py'} {{port}}"
_COMMANDS = (
    (OURS, f"{_OURS} --balance exact --bind 127.0.0.1:{{port}}"),
    (KERNEL, f"{_OURS} --balance kernel --bind 127.0.0.1:{{port}}"),
    (OFF, f"{_OURS} --balance off --bind 127.0.0.1:{{port}}"),
    (ONE_QUEUE, f"{_INHERIT} {_OURS} --balance off --bind fd://3"),
    ("uvicorn", "uvicorn --workers {workers} --loop uvloop --no-access-log --port {port}"),
    ("granian", "granian --interface asgi --loop uvloop --workers {workers} --port {port}"),
    (
        "gunicorn",
        "gunicorn -k asgi --asgi-loop uvloop --http-parser fast -w {workers} --no-control-socket"
        " -b 127.0.0.1:{port}",
    ),
    ("hypercorn", "hypercorn -k uvloop -w {workers} -b 127.0.0.1:{port}"),
)
NAMES = tuple(name for name, _ in _COMMANDS)


def contestants(names: Collection[str], workers: int) -> list[Server]:
    """Those of ``names``, in the order of :data:`NAMES`, with so many workers each."""
    return [
        Server(
            name=name,
            kind="ours" if name.startswith(OURS) else "peer",
            command=f"{command.replace('{workers}', str(workers))} {_BUSY}",
            versions=("asgi_supervise" if name.startswith(OURS) else name,),
        )
        for name, command in _COMMANDS
        if name in names
    ]


@contextlib.contextmanager
def standing_by(
    servers: Sequence[Server], cores: Collection[int], directory: Path, *, busy: bool = True
) -> Iterator[dict[Server, Running]]:
    """All of them run, on the same cores; who does not start is told, and left out.

    ``busy``: they serve the application of ``busy.py``, so all of their workers can be waited for.
    """
    with contextlib.ExitStack() as stack:
        started = {}
        for index, server in enumerate(servers):
            place = directory / str(index)
            running = Running(server, access_log=False, cores=cores, directory=place)
            started[server] = stack.enter_context(running)
        ready = {}
        for server, running in started.items():
            try:
                running.wait_until_listening()
                if busy:
                    _wait_for_all(running)
            except (CannotServe, Failed) as reason:
                say("start", server, f"failed: {reason}")
            else:
                ready[server] = running
        yield ready


def _wait_for_all(running: Running) -> None:
    """Some listen before all of their workers do: ask until nothing has been slow for a while."""
    for _ in range(20):
        job = Job(running.port, [(number / 50, "/burn/1") for number in range(25)])
        outcome = ask(running, job)
        if max(outcome.latencies_ms) < 100 and not outcome.broken:
            return


def ask(running: Running, job: Job) -> Outcome:
    """Do the job. Raises CannotServe, Failed."""
    with begin(job) as load:
        return finish(running, load, job)


def begin(job: Job) -> subprocess.Popen[str]:
    """Start a process that does the job; it is to be given to :func:`finish`."""
    command = [sys.executable, "-m", "tests.benchmarks.open_load"]
    load = subprocess.Popen(
        command,
        cwd=SOURCES.parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert load.stdin is not None
    load.stdin.write(json.dumps(asdict(job)))
    load.stdin.close()
    load.stdin = None
    return load


def finish(running: Running, load: subprocess.Popen[str], job: Job) -> Outcome:
    last_due_s = job.arrivals[-1][0] if job.arrivals else 0.0
    try:
        said, error = load.communicate(timeout=last_due_s + 6 * PATIENCE_S)
    except subprocess.TimeoutExpired:
        load.kill()
        raise Failed("the load did not come to an end") from None
    running.cpu_s()  # raises if the server is gone
    if load.returncode:
        raise Failed((error.strip().splitlines() or ["the load ended without a word"])[-1])
    outcome = Outcome(**json.loads(said))
    if missing := outcome.latencies_ms.count(-1.0):
        words = f"{missing} of {len(job.arrivals)} requests were not answered"
        raise Failed(f"{words} ({outcome.broken} connections broke, {outcome.wrong} were refused)")
    return outcome


def say(case: str, server: Server, words: str) -> None:
    print(f"{case:10} {server.name:26}  {words}", file=sys.stderr, flush=True)
