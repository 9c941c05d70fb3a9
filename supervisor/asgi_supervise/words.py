"""The words of the command line: read by Typer, in a process of its own.

Every option is made from the table of settings and taken as plain text, so that a wrong value on
the command line is reported like one in a file, together with all others.

``--help`` is written by :mod:`asgi_supervise.settings.reference`: Rich's tables cut long flags
short where the terminal is narrow, and a flag that cannot be copied is no help.

What is imported here must not stay in the master: every generation is forked from it, and Typer
imports what is the application's business (pydantic, where it is installed). An application that
is reloaded with a newer one would get the old.
"""

from __future__ import annotations

import inspect
import platform
import shutil
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asgi_supervise import PROGRAM, __version__
from asgi_supervise.settings.schema import TABLE

if TYPE_CHECKING:
    from asgi_supervise.settings.entry import Entry


def program(use: Callable[[dict[str, Any]], None]) -> typer.Typer:
    """The command with one option for each entry of the table; ``use`` gets what was said."""

    def serve(**words: Any) -> None:
        use({name: word for name, word in words.items() if word not in (None, [])})

    parameters = [_parameter(entry.field, *_option(entry)) for entry in TABLE]
    for flags, show in ((("--version",), _show_version), (("--help", "-h"), _show_help)):
        option = typer.Option(*flags, is_eager=True, expose_value=False, callback=show)
        parameters.append(_parameter(show.__name__, bool, option))
    serve.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    serve.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    command = typer.Typer(
        add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
    )
    command.command(add_help_option=False)(serve)
    return command


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
