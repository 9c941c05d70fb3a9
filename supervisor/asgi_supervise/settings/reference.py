"""The table of settings in the three forms people read: ``--help``, the page, the sample file.

``python -m asgi_supervise.settings.reference`` in a checkout writes ``docs/settings.md`` and
``deploy/asgi-supervise.toml`` anew; a test fails while they are older than the table.
"""

from __future__ import annotations

import json
import sys
import textwrap
from itertools import groupby
from pathlib import Path

from asgi_supervise.settings.entry import Entry
from asgi_supervise.settings.schema import TABLE

PAGE = "docs/settings.md"
SAMPLE = "deploy/asgi-supervise.toml"

_PURPOSE = "Serve an ASGI application on several worker processes, and keep them serving."
_UNITS = (
    "TIME is in seconds or has a unit (500ms, 2m); SIZE is in bytes or has a unit (64KiB, 16MiB)."
)
_ORDER = (
    "Each option can also be set in the environment (--keep-alive-timeout as "
    "ASGI_SUPERVISE_KEEP_ALIVE_TIMEOUT) and in a file (as keep-alive-timeout). The command line "
    "counts before the environment, the environment before the file."
)
_PAGE_START = """\
<!-- Written by `python -m asgi_supervise.settings.reference` from the table in
     supervisor/asgi_supervise/settings/schema.py: change it there. -->

# Settings

Every setting has one word. `keep-alive-timeout` is

* on the command line `--keep-alive-timeout 5`,
* in the environment `ASGI_SUPERVISE_KEEP_ALIVE_TIMEOUT=5`,
* in a file `keep-alive-timeout = 5`.

The command line counts before the environment, the environment before the file. The file is the
one named by `--config`, else `asgi-supervise.toml` in the working directory, else the table
`[tool.asgi-supervise]` of the `pyproject.toml` there. A
[sample file](../deploy/asgi-supervise.toml) has every key with its default.

* `TIME` is in seconds, or has a unit: `500ms`, `5s`, `2m`, `1h`.
* `SIZE` is in bytes, or has a unit: `64KiB`, `16MiB`, `1GiB`.
* `OCTAL` is a file mode as `chmod` takes it; in a file it stands in quotes: `"660"`.
* An option written `--[no-]word` is turned on by `--word` and off by `--no-word`. In a file it is
  `true` or `false`, in the environment `1`, `0`, `yes`, `no`, `on` and `off` will do as well.
* What may be given more than once is repeated on the command line, separated by commas in the
  environment (`header` by line ends) and a list in a file.
* An empty environment variable counts as not set.

A reload (`kill -HUP`) reads all of them again: the same command line, the environment the master
was started with, and the files as they are now. Workers of the new code have the new values.
Settings marked *Needs a restart* stay as they were, and the log names those that differ. If
anything is wrong, nothing changes, and the log says what.

Where to listen can be said in four ways: `bind`, `host` and `port`, `uds`, or `fd`. One is enough;
where two sources use two ways, the stronger source counts.

The file of `env-file` has one `NAME=value` a line. Its variables are for the application, and those
that begin with `ASGI_SUPERVISE_` are settings; the real environment counts before it. Lines that
begin with `#` are comments. A value in single quotes is taken as it is; in double quotes `\\n`,
`\\t`, `\\"`, `\\$` and `\\\\` are understood. Nothing is substituted. A reload reads it, too:
variables that were changed, added or removed are so for the new workers.

All problems are reported at once, one line each, with where the value was set, and nothing is
started (exit status 2):

```console
$ WEB_CONCURRENCY=many asgi-supervise --port 80000 myproject.main:app
asgi-supervise: cannot start: 2 settings are wrong
  port = 80000: must be at most 65535 (on the command line)
  workers = many: not a whole number (or auto) (in the environment, WEB_CONCURRENCY)
```"""
_SAMPLE_START = """\
# Settings of asgi-supervise. Every line that begins with `#word` shows a default, or an example
# where there is none: remove the `#` to change it.
#
# Use: asgi-supervise --config asgi-supervise.toml, or keep this file under that name in the
# working directory. The command line and ASGI_SUPERVISE_* variables count before this file."""
_COLUMN = 32


def help_text(program: str, width: int) -> str:
    """What ``--help`` prints, in lines of at most ``width`` columns."""
    paragraphs = [f"Usage: {program} [OPTIONS] APP", textwrap.fill(_PURPOSE, width)]
    for panel, entries in groupby(TABLE, lambda entry: entry.setting.panel):
        items = [_item(_names(entry), _description(entry), width) for entry in entries]
        paragraphs.append("\n".join([f"{panel}:", *items]))
    general = [("-h, --help", "Show this text and exit."), ("--version", "Show the version.")]
    paragraphs.append("\n".join(["Help:", *(_item(*item, width) for item in general)]))
    notes = [textwrap.fill(note, width, break_on_hyphens=False) for note in (_UNITS, _ORDER)]
    return "\n\n".join(paragraphs + notes) + "\n"


def _names(entry: Entry) -> str:
    kind = entry.setting.kind
    if not entry.flags:
        return entry.word.upper()
    short = f"{entry.setting.short}, " if entry.setting.short else ""
    word = f"[no-]{entry.word}" if kind.is_flag else f"{entry.word} {kind.metavar}"
    return f"{short}--{word}"


def _description(entry: Entry) -> str:
    also = [*entry.setting.flags, *(f"${name}" for name in entry.setting.variables)]
    notes = [f"default: {entry.shown_default}", *(f"also {name}" for name in also)]
    return f"{entry.setting.help} [{'; '.join(notes)}]"


def _item(names: str, description: str, width: int) -> str:
    indent = " " * _COLUMN
    text = textwrap.fill(
        description,
        max(width, _COLUMN + 20),
        initial_indent=indent,
        subsequent_indent=indent,
        break_on_hyphens=False,
        break_long_words=False,
    )
    start = f"  {names}"
    if len(start) < _COLUMN - 1:
        return start.ljust(_COLUMN) + text.lstrip()
    return f"{start}\n{text}"


def page() -> str:
    """``docs/settings.md``."""
    lines = [_PAGE_START]
    for panel, entries in groupby(TABLE, lambda entry: entry.setting.panel):
        lines += [f"\n## {panel}\n", "| option | default | |", "|---|---|---|"]
        lines += [_row(entry) for entry in entries]
    return "\n".join(lines) + "\n"


def _row(entry: Entry) -> str:
    help_ = entry.setting.help
    also = [*entry.setting.flags, *entry.setting.variables]
    if also:
        help_ += " Also " + " and ".join(f"`{name}`" for name in also) + "."
    if entry.setting.restart:
        help_ += " Needs a restart."
    cells = (f"`{_names(entry)}`", entry.shown_default, help_)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def sample() -> str:
    """``deploy/asgi-supervise.toml``: every key with its default, or with an example."""
    lines = [_SAMPLE_START]
    for panel, entries in groupby(TABLE, lambda entry: entry.setting.panel):
        lines += ["", f"# {panel} ".ljust(78, "-")]
        for entry in entries:
            if entry.key:
                note = "" if _has_literal(entry) else f" [default: {entry.shown_default}]"
                help_ = textwrap.fill(entry.setting.help + note, 78, break_on_hyphens=False)
                lines += ["", *(f"# {line}" for line in help_.splitlines())]
                lines.append(f"#{entry.key} = {_literal(entry)}")
    return "\n".join(lines) + "\n"


def _has_literal(entry: Entry) -> bool:
    return not entry.setting.example


def _literal(entry: Entry) -> str:
    """The default, or the example where there is no default to write, in TOML."""
    if not _has_literal(entry):
        return entry.setting.example
    value = entry.default
    if isinstance(value, bool | tuple):
        return json.dumps(value)
    plain = isinstance(value, int) and entry.setting.kind.metavar.startswith("N")
    return str(value) if plain else json.dumps(entry.shown_default)


def main(root: Path) -> None:
    """Write both files below ``root``."""
    for name, text in ((PAGE, page()), (SAMPLE, sample())):
        target = root / name
        target.parent.mkdir(exist_ok=True)
        target.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
