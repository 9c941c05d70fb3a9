"""The application of blacksheep_site.py, made at import; its controllers can be used only once."""

from __future__ import annotations

from blacksheep_site import create_app

app = create_app()
