"""A GraphQL site with Strawberry, written as for any server: nothing in it knows ours."""

import asyncio
import hashlib
import os
import socket
from collections.abc import AsyncGenerator
from typing import Any

import strawberry
from starlette.applications import Starlette
from starlette.routing import Mount
from strawberry.asgi import GraphQL
from strawberry.file_uploads import Upload


def tell(where: str, word: str) -> None:
    """Tell the test what happened here, on the datagram socket that it listens to."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(word.encode(), where)


@strawberry.type
class Book:
    number: int
    title: str
    pages: int


@strawberry.type
class File:
    name: str
    size: int
    sha256: str


BOOKS = [Book(number=1, title="Faust", pages=136), Book(number=2, title="Momo", pages=304)]


@strawberry.type
class Query:
    @strawberry.field
    async def hello(self, name: str) -> str:
        await asyncio.sleep(0)
        return f"Hello, {name}!"

    @strawberry.field
    def process(self) -> int:
        return os.getpid()

    @strawberry.field
    def books(self) -> list[Book]:
        return BOOKS

    @strawberry.field
    async def crash(self) -> str | None:
        raise ZeroDivisionError("crash in a resolver")


@strawberry.type
class Mutation:
    @strawberry.mutation
    def add_book(self, title: str, pages: int) -> Book:
        return Book(number=len(BOOKS) + 1, title=title, pages=pages)

    @strawberry.mutation
    async def upload(self, file: Upload) -> File:
        content = await file.read()
        sha256 = hashlib.sha256(content).hexdigest()
        return File(name=file.filename, size=len(content), sha256=sha256)


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def countdown(self, start: int) -> AsyncGenerator[int, None]:
        for number in range(start, -1, -1):
            await asyncio.sleep(0)
            yield number

    @strawberry.subscription
    async def ticks(self, witness: str) -> AsyncGenerator[int, None]:
        try:
            number = 0
            while True:
                yield number
                number += 1
                await asyncio.sleep(0.02)
        finally:
            tell(witness, "no more ticks")

    @strawberry.subscription
    async def crash(self) -> AsyncGenerator[int, None]:
        yield 1
        raise ZeroDivisionError("crash in a subscription")


class Site(GraphQL):
    async def get_context(self, request: Any, response: Any) -> dict[str, Any]:
        if "x-crash" in request.headers:
            raise ZeroDivisionError("crash before the query")
        return {"request": request, "response": response}


schema = strawberry.Schema(query=Query, mutation=Mutation, subscription=Subscription)
app = Starlette(routes=[Mount("/graphql", Site(schema, multipart_uploads_enabled=True))])
