"""What each generation is made from: its settings, and the blueprint of its processes.

A generation has settings of its own, because a reload reads them again and may come to nothing. In
force are those of the generation that was adopted last; they also say what a new one may not
change without a restart.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Container

from setproctitle import setproctitle

from asgi_supervise.host import logs, privileges
from asgi_supervise.host.template import Blueprint
from asgi_supervise.policy import vocabulary as v
from asgi_supervise.policy.health import Rules
from asgi_supervise.settings.problems import SettingsError
from asgi_supervise.settings.restart import at_restart, without_restart
from asgi_supervise.settings.schema import Settings
from asgi_supervise.settings.sources import Loaded

Reread = Callable[[], Loaded]
"""Reads all settings anew, from where they were read at start; raises :class:`SettingsError`."""


class Plans:
    """By generation. ``blueprint`` is that of the first."""

    def __init__(self, settings: Settings, reread: Reread, blueprint: Blueprint) -> None:
        self._adopted = settings
        self._reread = reread
        self._plans: dict[int, tuple[Settings, Blueprint]] = {1: (settings, blueprint)}
        self._first = blueprint

    def blueprint(self, generation: int) -> Blueprint:
        """What its processes are made from; raises ``KeyError`` if it was never read."""
        return self._plans[generation][1]

    def read(self, generation: int, in_use: Container[int]) -> v.SettingsRead | v.SettingsRefused:
        """Read the settings for ``generation``. Plans that are not ``in_use`` are forgotten."""
        try:
            loaded = self._reread()
            settings = without_restart(self._adopted, loaded.settings)
            identity = privileges.resolve(settings.user, settings.group)
        except (SettingsError, privileges.PrivilegeError) as error:
            return v.SettingsRefused(generation, f"the settings are wrong\n{error}")
        blueprint = dataclasses.replace(
            self._first,
            settings=settings.worker_settings(),
            preload=settings.preload,
            identity=identity,
            umask=settings.umask,
            variables=loaded.variables,
            directory=str(loaded.directory),
        )
        self._plans = {number: plan for number, plan in self._plans.items() if number in in_use}
        self._plans[generation] = settings, blueprint
        return v.SettingsRead(
            generation, rules_of(settings), at_restart(self._adopted, loaded.settings)
        )

    def adopt(self, generation: int) -> None:
        """Its settings are in force, also for the master."""
        self._adopted = self._plans[generation][0]
        logs.set_level(self._adopted.log_level)
        entitle(self._adopted)


def rules_of(settings: Settings) -> Rules:
    """The figures by which the fleet is judged."""
    return Rules(
        workers=settings.workers,
        startup_timeout_s=settings.startup_timeout_s,
        graceful_timeout_s=settings.graceful_timeout_s,
        preload=settings.preload,
        stall_warn_s=settings.stall_warn_s,
        worker_timeout_s=settings.worker_timeout_s,
        balance=settings.balance,
        bake_s=settings.bake_time_s,
        canary_weight=settings.canary_weight,
        shutdown_delay_s=settings.shutdown_delay_s,
        max_restarts=settings.max_restarts,
        restart_window_s=settings.restart_window_s,
    )


def entitle(settings: Settings) -> None:
    """The title of the master, as ps shows it."""
    setproctitle(f"{settings.name}: master {settings.app}")
