"""A WSGI application, threads and thread-locals as asgiref offers them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from asgiref.compatibility import guarantee_single_callable, is_double_callable
from asgiref.local import Local
from asgiref.sync import ThreadSensitiveContext, async_to_sync, sync_to_async
from asgiref.wsgi import WsgiToAsgi

local = Local()


def thread_name():
    return threading.current_thread().name


def wsgi(environ, start_response):
    """A WSGI application that knows nothing of ASGI."""
    path = environ["PATH_INFO"]
    if path == "/crash":
        raise ZeroDivisionError("crash in WSGI")
    if path == "/digest":
        body = environ["wsgi.input"].read()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [hashlib.sha256(body).hexdigest().encode()]
    if path == "/pieces":
        start_response("200 OK", [("Content-Type", "text/plain"), ("Set-Cookie", "a=1")])
        return (f"{number}\n".encode() for number in range(100))
    if path == "/wait":
        time.sleep(0.2)
        start_response("200 OK", [])
        return [thread_name().encode()]
    facts = {
        "method": environ["REQUEST_METHOD"],
        "script": environ["SCRIPT_NAME"],
        "path": path,
        "query": environ["QUERY_STRING"],
        "protocol": environ["SERVER_PROTOCOL"],
        "client": environ["REMOTE_ADDR"],
        "scheme": environ["wsgi.url_scheme"],
        "header": environ.get("HTTP_X_OWN"),
        "type": environ.get("CONTENT_TYPE"),
    }
    body = json.dumps(facts).encode()
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    start_response("203 Non-Authoritative", headers)
    return [body]


class Double:
    """An application of ASGI 2."""

    def __init__(self, scope):
        self.path = scope["path"]

    async def __call__(self, receive, send):
        await answer(send, {"double": self.path})


async def answer(send, value):
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(value).encode()})


async def threads(scope):
    """Where work runs: one thread for what is sensitive, many for what is not."""
    sensitive = {await sync_to_async(thread_name)() for _ in range(5)}
    async with ThreadSensitiveContext():
        own = {await sync_to_async(thread_name)() for _ in range(5)}
    barrier = threading.Barrier(3)

    def meet():
        barrier.wait(20)
        return thread_name()

    free = sync_to_async(meet, thread_sensitive=False)
    met = set(await asyncio.gather(free(), free(), free()))
    with ThreadPoolExecutor(1, "own-pool") as pool:
        pooled = await sync_to_async(thread_name, thread_sensitive=False, executor=pool)()
    return {
        "sensitive": len(sensitive),
        "same": sensitive == own,
        "met": len(met),
        "pooled": pooled,
        "main": thread_name() in sensitive | own | met,
    }


async def nested(scope):
    """From the loop to a thread and back to the loop, twice."""
    loop_thread = threading.get_ident()

    async def innermost():
        await asyncio.sleep(0.001)
        return threading.get_ident() == loop_thread

    def middle():
        return async_to_sync(innermost)()

    async def outer():
        return await sync_to_async(middle)()

    return {"on the loop": await sync_to_async(async_to_sync(outer))()}


async def from_a_thread(scope):
    """async_to_sync in a thread that asgiref does not know: on a loop of its own."""

    async def work():
        await asyncio.sleep(0.001)
        return type(asyncio.get_running_loop()).__module__.partition(".")[0]

    return {"loop": await asyncio.to_thread(async_to_sync(work))}


async def locals_of_requests(scope):
    """What is set here is seen in threads of this request, and by no other request."""
    before = getattr(local, "mark", None)
    local.mark = scope["query_string"].decode()
    await asyncio.sleep(0.02)

    def look():
        seen = local.mark
        local.from_thread = f"{seen} again"
        return seen

    return {
        "before": before,
        "thread": await sync_to_async(look)(),
        "back": local.from_thread,
        "own": local.mark,
    }


async def raises(scope):
    def work():
        raise ZeroDivisionError("crash in a thread")

    await sync_to_async(work)()


async def where(scope):
    return {"pid": os.getpid(), "double": is_double_callable(Double)}


PAGES = {
    "/threads": threads,
    "/nested": nested,
    "/from-a-thread": from_a_thread,
    "/locals": locals_of_requests,
    "/raises": raises,
    "/where": where,
}
wrapped = WsgiToAsgi(wsgi)
single = guarantee_single_callable(Double)


async def app(scope, receive, send):
    if scope["type"] != "http":
        raise ValueError(f"no {scope['type']} here")
    path = scope["path"]
    if path.startswith("/wsgi/"):
        await wrapped(dict(scope, root_path="/wsgi"), receive, send)
    elif path == "/double":
        await single(scope, receive, send)
    else:
        await answer(send, await PAGES[path](scope))
