"""The application of a fleet: FastAPI as it is used, with models, routers and a dependency.

What it holds in memory is what most applications hold: a framework, its validators, some tables.
Each process says in its lifespan that it is ready: a line in the pipe ``started``, if there is one
where it runs.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import enum
import os
import time
import uuid
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Query
from pydantic import BaseModel, Field, HttpUrl

STARTED = Path("started")


class Category(enum.StrEnum):
    GARDEN = "garden"
    KITCHEN = "kitchen"
    OFFICE = "office"


class Article(BaseModel):
    number: int = Field(ge=1)
    name: str = Field(min_length=1, max_length=80)
    category: Category
    price: Decimal = Field(gt=0, decimal_places=2)
    tags: set[str] = set()
    picture: HttpUrl | None = None
    since: dt.datetime


class Address(BaseModel):
    street: str
    town: str
    country: Literal["DE", "FR", "NL", "PL"]


class Customer(BaseModel):
    name: str
    mail: str = Field(pattern=r"^[^@\s]+@[^@\s]+$")
    addresses: list[Address] = Field(default=[], max_length=5)


class Position(BaseModel):
    article: int
    amount: int = Field(default=1, ge=1, le=100)


class Order(BaseModel):
    customer: Customer
    positions: list[Position] = Field(min_length=1)
    note: str | None = None


class Receipt(BaseModel):
    order: uuid.UUID
    total: Decimal
    positions: list[Position]
    taken: dt.datetime


class Page(BaseModel):
    articles: list[Article]
    more: bool


_SINCE = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
CATALOGUE = {
    number: Article(
        number=number,
        name=f"article {number}",
        category=list(Category)[number % 3],
        price=Decimal(number * 199 % 10_000 + 1) / 100,
        tags={f"tag {number % 7}", f"tag {number % 5}"},
        since=_SINCE + dt.timedelta(hours=number),
    )
    for number in range(1, 501)
}


def visitor(authorization: Annotated[str | None, Header()] = None) -> str:
    return (authorization or "").removeprefix("Bearer ") or "somebody"


Visitor = Annotated[str, Depends(visitor)]
articles = APIRouter(prefix="/articles", tags=["articles"])
orders = APIRouter(prefix="/orders", tags=["orders"])


@articles.get("/")
async def some(
    category: Category | None = None,
    offset: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1, le=50)] = 20,
) -> Page:
    found = [one for one in CATALOGUE.values() if category in {None, one.category}]
    return Page(articles=found[offset : offset + limit], more=len(found) > offset + limit)


@articles.get("/{number}")
async def one(number: int, who: Visitor) -> Article:
    if number not in CATALOGUE:
        raise HTTPException(404, f"{who}, there is no article {number}")
    return CATALOGUE[number]


@orders.post("/", status_code=201)
async def order(order: Order, who: Visitor) -> Receipt:
    total = sum((CATALOGUE[one.article].price * one.amount for one in order.positions), Decimal())
    taken = dt.datetime.now(dt.UTC)
    return Receipt(order=uuid.uuid4(), total=total, positions=order.positions, taken=taken)


@orders.get("/count")
def count() -> dict[str, int]:
    """Not ``async``: runs in a thread."""
    return {"orders": 0}


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    with contextlib.suppress(OSError):  # nobody wants to know
        pipe = os.open(STARTED, os.O_WRONLY | os.O_NONBLOCK)
        os.write(pipe, b"%d %d\n" % (os.getpid(), time.monotonic_ns()))
        os.close(pipe)
    yield


app = FastAPI(title="Shop", lifespan=lifespan)
app.include_router(articles)
app.include_router(orders)


@app.get("/pid")
async def pid() -> int:
    return os.getpid()
