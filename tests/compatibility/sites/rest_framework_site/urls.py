"""Addresses of the project."""

from __future__ import annotations

from django.urls import include, path
from rest_framework.authtoken.views import obtain_auth_token
from rest_framework.routers import DefaultRouter

from rest_framework_site import views

router = DefaultRouter()
router.register("books", views.BookViewSet)
router.register("shelves", views.ShelfViewSet)

urlpatterns = [
    path("api/feed/", views.BookFeed.as_view()),
    path("api/enquire/", views.enquire),
    path("api/digest/", views.digest),
    path("api/who/", views.who),
    path("api/export/", views.export),
    path("api/order/", views.order),
    path("api/crash/", views.crash),
    path("api/token/", obtain_auth_token),
    path("api/login/", include("rest_framework.urls")),
    path("api/", include(router.urls)),
]
