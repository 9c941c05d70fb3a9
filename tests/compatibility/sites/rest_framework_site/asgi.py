"""The project as an ASGI application, with the static files of the browsable API."""

from __future__ import annotations

from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.contrib.staticfiles.views import serve
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponseBase


class StaticFiles(ASGIStaticFilesHandler):
    """Serves static files though DEBUG is off, as a small site without a proxy does."""

    def serve(self, request: HttpRequest) -> HttpResponseBase:
        return serve(request, self.file_path(request.path), insecure=True)


application = StaticFiles(get_asgi_application())
