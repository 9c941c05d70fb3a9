"""A service of the releases' application on every kind of listening socket there is."""

from __future__ import annotations

import contextlib
import resource
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.process.callers import Address
from tests.process.loaded import CALM
from tests.process.releases import Releases
from tests.process.service import Service

FAMILIES = ["tcp", "unix", "inherited"]


class Front(NamedTuple):
    """What a test that moves connections has to do with."""

    service: Service
    address: Address
    releases: Releases


@contextlib.contextmanager
def serving_on(
    family: str,
    *words: str,
    workers: int = 4,
    errors_expected: bool = False,
    stdin: int = subprocess.DEVNULL,
) -> Iterator[Front]:
    """``tcp``: a queue for each slot; ``unix`` and ``inherited``: one for all of them."""
    with contextlib.ExitStack() as stack:
        releases = stack.enter_context(Releases())
        bind, fds = "127.0.0.1:0", []
        path = str(Path(releases.path, "app.sock"))
        if family == "unix":
            bind = f"unix:{path}"
        elif family == "inherited":
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=2048))
            fds = [listener.fileno()]
            bind = f"fd://{fds[0]}"
        service = Service(
            *("-w", str(workers), *releases.words, *CALM, *words),
            app=releases.app,
            bind=bind,
            fds=fds,
            errors_expected=errors_expected,
            stdin=stdin,
            environment={"PYTHONDEVMODE": ""},
        )
        stack.enter_context(service)
        address = service.serving()
        yield Front(service, path if family == "unix" else address, releases)


@contextlib.contextmanager
def room_for_sockets(count: int) -> Iterator[None]:
    """Let this process have so many descriptors more, as far as the system does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(soft, min(hard, count + 200))
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
