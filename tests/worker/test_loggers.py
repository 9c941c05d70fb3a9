from __future__ import annotations

import logging
import logging.config
from collections.abc import Iterator

import pytest

from asgi_worker import loggers


@pytest.fixture
def others() -> Iterator[logging.Logger]:
    ours = [logging.getLogger(name) for name in ("asgi_worker", "asgi_worker.lifespan")]
    other = logging.getLogger("asgi_worker_of_somebody_else")
    yield other
    for logger in (*ours, other):
        logger.disabled = False


def test_ours_stay_on_when_an_application_configures_logging(others: logging.Logger) -> None:
    ours = [logging.getLogger(name) for name in ("asgi_worker", "asgi_worker.lifespan")]
    logging.config.dictConfig({"version": 1})
    assert all(logger.disabled for logger in (*ours, others))
    loggers.keep_on()
    assert not any(logger.disabled for logger in ours)
    assert others.disabled


def test_threads_of_the_application_may_make_loggers_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Meanwhile:
        """Looked at among the loggers, it does what another thread may do then."""

        @property  # type: ignore[misc]
        def __class__(self) -> type:
            logging.getLogger("made meanwhile")
            return object

    known = {**logging.root.manager.loggerDict, "looked at": Meanwhile()}
    monkeypatch.setattr(logging.root.manager, "loggerDict", known)
    loggers.keep_on()
    assert "made meanwhile" in known
