"""Notes in an SQLite file, by orm: models over databases and typesystem."""

from __future__ import annotations

import contextlib
import os
import sqlite3

import databases
import orm
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

path = os.environ["SITE_DATABASE"]
database = databases.Database(f"sqlite:///{path}", timeout=30)
models = orm.ModelRegistry(database=database)


class Author(orm.Model):
    tablename = "authors"
    registry = models
    fields = {  # noqa: RUF012 – as orm wants it
        "id": orm.Integer(primary_key=True),
        "name": orm.String(max_length=50, unique=True),
    }


class Note(orm.Model):
    tablename = "notes"
    registry = models
    fields = {  # noqa: RUF012 – as orm wants it
        "id": orm.Integer(primary_key=True),
        "text": orm.String(max_length=100),
        "done": orm.Boolean(default=False),
        "author": orm.ForeignKey(Author),
    }


@contextlib.asynccontextmanager
async def lifespan(app):
    with contextlib.closing(sqlite3.connect(path, timeout=30)) as lock:
        lock.execute("BEGIN EXCLUSIVE")  # one worker at a time looks whether tables are there
        there = lock.execute("SELECT 1 FROM sqlite_master WHERE name = 'notes'").fetchone()
        if not there:
            lock.execute("CREATE TABLE authors (id INTEGER PRIMARY KEY, name VARCHAR(50) UNIQUE)")
            lock.execute(
                "CREATE TABLE notes (id INTEGER PRIMARY KEY, text VARCHAR(100), done BOOLEAN, "
                "author INTEGER REFERENCES authors (id))"
            )
        lock.commit()
    async with database:
        yield


async def add(request):
    data = await request.json()
    author, _ = await Author.objects.get_or_create(name=data.pop("author"), defaults={})
    try:
        note = await Note.objects.create(author=author, **data)
    except orm.fields.typesystem.ValidationError as error:
        return JSONResponse(dict(error), 400)
    return JSONResponse({"id": note.id}, 201)


async def every(request):
    found = Note.objects.select_related("author").order_by("id")
    if name := request.query_params.get("author"):
        found = found.filter(author__name=name)
    return JSONResponse(
        [
            {"id": note.id, "text": note.text, "done": note.done, "author": note.author.name}
            for note in await found.all()
        ]
    )


async def finish(request):
    try:
        note = await Note.objects.get(id=request.path_params["number"])
    except orm.NoMatch:
        return JSONResponse({}, 404)
    await note.update(done=True)
    return JSONResponse({"open": await Note.objects.filter(done=False).count()})


app = Starlette(
    lifespan=lifespan,
    routes=[
        Route("/notes", add, methods=["POST"]),
        Route("/notes", every),
        Route("/notes/{number:int}/finish", finish, methods=["POST"]),
    ],
)
