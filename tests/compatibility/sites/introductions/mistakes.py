"""What goes wrong first. Each is an application as it was typed; the path chooses one."""

START = {"type": "http.response.start", "status": 200, "headers": []}
BODY = {"type": "http.response.body", "body": b"hello"}


async def forgotten_await(scope, receive, send):
    send(START)
    send(BODY)


async def second_await_forgotten(scope, receive, send):
    await send(START)
    send(BODY)


async def no_headers(scope, receive, send):
    await send({"type": "http.response.start", "status": 200})
    await send(BODY)


async def text_headers(scope, receive, send):
    await send({**START, "headers": [("content-type", "text/plain")]})
    await send(BODY)


async def text_value(scope, receive, send):
    await send({**START, "headers": [(b"content-type", "text/plain")]})
    await send(BODY)


async def dict_headers(scope, receive, send):
    await send({**START, "headers": {"content-type": "text/plain"}})
    await send(BODY)


async def dict_of_bytes(scope, receive, send):
    await send({**START, "headers": {b"content-type": b"text/plain"}})
    await send(BODY)


async def number_for_length(scope, receive, send):
    await send({**START, "headers": [(b"content-length", 5)]})
    await send(BODY)


async def wrong_length(scope, receive, send):
    await send({**START, "headers": [(b"content-length", b"50")]})
    await send(BODY)


async def text_body(scope, receive, send):
    await send(START)
    await send({"type": "http.response.body", "body": "Hello, world!"})


async def text_body_with_more(scope, receive, send):
    await send(START)
    await send({"type": "http.response.body", "body": "Hello, ", "more_body": True})
    await send({"type": "http.response.body", "body": "world!"})


async def json_body(scope, receive, send):
    await send(START)
    await send({"type": "http.response.body", "body": {"hello": "world"}})


async def no_body_key(scope, receive, send):
    await send(START)
    await send({"type": "http.response.body"})


async def body_first(scope, receive, send):
    await send(BODY)
    await send(START)


async def two_starts(scope, receive, send):
    await send(START)
    await send(START)


async def missing_more_body(scope, receive, send):
    """Only the first line arrives."""
    await send(START)
    for number in range(3):
        await send({"type": "http.response.body", "body": b"%d\n" % number})


async def no_answer(scope, receive, send):
    return


async def start_only(scope, receive, send):
    await send(START)


async def never_ending(scope, receive, send):
    await send(START)
    await send({**BODY, "more_body": True})


async def returned(scope, receive, send):
    return "Hello, world!"


async def no_status(scope, receive, send):
    await send({"type": "http.response.start", "headers": []})
    await send(BODY)


async def text_status(scope, receive, send):
    await send({**START, "status": "200 OK"})
    await send(BODY)


async def no_type(scope, receive, send):
    await send({"status": 200, "headers": []})
    await send(BODY)


async def misspelt(scope, receive, send):
    await send({**START, "type": "http.response.begin"})
    await send(BODY)


async def text_sent(scope, receive, send):
    await send("Hello, world!")


async def websocket_kind(scope, receive, send):
    await send({"type": "websocket.accept"})


ALL = {
    function.__name__: function
    for function in list(globals().values())
    if callable(function) and hasattr(function, "__name__")
}


async def app(scope, receive, send):
    assert scope["type"] == "http"
    await ALL[scope["path"][1:]](scope, receive, send)
