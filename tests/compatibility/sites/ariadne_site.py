"""A GraphQL site with Ariadne, written as for any server: nothing in it knows ours."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import socket
from collections.abc import AsyncIterator
from typing import Any

from ariadne import (
    MutationType,
    QueryType,
    SubscriptionType,
    make_executable_schema,
    upload_scalar,
)
from ariadne.asgi import GraphQL
from ariadne.asgi.handlers import GraphQLTransportWSHandler, GraphQLWSHandler
from starlette.applications import Starlette
from starlette.routing import Mount

SCHEMA = """
type Query {
  hello(name: String!): String!
  process: Int!
  books: [Book!]!
  crash: String
}
type Mutation {
  addBook(title: String!, pages: Int!): Book!
  upload(file: Upload!): File!
}
type Subscription {
  countdown(start: Int!): Int!
  ticks(witness: String!): Int!
  crash: Int!
}
type Book { number: Int! title: String! pages: Int! }
type File { name: String! size: Int! sha256: String! }
scalar Upload
"""
BOOKS: list[dict[str, Any]] = [
    {"number": 1, "title": "Faust", "pages": 136},
    {"number": 2, "title": "Momo", "pages": 304},
]


def tell(where: str, word: str) -> None:
    """Tell the test what happened here, on the datagram socket that it listens to."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(word.encode(), where)


class OurMistakes(logging.Filter):
    """Of the errors that Ariadne logs those that are not the client's."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return getattr(error, "original_error", None) is not None


logging.getLogger("ariadne").addFilter(OurMistakes())
query = QueryType()
mutation = MutationType()
subscription = SubscriptionType()


@query.field("hello")
async def hello(_: Any, info: Any, name: str) -> str:
    await asyncio.sleep(0)
    return f"Hello, {name}!"


@query.field("process")
def process(_: Any, info: Any) -> int:
    return os.getpid()


@query.field("books")
def books(_: Any, info: Any) -> list[dict[str, Any]]:
    return BOOKS


@query.field("crash")
async def crash(_: Any, info: Any) -> str:
    raise ZeroDivisionError("crash in a resolver")


@mutation.field("addBook")
def add_book(_: Any, info: Any, title: str, pages: int) -> dict[str, Any]:
    return {"number": len(BOOKS) + 1, "title": title, "pages": pages}


@mutation.field("upload")
async def upload(_: Any, info: Any, file: Any) -> dict[str, Any]:
    content = await file.read()
    sha256 = hashlib.sha256(content).hexdigest()
    return {"name": file.filename, "size": len(content), "sha256": sha256}


@subscription.source("countdown")
async def countdown_source(_: Any, info: Any, start: int) -> AsyncIterator[int]:
    for number in range(start, -1, -1):
        await asyncio.sleep(0)
        yield number


@subscription.source("ticks")
async def ticks_source(_: Any, info: Any, witness: str) -> AsyncIterator[int]:
    try:
        number = 0
        while True:
            yield number
            number += 1
            await asyncio.sleep(0.02)
    finally:
        tell(witness, "no more ticks")


@subscription.source("crash")
async def crash_source(_: Any, info: Any) -> AsyncIterator[int]:
    yield 1
    raise ZeroDivisionError("crash in a subscription")


@subscription.field("countdown")
@subscription.field("ticks")
@subscription.field("crash")
def number_itself(number: int, info: Any, **_: Any) -> int:
    return number


def context(request: Any, _: Any = None) -> dict[str, Any]:
    if "x-crash" in request.headers:
        raise ZeroDivisionError("crash before the query")
    return {"request": request}


schema = make_executable_schema(SCHEMA, [query, mutation, subscription, upload_scalar])
app = Starlette(
    routes=[
        Mount(
            "/legacy",
            GraphQL(schema, context_value=context, websocket_handler=GraphQLWSHandler()),
        ),
        Mount(
            "/graphql",
            GraphQL(schema, context_value=context, websocket_handler=GraphQLTransportWSHandler()),
        ),
    ]
)
