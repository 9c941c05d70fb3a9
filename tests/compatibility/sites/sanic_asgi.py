"""The application of sanic_site.py, made at import; its name may be used only once."""

from __future__ import annotations

from sanic_site import create_app

app = create_app()
