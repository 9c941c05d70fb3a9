"""The other ways to say that only HTTP is spoken."""


def answering(refuse):
    async def app(scope, receive, send):
        if scope["type"] != "http":
            refuse(scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})

    return app


def an_exception(scope):
    raise Exception("Only the HTTP protocol is supported")  # noqa: TRY002 – as printed


def not_implemented(scope):
    raise NotImplementedError(f"Unknown scope type {scope['type']}")


def a_value_error(scope):
    raise ValueError(scope["type"])


exception = answering(an_exception)
notimplemented = answering(not_implemented)
valueerror = answering(a_value_error)


async def by_key(scope, receive, send):
    """It looks into the scope for what a lifespan has not."""
    body = f"You asked for {scope['path']}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


async def returning(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"hello"})
