"""The project as an ASGI application: views, HTTP consumers and WebSocket consumers."""

from __future__ import annotations

from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.core.asgi import get_asgi_application
from django.urls import path, re_path

views = get_asgi_application()  # sets Django up, so the consumers can be imported

from channels_site import consumers  # noqa: E402

sockets = URLRouter(
    [
        path("ws/echo/", consumers.Echo.as_asgi()),
        path("ws/echo-async/", consumers.AsyncEcho.as_asgi()),
        path("ws/room/<str:room>/", consumers.Room.as_asgi()),
        re_path(r"^ws/lobby/(?P<seat>\d+)/$", consumers.Lobby.as_asgi(greeting="welcome")),
        path("ws/members/", consumers.Members.as_asgi()),
        path("ws/refused/", consumers.Refused.as_asgi()),
    ]
)
pages = URLRouter(
    [
        path("live/digest/", consumers.Digest.as_asgi()),
        path("live/news/<str:room>/", AuthMiddlewareStack(consumers.News.as_asgi())),
        path("live/crash/", consumers.Crash.as_asgi()),
        re_path("", views),
    ]
)
application = ProtocolTypeRouter(
    {
        "http": pages,
        "websocket": AllowedHostsOriginValidator(AuthMiddlewareStack(sockets)),
    }
)
