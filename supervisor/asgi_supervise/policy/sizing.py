"""How many workers are wanted, and in which slots they sit."""

from __future__ import annotations

from asgi_supervise.policy.health import Rules


def slots_to_make(rules: Rules) -> int:
    """How many slots (listeners, scoreboard) are made at start; their numbers never move."""
    return rules.workers


def slots_wanted(rules: Rules) -> range:
    """The slots that shall have a worker."""
    return range(rules.workers)
