"""A response is an application."""

from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse

app = PlainTextResponse("Hello")
json = JSONResponse({"hello": "world"})


async def slow_numbers():
    for number in range(3):
        yield f"{number}\n"


async def streaming(scope, receive, send):
    assert scope["type"] == "http"
    response = StreamingResponse(slow_numbers(), media_type="text/plain")
    await response(scope, receive, send)
