"""Echo of the body, which is read without a look at the type of the scope."""


async def read_body(receive):
    body = b""
    more_body = True
    while more_body:
        message = await receive()
        body += message["body"]
        more_body = message.get("more_body", False)
    return body


async def app(scope, receive, send):
    body = await read_body(receive)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


async def asserting(scope, receive, send):
    event = await receive()
    assert event["type"] == "http.request"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": event["body"]})


async def answering(scope, receive, send):
    event = await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": event.get("body", b"")})
