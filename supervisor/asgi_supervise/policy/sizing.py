"""How many workers are wanted, and in which slots they sit."""

from __future__ import annotations

from asgi_supervise.policy.health import Rules

SURGE = 1
"""So many workers more than wanted exist while others are replaced, at most."""


def slots_to_make(rules: Rules) -> int:
    """How many slots (listeners) are made at start; their numbers never move."""
    return rules.workers


def most_workers(rules: Rules) -> int:
    """How many may exist at a time, those that leave included; as many seats are made."""
    return rules.workers + SURGE


def slots_wanted(rules: Rules) -> range:
    """The slots that shall have a worker."""
    return range(rules.workers)
