"""What many applications are wrapped in, and what they keep from their days with uvicorn."""

from __future__ import annotations

import logging
import logging.config
import os

from asgi_correlation_id import CorrelationIdFilter, CorrelationIdMiddleware, correlation_id
from brotli_asgi import BrotliMiddleware
from servestatic import ServeStaticASGI
from slowapi import Limiter, _rate_limit_exceeded_handler
from slowapi.errors import RateLimitExceeded
from slowapi.util import get_remote_address
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from uvicorn.config import LOGGING_CONFIG
from uvicorn.logging import DefaultFormatter
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

logging.config.dictConfig(LOGGING_CONFIG)  # disables nothing that exists, but owns the loggers
handler = logging.StreamHandler()
handler.addFilter(CorrelationIdFilter(uuid_length=32))
handler.setFormatter(DefaultFormatter("site: %(levelname)s [%(correlation_id)s] %(message)s"))
log = logging.getLogger("site")
log.addHandler(handler)
log.propagate = False
log.setLevel(logging.INFO)

limiter = Limiter(key_func=get_remote_address)


async def home(request):
    log.info("asked for home")
    return JSONResponse(
        {
            "client": request.client.host,
            "url": str(request.url),
            "id": correlation_id.get(),
        }
    )


@limiter.limit("3/hour")
async def limited(request):
    return PlainTextResponse("allowed")


async def long_text(request):
    return PlainTextResponse("All work and no play. " * 1000)


async def stream(request):
    async def body():
        for number in range(200):
            yield f"line {number}\n" * 20

    return StreamingResponse(body(), media_type="text/plain")


async def crash(request):
    raise ZeroDivisionError("crash within all of them")


async def ws(websocket):
    await websocket.accept()
    await websocket.send_json({"client": websocket.client.host, "url": str(websocket.url)})
    await websocket.close()


site = Starlette(
    routes=[
        Route("/", home),
        Route("/limited", limited),
        Route("/long-text", long_text),
        Route("/stream", stream),
        Route("/crash", crash),
        WebSocketRoute("/ws", ws),
    ],
    middleware=[
        Middleware(CorrelationIdMiddleware),
        Middleware(BrotliMiddleware, minimum_size=500),
    ],
    exception_handlers={RateLimitExceeded: _rate_limit_exceeded_handler},
)
site.state.limiter = limiter
app = ServeStaticASGI(site, root=os.environ["SITE_FILES"], prefix="static")
app = ProxyHeadersMiddleware(app, trusted_hosts="127.0.0.1")
