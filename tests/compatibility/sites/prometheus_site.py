"""Metrics of all workers together: prometheus_client in its multi-process mode."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter, Gauge, make_asgi_app
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_fastapi_instrumentator import Instrumentator
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette_exporter import PrometheusMiddleware, handle_metrics

hits = Counter("site_hits", "Requests for /", ["kind"])
here = Gauge("site_here", "Workers that run", multiprocess_mode="livesum")


def forget_dead_workers():
    """Remove what killed workers left: nobody else is told of their death."""
    for file in Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).glob("gauge_live*_*.db"):
        pid = int(file.stem.rpartition("_")[2])
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            mark_process_dead(pid)


@contextlib.asynccontextmanager
async def lifespan(app):
    forget_dead_workers()
    here.set(1)
    yield
    mark_process_dead(os.getpid())


app = FastAPI(lifespan=lifespan)
app.add_middleware(PrometheusMiddleware, app_name="site")
app.add_route("/starlette-metrics", handle_metrics)
Instrumentator().instrument(app).expose(app, endpoint="/fastapi-metrics")

registry = CollectorRegistry(support_collectors_without_names=True)
MultiProcessCollector(registry)
app.mount("/metrics", make_asgi_app(registry))


@app.get("/", response_class=PlainTextResponse)
async def home(kind: str = "plain"):
    hits.labels(kind).inc()
    return str(os.getpid())


@app.get("/stream")
async def stream():
    return StreamingResponse(iter([b"piece"] * 100))


@app.get("/crash")
async def crash():
    raise ZeroDivisionError("crash that is counted")


@app.get("/die")
async def die():
    os.kill(os.getpid(), signal.SIGKILL)
