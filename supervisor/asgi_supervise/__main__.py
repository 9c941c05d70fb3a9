"""``python -m asgi_supervise`` is ``asgi-supervise``."""

from asgi_supervise.cli import main

main()
