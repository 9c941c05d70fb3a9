"""A FastAPI application of some size, written as for any server: nothing in it knows ours."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

from fastapi import (
    APIRouter,
    BackgroundTasks,
    Cookie,
    Depends,
    FastAPI,
    File,
    Form,
    Header,
    HTTPException,
    Query,
    Request,
    Response,
    UploadFile,
    WebSocket,
    WebSocketDisconnect,
    WebSocketException,
    status,
)
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field

FILES = Path(os.environ["SITE_FILES"])


def witness(path: str, word: str) -> None:
    """Tell the test what happened here, on the datagram socket that it listens to."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(word.encode(), path)


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    yield {"store": {}, "started_in": os.getpid()}
    witness(os.environ["SITE_WITNESS"], "lifespan over")


app = FastAPI(title="Shop", lifespan=lifespan)
app.add_middleware(GZipMiddleware, minimum_size=500)
app.add_middleware(CORSMiddleware, allow_origins=["*"], allow_headers=["x-token"])
router = APIRouter(prefix="/shop", tags=["shop"])


class Item(BaseModel):
    name: str
    price: float = Field(gt=0)
    tags: set[str] = set()
    note: str | None = None


class Bill(BaseModel):
    item: Item
    count: int
    total: float


class OutOfStock(Exception):
    def __init__(self, name: str) -> None:
        self.name = name


@app.exception_handler(OutOfStock)
async def out_of_stock(request: Request, exc: OutOfStock) -> JSONResponse:
    return JSONResponse({"missing": exc.name}, 409)


@app.middleware("http")
async def stamp(request: Request, call_next: Any) -> Response:
    response: Response = await call_next(request)
    response.headers["x-process"] = str(os.getpid())
    return response


async def token(x_token: Annotated[str | None, Header()] = None) -> str:
    if x_token != "sesame":
        raise HTTPException(401, "a token, please", {"www-authenticate": "Token"})
    return x_token


def ledger() -> Iterator[list[str]]:
    """A dependency that is opened and closed in the thread pool."""
    lines = [threading.current_thread().name]
    yield lines
    lines.clear()


@app.get("/")
async def home(request: Request) -> dict[str, Any]:
    return {"pid": os.getpid(), "started_in": request.state.started_in}


@app.get("/sync")
def sync(lines: Annotated[list[str], Depends(ledger)]) -> dict[str, str]:
    return {"endpoint": threading.current_thread().name, "dependency": lines[0]}


@router.get("/items/{item_id}")
async def read_item(
    item_id: UUID,
    limit: Annotated[int, Query(ge=1, le=100)] = 10,
    tag: Annotated[list[str] | None, Query()] = None,
) -> dict[str, Any]:
    return {"item_id": item_id, "limit": limit, "tag": tag}


@router.post("/items", status_code=201)
async def bill(item: Item, count: int = 1) -> Bill:
    if item.name == "moon":
        raise OutOfStock(item.name)
    return Bill(item=item, count=count, total=item.price * count)


@router.get("/secret", dependencies=[Depends(token)])
async def secret(who: Annotated[str, Cookie()] = "nobody") -> dict[str, str]:
    return {"who": who}


@router.post("/login")
async def login(user: Annotated[str, Form()], password: Annotated[str, Form()]) -> dict[str, Any]:
    return {"user": user, "length": len(password)}


@router.post("/upload")
async def upload(
    title: Annotated[str, Form()], documents: Annotated[list[UploadFile], File()]
) -> dict[str, Any]:
    found = []
    for document in documents:
        sha, size = hashlib.sha256(), 0
        while piece := await document.read(65_536):
            sha.update(piece)
            size += len(piece)
        found.append({"name": document.filename, "size": size, "sha256": sha.hexdigest()})
    return {"title": title, "documents": found}


@router.put("/raw")
async def raw(request: Request) -> dict[str, Any]:
    sha, size = hashlib.sha256(), 0
    async for piece in request.stream():
        sha.update(piece)
        size += len(piece)
    return {"size": size, "sha256": sha.hexdigest()}


@router.get("/numbers")
async def numbers(count: int) -> StreamingResponse:
    async def lines() -> AsyncIterator[str]:
        for number in range(count):
            yield f"{number}\n"

    return StreamingResponse(lines(), media_type="text/plain")


@router.get("/events", response_class=EventSourceResponse)
async def events(where: str, count: int = 1_000_000) -> AsyncIterator[ServerSentEvent]:
    try:
        for number in range(count):
            yield ServerSentEvent(data={"number": number}, event="tick", id=str(number))
            await asyncio.sleep(0.005)
    finally:
        witness(where, "events over")


@router.get("/report")
async def report() -> FileResponse:
    return FileResponse(FILES / "large.bin", media_type="application/x-report")


@router.post("/mail", status_code=202)
async def mail(where: str, tasks: BackgroundTasks) -> dict[str, bool]:
    tasks.add_task(witness, where, "mail sent")
    return {"accepted": True}


@router.get("/crash")
async def crash() -> None:
    raise ZeroDivisionError("crash before the answer")


@app.websocket("/room/{name}")
async def room(websocket: WebSocket, name: str, key: Annotated[str | None, Query()] = None) -> None:
    if key != "sesame":
        raise WebSocketException(status.WS_1008_POLICY_VIOLATION, "a key, please")
    await websocket.accept()
    where = websocket.query_params.get("where")
    try:
        while True:
            order = await websocket.receive_json()
            await websocket.send_json({"room": name, "order": order})
    except WebSocketDisconnect as gone:
        if where:
            witness(where, f"left {gone.code} {gone.reason}")


@app.websocket("/blob")
async def blob(websocket: WebSocket) -> None:
    await websocket.accept()
    async for data in websocket.iter_bytes():
        await websocket.send_bytes(hashlib.sha256(data).digest())


app.include_router(router)
app.mount("/static", StaticFiles(directory=FILES))

sub = FastAPI(title="Sub")


@sub.get("/path")
async def sub_path(request: Request) -> dict[str, str]:
    return {"root_path": request.scope["root_path"], "url": str(request.url)}


app.mount("/sub", sub)
