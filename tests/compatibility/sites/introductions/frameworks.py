"""The first page of each framework."""

from fastapi import FastAPI, WebSocket
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

fastapi = FastAPI()


@fastapi.get("/")
async def root():
    return {"message": "Hello World"}


@fastapi.get("/items/{item_id}")
def read_item(item_id: int, q: str | None = None):
    return {"item_id": item_id, "q": q}


@fastapi.websocket("/ws")
async def websocket_endpoint(websocket: WebSocket):
    await websocket.accept()
    while True:
        data = await websocket.receive_text()
        await websocket.send_text(f"Message text was: {data}")


async def homepage(request):
    return JSONResponse({"hello": "world"})


starlette = Starlette(debug=True, routes=[Route("/", homepage)])


def create_app():
    return fastapi
