"""Addresses of the project."""

# mypy: disable-error-code="import-untyped"
# Django brings no types.

from __future__ import annotations

from django.contrib import admin
from django.urls import path

from django_site import views

urlpatterns = [
    path("admin/", admin.site.urls),
    path("", views.home),
    path("sync/", views.sync),
    path("items/<int:number>/", views.item, name="item"),
    path("json/", views.echo_json),
    path("form/", views.form),
    path("upload/", views.upload),
    path("raw/", views.raw),
    path("stream/", views.stream),
    path("stream-sync/", views.stream_sync),
    path("events/", views.events),
    path("gate/", views.gate),
    path("file/", views.file),
    path("visits/", views.visits),
    path("users/", views.users),
    path("long-text/", views.long_text),
    path("wait/", views.wait),
    path("crash/", views.crash),
    path("crash-sync/", views.crash_sync),
]
