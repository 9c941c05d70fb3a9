"""What a reload does not change: some settings are those of the master's start.

Which ones is said in the table (``restart=True``): what is made once, before the first worker –
listening sockets, as many as there are workers, the pid file, the log files.
"""

from __future__ import annotations

import msgspec

from asgi_supervise.settings.entry import declared
from asgi_supervise.settings.schema import Settings

_AT_RESTART = [entry for entry in declared(Settings) if entry.setting.restart]


def at_restart(old: Settings, new: Settings) -> tuple[str, ...]:
    """Every difference that only a restart makes real, as *word old → new*."""
    return tuple(
        f"{entry.word} {entry.shown(before)} → {entry.shown(after)}"
        for entry in _AT_RESTART
        if (before := getattr(old, entry.field)) != (after := getattr(new, entry.field))
    )


def without_restart(old: Settings, new: Settings) -> Settings:
    """``new`` as far as a reload makes it real: what only a restart changes is as in ``old``."""
    kept = {entry.field: getattr(old, entry.field) for entry in _AT_RESTART}
    return msgspec.structs.replace(new, **kept)
