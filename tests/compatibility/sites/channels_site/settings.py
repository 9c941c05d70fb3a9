"""Settings of the project; what differs between runs comes from the environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

FILES = Path(os.environ["SITE_FILES"])

SECRET_KEY = "not a secret"
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1", ".shop.example"]
ROOT_URLCONF = "channels_site.urls"
ASGI_APPLICATION = "channels_site.asgi.application"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "channels",
    "channels_site",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": FILES / "site.sqlite3",
        "OPTIONS": {"timeout": 20, "transaction_mode": "IMMEDIATE"},
    }
}
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # this is a test
CHANNEL_LAYERS: dict[str, dict[str, Any]]
if "SITE_REDIS" in os.environ:
    # Since redis-py 8 reading from Redis times out after 5 s by default, which is how long
    # channels_redis 4.3 has Redis wait for a message: a consumer that is told nothing would end.
    host = {"address": os.environ["SITE_REDIS"], "socket_timeout": None}
    CHANNEL_LAYERS = {
        "default": {"BACKEND": os.environ["SITE_LAYER"], "CONFIG": {"hosts": [host]}},
    }
else:
    CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"stderr": {"class": "logging.StreamHandler"}},
    "loggers": {"django": {"handlers": ["stderr"], "level": "ERROR"}},
}
