"""No application is asynchronous by itself."""


def app(scope, receive, send):
    send({"type": "http.response.start", "status": 200, "headers": []})
    send({"type": "http.response.body", "body": b"hello"})


def returning(scope, receive, send):
    return "Hello, world!"


async def generating(scope, receive, send):
    yield "Hello, world!"
