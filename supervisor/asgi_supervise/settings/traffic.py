"""The settings of what clients may do: limits, WebSockets, proxies and header fields.

A part of :class:`asgi_supervise.settings.schema.Settings`, which has these fields as its own.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from asgi_supervise.settings.entry import LIMITS, PROXIES, WEBSOCKETS, Setting
from asgi_supervise.settings.values import FLAG, HEADERS, NETWORKS, duration, integer, size


class TrafficStruct(msgspec.Struct, frozen=True, kw_only=True):
    """What every connection is held to; durations are seconds, sizes bytes, ``None`` means off."""

    limit_concurrency: Annotated[
        int | None,
        Setting(
            LIMITS,
            integer(1, off=True),
            "Answer 503 when a worker has this many connections or requests.",
        ),
    ] = None
    head_max_bytes: Annotated[
        int, Setting(LIMITS, size(256), "Largest request head; more is answered 431.")
    ] = 64 * 1024
    head_max_fields: Annotated[
        int,
        Setting(
            LIMITS,
            integer(1),
            "Most header fields of a request; more is answered 431.",
            flags=("--limit-request-fields",),
        ),
    ] = 100
    body_max_bytes: Annotated[
        int | None,
        Setting(LIMITS, size(0, off=True), "Largest request body; more is answered 413."),
    ] = None
    pipeline_max_requests: Annotated[
        int, Setting(LIMITS, integer(1), "Requests of one connection that may wait for their turn.")
    ] = 16
    wsgi_threads: Annotated[
        int,
        Setting(
            LIMITS,
            integer(1),
            "Requests of a WSGI application that a worker runs at a time; more wait.",
            flags=("--threads",),
        ),
    ] = 10

    ws_max_bytes: Annotated[
        int,
        Setting(
            WEBSOCKETS,
            size(1),
            "Largest message; more closes with 1009.",
            flags=("--websocket-max-message-size",),
        ),
    ] = 16 * 1024 * 1024
    ws_max_queue: Annotated[
        int, Setting(WEBSOCKETS, integer(1), "Messages that may wait for the application.")
    ] = 32
    ws_ping_interval_s: Annotated[
        float | None,
        Setting(
            WEBSOCKETS,
            duration(off=True),
            "Time between pings.",
            flags=("--websocket-ping-interval",),
        ),
    ] = 20.0
    ws_ping_timeout_s: Annotated[
        float | None,
        Setting(WEBSOCKETS, duration(off=True), "A ping must be answered within this time."),
    ] = 20.0
    ws_per_message_deflate: Annotated[
        bool, Setting(WEBSOCKETS, FLAG, "Compress messages when the client offers it.")
    ] = True

    proxy_headers: Annotated[
        bool,
        Setting(PROXIES, FLAG, "Believe X-Forwarded-* and Forwarded fields of trusted proxies."),
    ] = True
    forwarded_allow_ips: Annotated[
        tuple[str, ...],
        Setting(
            PROXIES,
            NETWORKS,
            "Trusted proxies: addresses, networks or *, separated by commas.",
            variables=("FORWARDED_ALLOW_IPS",),
        ),
    ] = ("127.0.0.1", "::1")
    server_header: Annotated[bool, Setting(PROXIES, FLAG, "Send a Server field.")] = True
    date_header: Annotated[bool, Setting(PROXIES, FLAG, "Send a Date field.")] = True
    headers: Annotated[
        tuple[tuple[str, str], ...],
        Setting(
            PROXIES,
            HEADERS,
            "A field added to every response. May be given more than once.",
            word="header",
            default="none",
            example='["X-Frame-Options: DENY"]',
        ),
    ] = ()
