"""Shelves and books."""

# ruff: noqa: RUF012 – as the framework wants it

from __future__ import annotations

from django.conf import settings
from django.db import models


class Shelf(models.Model):
    name = models.CharField(max_length=50, unique=True)


class Book(models.Model):
    title = models.CharField(max_length=100)
    pages = models.PositiveIntegerField()
    price = models.DecimalField(max_digits=6, decimal_places=2)
    shelf = models.ForeignKey(Shelf, on_delete=models.CASCADE, related_name="books")
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, null=True)
    cover = models.FileField(upload_to="covers", blank=True)
    added = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["id"]
