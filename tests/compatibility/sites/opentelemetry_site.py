"""OpenTelemetry as its documentation sets it up: spans go in batches to a collector."""

from __future__ import annotations

import os

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

provider = TracerProvider(resource=Resource.create({"service.name": "site"}))
exporter = OTLPSpanExporter(endpoint=os.environ["SITE_COLLECTOR"] + "/v1/traces")
# Hours apart: only what is sent at the end of the process is sent before.
delay_ms = int(os.environ.get("SITE_DELAY_MS", "50"))
provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=delay_ms))
trace.set_tracer_provider(provider)
tracer = trace.get_tracer("site")


async def site(scope, receive, send):
    if scope["type"] == "lifespan":
        raise RuntimeError("no lifespan here")
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})
        return
    if scope["path"] == "/crash":
        raise ZeroDivisionError("crash in a span")
    status = 404 if scope["path"] == "/none" else 200
    with tracer.start_as_current_span("work") as span:
        span.set_attribute("pid", os.getpid())
        trace_id = f"{span.get_span_context().trace_id:032x}"
    headers = [(b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": trace_id.encode()})


app = OpenTelemetryMiddleware(site, http_capture_headers_server_request=["x-own"])
