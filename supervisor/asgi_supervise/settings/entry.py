"""What a setting is, and the names that follow from its field.

A setting has one *word*: ``keep-alive-timeout`` for the field ``keep_alive_timeout_s``. The flag is
``--keep-alive-timeout``, the variable ``ASGI_SUPERVISE_KEEP_ALIVE_TIMEOUT``, the key in a file
``keep-alive-timeout``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, get_type_hints

import msgspec

from asgi_supervise.settings.values import Kind

ENVIRONMENT_PREFIX = "ASGI_SUPERVISE_"
PANELS = APP, LISTEN, PROCESSES, TIMES, HEALTH, LIMITS, WEBSOCKETS, PROXIES, LOG, SOURCES = (
    "Application",
    "Listening",
    "Processes",
    "Times",
    "Health",
    "Limits",
    "WebSockets",
    "Proxies and headers",
    "Logging",
    "Where settings come from",
)
"""The groups in which settings are shown, in this order."""


class Setting(NamedTuple):
    """What a setting is besides its type and default."""

    panel: str
    kind: Kind
    help: str
    word: str = ""
    """Where it is not made from the field's name."""
    short: str = ""
    flags: tuple[str, ...] = ()
    """Further flags of the same meaning."""
    variables: tuple[str, ...] = ()
    """Further environment variables, looked at after our own."""
    default: str = ""
    """How the default is shown, where its value does not say it."""
    example: str = ""
    """What to show in a file, in TOML, where there is no default to write there."""
    restart: bool = False
    """Only a restart changes it; everything else a reload does."""


class Entry(NamedTuple):
    """One row of the table: a setting with all its names."""

    field: str
    word: str
    setting: Setting
    default: Any

    @property
    def flags(self) -> tuple[str, ...]:
        """Every flag, the one to document first; the application is a positional argument."""
        short = (self.setting.short,) if self.setting.short else ()
        return () if self.field == "app" else (f"--{self.word}", *short, *self.setting.flags)

    @property
    def variables(self) -> tuple[str, ...]:
        """Every environment variable, ours first."""
        return (
            ENVIRONMENT_PREFIX + self.word.upper().replace("-", "_"),
            *self.setting.variables,
        )

    @property
    def key(self) -> str | None:
        """The key in a settings file; ``None`` for what only leads to one."""
        return None if self.field == "config" else self.word

    @property
    def shown_default(self) -> str:
        """The default as people read it."""
        if self.setting.default:
            return self.setting.default
        if self.default is msgspec.NODEFAULT:
            return "required"
        return self.shown(self.default)

    def shown(self, value: Any) -> str:
        """``value`` as people read it."""
        if value is None:
            return "off" if self.setting.kind.metavar.endswith("|off") else "none"
        return self.setting.kind.show(value)


def declared(struct: type[msgspec.Struct]) -> Iterator[Entry]:
    """A row for each field of ``struct``, all of which must be annotated with a setting."""
    hints = get_type_hints(struct, include_extras=True)
    for field in msgspec.structs.fields(struct):
        setting = next(note for note in hints[field.name].__metadata__ if isinstance(note, Setting))
        stem = field.name.removesuffix("_s").replace("_max_bytes", "_max_size")
        yield Entry(field.name, setting.word or stem.replace("_", "-"), setting, field.default)
