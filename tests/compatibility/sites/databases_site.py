"""Notes in an SQLite file: databases asks, typesystem validates."""

from __future__ import annotations

import asyncio
import contextlib
import os

import sqlalchemy
import typesystem
from databases import Database
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

database = Database(f"sqlite+aiosqlite:///{os.environ['SITE_DATABASE']}", timeout=30)
metadata = sqlalchemy.MetaData()
notes = sqlalchemy.Table(
    "notes",
    metadata,
    sqlalchemy.Column("id", sqlalchemy.Integer, primary_key=True),
    sqlalchemy.Column("text", sqlalchemy.String(100), nullable=False),
    sqlalchemy.Column("done", sqlalchemy.Boolean, nullable=False),
)
note_schema = typesystem.Schema(
    fields={
        "text": typesystem.String(max_length=100),
        "done": typesystem.Boolean(default=False),
    }
)


@contextlib.asynccontextmanager
async def lifespan(app):
    await database.connect()
    await database.execute(
        "CREATE TABLE IF NOT EXISTS notes "
        "(id INTEGER PRIMARY KEY, text VARCHAR(100) NOT NULL, done BOOLEAN NOT NULL)"
    )
    yield
    await database.disconnect()


async def add(request):
    note, error = note_schema.validate_or_error(await request.json())
    if error:
        return JSONResponse(dict(error), 400)
    number = await database.execute(notes.insert().values(**note))
    return JSONResponse({"id": number}, 201)


async def every(request):
    query = notes.select().order_by(notes.c.id)
    if text := request.query_params.get("text"):
        query = query.where(notes.c.text == text)
    rows = await database.fetch_all(query)
    return JSONResponse([dict(row._mapping) for row in rows])


async def stream(request):
    found = [row["id"] async for row in database.iterate("SELECT id FROM notes ORDER BY id")]
    return JSONResponse(found)


async def together(request):
    """Two notes or none."""
    try:
        async with database.transaction():
            await database.execute(notes.insert().values(text="half", done=False))
            if "fail" in request.query_params:
                raise ZeroDivisionError
            await database.execute(notes.insert().values(text="other half", done=False))
    except ZeroDivisionError:
        return JSONResponse({}, 409)
    return JSONResponse({}, 201)


async def at_once(request):
    async def count():
        return await database.fetch_val("SELECT COUNT(*) FROM notes")

    return JSONResponse(sorted(set(await asyncio.gather(*(count() for _ in range(20))))))


app = Starlette(
    lifespan=lifespan,
    routes=[
        Route("/notes", add, methods=["POST"]),
        Route("/notes", every),
        Route("/stream", stream),
        Route("/together", together, methods=["POST"]),
        Route("/at-once", at_once),
    ],
)
