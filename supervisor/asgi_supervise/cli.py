"""``asgi-supervise``: words to settings, settings to the master, its exit status to the shell.

The master is imported only when the settings are known to be good, asyncio never, and the words
are read by a child that ends with that: what is imported here stays in memory as long as the
service runs, and is inherited by every generation of the application.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asgi_supervise import PROGRAM
from asgi_worker.contract import Exit

if TYPE_CHECKING:
    from asgi_supervise.settings.sources import Loaded


def main() -> None:
    """Run the console script; never returns."""
    refusal = refuse(sys.platform)
    if refusal:
        sys.exit(_say(refusal, Exit.USAGE))

    try:
        said, status = _said()
        sys.exit(_serve(json.loads(said)) if said else status)
    except KeyboardInterrupt:  # before the master hears signals
        sys.exit(128 + signal.SIGINT)


def _said() -> tuple[bytes, int]:
    """The words of the command line as JSON, or nothing and the status to leave with."""
    from asgi_supervise.host.children import answer_of

    try:
        return answer_of(_read_words)
    except OSError as error:
        return b"", _say(f"cannot read the command line: {error}; try again", Exit.INTERNAL)


def refuse(system: str) -> str:
    """Why ``system`` (a ``sys.platform``) cannot be served, or an empty text."""
    if system != "linux":
        return (
            f"cannot run on {system}: supervision needs what only Linux has (pidfd, child "
            "subreaper, SO_REUSEPORT groups); use Linux, a virtual machine or a container"
        )
    if not hasattr(os, "pidfd_open"):
        return "cannot run: this Python was built for a Linux older than 5.3 (no pidfd_open)"
    return ""


def _read_words() -> bytes:
    """In a child: the words of the command line by field, as JSON; empty after ``--help``.

    Leaves by :class:`SystemExit` where something is wrong with them.
    """
    from asgi_supervise.words import program

    said: list[bytes] = []
    command = program(lambda words: said.append(json.dumps(words).encode()))
    try:
        command(prog_name=PROGRAM)
    except SystemExit as end:
        if end.code:
            from asgi_supervise.settings.elsewhere import advice

            for line in advice(sys.argv[1:]):
                _say(line, Exit.USAGE)
            raise
    return b"".join(said)


def _serve(given: dict[str, Any]) -> int:
    """Read the settings and run the service; the exit status."""
    from asgi_supervise.settings.problems import SettingsError
    from asgi_supervise.settings.sources import load

    start = _start_directory()
    environment = dict(os.environ)

    def read() -> Loaded:
        return load(given, environment, start)

    try:
        loaded = read()
    except SettingsError as error:
        count = len(error.problems)
        title = "one setting is wrong" if count == 1 else f"{count} settings are wrong"
        return _say("\n  ".join([f"cannot start: {title}", *map(str, error.problems)]), Exit.USAGE)
    if loaded.settings.chdir is not None:
        try:
            os.chdir(loaded.directory)
        except OSError as error:
            return _say(f"cannot change to {loaded.directory}: {error.strerror}", Exit.USAGE)

    from asgi_supervise import master

    return master.run(loaded, read)


def _start_directory() -> Path:
    """Where we were started, under the name by which people know it.

    The shell says in ``PWD`` what symbolic links it went through. A link that points elsewhere at
    the next reload (``current`` to the next release) is then followed anew.
    """
    here = Path.cwd()
    named = Path(os.environ.get("PWD", ""))
    try:
        return named if named.is_absolute() and named.samefile(here) else here
    except OSError:
        return here


def _say(message: str, status: int) -> int:
    sys.stderr.write(f"{PROGRAM}: {message}\n")
    return status
