"""``asgi-supervise``: words to settings, settings to the master, its exit status to the shell.

Every option is made from the table of settings and taken as plain text, so that a wrong value on
the command line is reported like one in a file, together with all others. The master is imported
only when the settings are known to be good, and asyncio never: what is imported here stays in
memory as long as the service runs.

``--help`` is written by :mod:`asgi_supervise.settings.reference`: Rich's tables cut long flags
short where the terminal is narrow, and a flag that cannot be copied is no help.
"""

from __future__ import annotations

import inspect
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asgi_supervise import __version__
from asgi_worker.contract import Exit

if TYPE_CHECKING:
    from asgi_supervise.settings.entry import Entry
    from asgi_supervise.settings.sources import Loaded

PROGRAM = "asgi-supervise"


def main() -> None:
    """Run the console script; never returns."""
    refusal = refuse(sys.platform)
    if refusal:
        sys.exit(_say(refusal, Exit.USAGE))
    _program()(prog_name=PROGRAM)


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


def _program() -> typer.Typer:
    """The command with one option for each entry of the table."""
    from asgi_supervise.settings.schema import TABLE

    def serve(**words: Any) -> None:
        sys.exit(_serve({name: word for name, word in words.items() if word not in (None, [])}))

    parameters = [_parameter(entry.field, *_option(entry)) for entry in TABLE]
    for flags, show in ((("--version",), _show_version), (("--help", "-h"), _show_help)):
        option = typer.Option(*flags, is_eager=True, expose_value=False, callback=show)
        parameters.append(_parameter(show.__name__, bool, option))
    serve.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    serve.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    program = typer.Typer(
        add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
    )
    program.command(add_help_option=False)(serve)
    return program


def _option(entry: Entry) -> tuple[Any, Any]:
    """The type that Typer has to read and its option; without a flag, its positional argument."""
    kind = entry.setting.kind
    if not entry.flags:
        return str, typer.Argument(metavar=entry.word.upper())
    if kind.is_flag:
        return bool, typer.Option(f"--{entry.word}/--no-{entry.word}")
    return list[str] if kind.is_list else str, typer.Option(*entry.flags, metavar=kind.metavar)


def _parameter(name: str, sort: Any, option: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[sort | None, option],
    )


def _show_version(asked: bool | None) -> None:
    if asked:
        python = f"{platform.python_implementation()} {platform.python_version()}"
        sys.stdout.write(f"{PROGRAM} {__version__} ({python}, {platform.system()})\n")
        raise typer.Exit


def _show_help(asked: bool | None) -> None:
    if asked:
        from asgi_supervise.settings.reference import help_text

        sys.stdout.write(help_text(PROGRAM, min(shutil.get_terminal_size().columns, 100)))
        raise typer.Exit


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
