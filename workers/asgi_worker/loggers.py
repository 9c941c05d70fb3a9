"""Our loggers, which an application that configures logging switches off by default."""

from __future__ import annotations

import logging
import os

OURS = ("asgi_supervise", "asgi_worker")


def keep_on() -> None:
    """To be called after code of the application ran that may have configured logging.

    ``logging.config`` disables every logger there is, unless told not to
    (``disable_existing_loggers``); what we have to say of the application is not its to switch off.
    """
    for name, logger in list(logging.root.manager.loggerDict.items()):  # threads may add some
        if isinstance(logger, logging.Logger) and name.partition(".")[0] in OURS:
            logger.disabled = False


def speaks_for_all() -> bool:
    """Whether what every worker would say in the same words is this one's to say."""
    return os.environ.get("ASGI_SUPERVISE_SLOT", "0") == "0"
