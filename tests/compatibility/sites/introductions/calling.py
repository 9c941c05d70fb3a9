"""It calls the application."""


async def application(scope, receive, send):
    assert scope["type"] == "http"


app = application()
