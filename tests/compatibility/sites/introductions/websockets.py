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
