"""The project as a WSGI application, with its static files."""

# mypy: disable-error-code="import-untyped,misc"
# Django brings no types.

from __future__ import annotations

from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.contrib.staticfiles.views import serve
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponseBase


class StaticFiles(StaticFilesHandler):
    """Serves static files though DEBUG is off, as a small site without a proxy does."""

    def serve(self, request: HttpRequest) -> HttpResponseBase:
        return serve(request, self.file_path(request.path), insecure=True)


application = StaticFiles(get_wsgi_application())
