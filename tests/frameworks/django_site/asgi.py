"""The project as an ASGI application, with its static files."""

from __future__ import annotations

import os

from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.frameworks.django_site.settings")


class Static(ASGIStaticFilesHandler):  # type: ignore[misc]
    """Serves static files though DEBUG is off, as a small site without a proxy does."""

    def serve(self, request):  # type: ignore[no-untyped-def]  # noqa: ANN
        from django.contrib.staticfiles.views import serve

        return serve(request, self.file_path(request.path), insecure=True)


application = Static(get_asgi_application())
