"""Addresses of the views."""

from __future__ import annotations

from django.urls import path

from channels_site import views

urlpatterns = [
    path("enter/", views.enter),
    path("leave/", views.leave),
    path("who/", views.who),
    path("announce/<str:room>/", views.announce),
    path("crash/", views.crash),
]
