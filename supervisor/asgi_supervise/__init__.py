"""The control plane of asgi-supervise: a small master that must never die, and its tools."""

__version__ = "0.1.0"
