"""Both loops for every statement."""

from tests.worker.conftest import loop_kind, run

__all__ = ["loop_kind", "run"]
