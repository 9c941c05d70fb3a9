"""An application for AWS Lambda that is served from a machine, too: both names in one module."""

from __future__ import annotations

import asyncio
import json

from mangum import Mangum


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while (await receive())["type"] == "lifespan.startup":
            scope["state"]["started"] = True
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["path"] == "/lambda":
        body = await in_lambda()
    else:
        body = {"path": scope["path"], "aws": "aws.event" in scope, **scope["state"]}
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})


async def in_lambda():
    """Call the handler as Lambda would, in a thread: it runs a loop of its own."""
    event = {
        "version": "2.0",
        "rawPath": "/from/lambda",
        "rawQueryString": "",
        "headers": {},
        "requestContext": {
            "http": {"method": "GET", "path": "/from/lambda", "sourceIp": "203.0.113.9"}
        },
        "isBase64Encoded": False,
    }
    return await asyncio.to_thread(call, event)


def call(event):
    return json.loads(Mangum(app)(event, {})["body"])


handler = Mangum(app)
