"""An application whose requests cost what their path says; each is answered with the worker's PID.

`/burn/MS` uses so many milliseconds of processor time, as templates, JSON or a model do: the event
loop does nothing else meanwhile. It is counted by the clock of the thread, so that a request costs
the same when somebody else uses the machine. `/block/S` waits for so many seconds without letting
the loop go on, as a forgotten blocking call does.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


async def app(scope: Message, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
        await _lifespan(receive, send)
        return
    _, verb, amount = scope["path"].split("/")
    if verb == "burn":
        until = time.thread_time() + float(amount) / 1000
        while time.thread_time() < until:
            pass
    else:
        time.sleep(float(amount))  # noqa: ASYNC251 – that is what is measured
    body = b"%d" % os.getpid()
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
