"""Applications for the WebSocket tests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from asgi_worker.application import Message, Receive, Scope, Send

ACCEPT: Message = {"type": "websocket.accept"}
Act = Callable[[Receive, Send], Awaitable[None]]


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    assert (await receive()) == {"type": "websocket.connect"}
    await send(ACCEPT)
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})


def sends(*messages: Message) -> Any:
    """An application that sends ``messages``, then returns."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    return app


class Noted:
    """An application that does ``act`` and notes what it gets and how it ends."""

    def __init__(self, act: Act | None = None) -> None:
        self.act = act or self.listen
        self.scope: Scope = {}
        self.got: list[Message] = []
        self.error: BaseException | None = None
        self.ended = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope

        async def noting() -> Message:
            message = await receive()
            self.got.append(message)
            return message

        try:
            await self.act(noting, send)
        except BaseException as error:
            self.error = error
            raise
        finally:
            self.ended = True

    @staticmethod
    async def listen(receive: Receive, send: Send) -> None:
        """Accept, then take what comes until the connection has ended."""
        await receive()
        await send(ACCEPT)
        while (await receive())["type"] != "websocket.disconnect":
            pass


def disconnect(code: int, reason: str = "") -> Message:
    return {"type": "websocket.disconnect", "code": code, "reason": reason}
