"""Requests as bytes, and applications that answer them."""

from __future__ import annotations

import json

from asgi_worker.application import Receive, Scope, Send

MIB = 1024 * 1024
GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"


async def respond(send: Send, data: bytes, status: int = 200) -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": data})


async def read_body(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        assert message["type"] == "http.request"
        parts.append(message["body"])
        if not message["more_body"]:
            return b"".join(parts)


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    await respond(send, await read_body(receive))


async def tell(scope: Scope, receive: Receive, send: Send) -> None:
    """The scope as JSON."""
    told = {
        key: value
        for key, value in scope.items()
        if key not in ("client", "state", "extensions", "asgi")
    }
    await respond(send, json.dumps(told, default=lambda one: one.decode("latin-1")).encode())


def post(data: bytes, *lines: str) -> bytes:
    head = ("POST / HTTP/1.1", "Host: test", f"Content-Length: {len(data)}", *lines, "", "")
    return "\r\n".join(head).encode() + data


def chunked(*pieces: bytes) -> bytes:
    head = b"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"
    return (
        head + b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in pieces if one) + b"0\r\n\r\n"
    )
