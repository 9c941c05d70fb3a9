"""A GraphQL site with tartiflette-asgi, written as for any server: nothing in it knows ours."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from typing import Any

from tartiflette import Resolver, Subscription
from tartiflette_asgi import GraphiQL, Subscriptions, TartifletteApp

SCHEMA = """
type Query {
  hello(name: String!): String!
  process: Int!
  books: [Book!]!
  address: String!
  crash: String
}
type Mutation { addBook(title: String!, pages: Int!): Book! }
type Subscription {
  countdown(start: Int!): Int!
  ticks(witness: String!): Int!
  crash: Int!
}
type Book { number: Int! title: String! pages: Int! }
"""
BOOKS: list[dict[str, Any]] = [
    {"number": 1, "title": "Faust", "pages": 136},
    {"number": 2, "title": "Momo", "pages": 304},
]


def tell(where: str, word: str) -> None:
    """Tell the test what happened here, on the datagram socket that it listens to."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(word.encode(), where)


@Resolver("Query.hello")
async def hello(parent: Any, args: Any, context: Any, info: Any) -> str:
    await asyncio.sleep(0)
    return f"Hello, {args['name']}!"


@Resolver("Query.process")
async def process(parent: Any, args: Any, context: Any, info: Any) -> int:
    return os.getpid()


@Resolver("Query.books")
async def books(parent: Any, args: Any, context: Any, info: Any) -> list[dict[str, Any]]:
    return BOOKS


@Resolver("Query.address")
async def address(parent: Any, args: Any, context: Any, info: Any) -> str:
    return f"{context['shop']}: {context['req'].url}"


@Resolver("Query.crash")
async def crash(parent: Any, args: Any, context: Any, info: Any) -> str:
    raise ZeroDivisionError("crash in a resolver")


@Resolver("Mutation.addBook")
async def add_book(parent: Any, args: Any, context: Any, info: Any) -> dict[str, Any]:
    return {"number": len(BOOKS) + 1, **args}


@Subscription("Subscription.countdown")
async def countdown(parent: Any, args: Any, context: Any, info: Any) -> AsyncIterator[Any]:
    for number in range(args["start"], -1, -1):
        await asyncio.sleep(0)
        yield {"countdown": number}


@Subscription("Subscription.ticks")
async def ticks(parent: Any, args: Any, context: Any, info: Any) -> AsyncIterator[Any]:
    try:
        number = 0
        while True:
            yield {"ticks": number}
            number += 1
            await asyncio.sleep(0.02)
    finally:
        tell(args["witness"], "no more ticks")


@Subscription("Subscription.crash")
async def crash_later(parent: Any, args: Any, context: Any, info: Any) -> AsyncIterator[Any]:
    yield {"crash": 1}
    raise ZeroDivisionError("crash in a subscription")


app = TartifletteApp(
    sdl=SCHEMA,
    path="/graphql",
    graphiql=GraphiQL(path="/page"),
    subscriptions=Subscriptions(path="/subscriptions"),
    context={"shop": "books"},
)
