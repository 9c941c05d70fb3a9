"""Management commands of a Django project in ``sites/``, as people run them before they serve."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.compatibility.serving import PYTHON, SITES, sources

SUPERUSER, PASSWORD = "root", "sesame"


def manage(settings: str, files: Path, *words: str) -> None:
    """``django-admin`` with ``words``, in the environment that the project is served from."""
    subprocess.run(
        [PYTHON, "-m", "django", *words, f"--pythonpath={SITES}"],
        check=True,
        cwd=files,
        env={
            **os.environ,
            **sources(),
            "DJANGO_SETTINGS_MODULE": settings,
            "DJANGO_SUPERUSER_PASSWORD": PASSWORD,
            "SITE_FILES": str(files),
        },
    )


def prepared(settings: str, files: Path) -> dict[str, str]:
    """Make the project's database, with a superuser; its ``environ`` for serving."""
    manage(settings, files, "migrate", "--run-syncdb", "--verbosity=0")
    superuser = (f"--username={SUPERUSER}", f"--email={SUPERUSER}@shop.example")
    manage(settings, files, "createsuperuser", "--noinput", "--verbosity=0", *superuser)
    return {"DJANGO_SETTINGS_MODULE": settings}
