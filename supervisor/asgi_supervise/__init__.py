"""The control plane of asgi-supervise: a small master that must never die, and its tools."""

PROGRAM = "asgi-supervise"
"""How it is called, by people and in messages."""
__version__ = "0.1.0"
