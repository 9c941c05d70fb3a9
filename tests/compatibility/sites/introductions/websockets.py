"""WebSocket echoes, as short as they are shown."""


async def app(scope, receive, send):
    """It accepts at once, and never asks for ``websocket.connect``."""
    assert scope["type"] == "websocket"
    await send({"type": "websocket.accept"})
    while True:
        event = await receive()
        if event["type"] == "websocket.disconnect":
            break
        if event["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": event["text"]})


async def unasserted(scope, receive, send):
    """It does not even look at the type of the scope."""
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": "welcome"})
    event = await receive()
    while event["type"] != "websocket.disconnect":
        if "text" in event:
            await send({"type": "websocket.send", "text": event["text"]})
        event = await receive()


async def looping(scope, receive, send):
    """It takes every event as it comes, those of lifespan too, and answers none of these."""
    while True:
        event = await receive()
        if event["type"] == "websocket.connect":
            await send({"type": "websocket.accept"})
        elif event["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": event["text"]})
        elif event["type"] == "websocket.disconnect":
            break


class EchoServer:
    """ASGI 2, as its introduction has it."""

    def __init__(self, scope):
        self.scope = scope

    async def __call__(self, receive, send):
        event = await receive()
        assert event["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        while True:
            event = await receive()
            if event["type"] == "websocket.disconnect":
                return
            await send({"type": "websocket.send", "text": event["text"]})


# What goes wrong first; the path chooses one.


async def no_accept(scope, receive, send):
    await receive()
    await send({"type": "websocket.send", "text": "hello"})


async def forgotten_await(scope, receive, send):
    send({"type": "websocket.accept"})


async def http_kind(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})


async def no_type(scope, receive, send):
    await send({"text": "hello"})


async def accepted_twice(scope, receive, send):
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.accept"})


async def number_for_text(scope, receive, send):
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": 5})


async def nothing_sent(scope, receive, send):
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send"})


async def mistaken(scope, receive, send):
    assert scope["type"] == "websocket"
    await globals()[scope["path"][1:]](scope, receive, send)
