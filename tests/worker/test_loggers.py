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
