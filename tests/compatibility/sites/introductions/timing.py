"""The first middleware of every introduction: how long did it take?"""

import time

from starlette.responses import PlainTextResponse


class TimingMiddleware:
    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        start_time = time.time()
        await self.app(scope, receive, send)
        duration = time.time() - start_time
        print(f"{scope['type']} took {duration:.6f} seconds", flush=True)


class HeaderMiddleware:
    """The same, told to the client."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start_time = time.perf_counter()

        async def send_with_time(message):
            if message["type"] == "http.response.start":
                took = f"{time.perf_counter() - start_time:.6f}"
                message["headers"].append((b"x-process-time", took.encode()))
            await send(message)

        await self.app(scope, receive, send_with_time)


def timing(app):
    async def asgi(scope, receive, send):
        start_time = time.monotonic()
        await app(scope, receive, send)
        print(f"closure took {time.monotonic() - start_time:.6f} seconds", flush=True)

    return asgi


async def hello(scope, receive, send):
    assert scope["type"] == "http"
    response = PlainTextResponse("Hello")
    await response(scope, receive, send)


app = TimingMiddleware(hello)
headers = HeaderMiddleware(TimingMiddleware(hello))
closure = timing(timing(hello))
