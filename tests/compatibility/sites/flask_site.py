"""A Flask application: a shop with an inner part, written as for any server."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flask import (
    Blueprint,
    Flask,
    Response,
    abort,
    flash,
    g,
    get_flashed_messages,
    jsonify,
    make_response,
    redirect,
    render_template_string,
    request,
    send_file,
    session,
    stream_with_context,
    url_for,
)

FILES = Path(os.environ["SITE_FILES"])

app = Flask(__name__, static_folder=str(FILES), static_url_path="/static")
app.secret_key = "not a secret"
inner = Blueprint("inner", __name__, url_prefix="/inner")


def witness(word: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(word.encode(), request.args["witness"])


@app.before_request
def begin() -> None:
    g.started = time.perf_counter()


@app.after_request
def stamp(response: Response) -> Response:
    response.headers["X-Process"] = str(os.getpid())
    response.headers["X-Took"] = f"{time.perf_counter() - g.started:.6f}"
    return response


@app.get("/")
def home() -> str:
    return "Hello, world!"


@app.get("/who")
def who() -> Response:
    return jsonify(
        pid=os.getpid(),
        thread=threading.current_thread() is threading.main_thread(),
        client=request.remote_addr,
        url=request.url,
        secure=request.is_secure,
        path=request.path,
        root=request.root_path,
    )


@app.get("/items/<int:number>")
def item(number: int) -> Response:
    query = list(request.args.items(multi=True))
    return jsonify(number=number, query=query, url=url_for("item", number=7, _external=True))


@app.get("/rest/<path:rest>")
def rest(rest: str) -> Response:
    return jsonify(rest=rest, headers=request.headers.getlist("X-Many"))


@app.post("/json")
def echo_json() -> Response:
    return jsonify(request.get_json())


@app.get("/page/<name>")
def page(name: str) -> str:
    return render_template_string("<h1>{{ name }}</h1>{{ url_for('inner.facts') }}", name=name)


@app.post("/form")
def form() -> Response:
    flash("saved")
    session["form"] = request.form.to_dict()
    return redirect(url_for("shown"), 303)


@app.get("/form")
def shown() -> Response:
    return jsonify(form=session.get("form"), said=get_flashed_messages())


@app.get("/visits")
def visits() -> Response:
    session["visits"] = session.get("visits", 0) + 1
    return jsonify(visits=session["visits"])


@app.post("/upload")
def upload() -> Response:
    answer: dict[str, Any] = {**request.form}
    for name, file in request.files.items():
        content = file.read()
        sha = hashlib.sha256(content).hexdigest()
        answer[name] = {"name": file.filename, "size": len(content), "sha256": sha}
    return jsonify(answer)


@app.put("/digest")
def digest() -> Response:
    sha = hashlib.sha256()
    size = 0
    while piece := request.stream.read(65_536):
        sha.update(piece)
        size += len(piece)
    return jsonify(size=size, sha256=sha.hexdigest())


@app.put("/lines")
def lines() -> Response:
    return jsonify([line.decode() for line in request.stream])


@app.put("/swallow")
def swallow() -> str:
    request.stream.read(1)
    witness("reading")
    try:
        request.stream.read()
    except OSError:
        witness("upload broken off")
    return "read it all"


@app.get("/stream")
def stream() -> Response:
    def pieces() -> Iterator[bytes]:
        for number in range(int(request.args["count"])):
            yield bytes([number % 251]) * int(request.args["size"])

    return Response(stream_with_context(pieces()), mimetype="application/octet-stream")


@app.get("/events")
def events() -> Response:
    def body() -> Iterator[str]:
        number = 0
        try:
            while True:
                yield f"data: {number}\n\n"
                number += 1
                time.sleep(0.01)
        finally:
            witness("stream over")

    return Response(stream_with_context(body()), mimetype="text/event-stream")


@app.get("/later")
def later() -> Response:
    where = request.args["witness"]
    response = make_response("answered")

    def after() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"after the answer", where)

    response.call_on_close(after)
    return response


@app.get("/gate")
def gate() -> bytes:
    """It waits until somebody writes into the pipe."""
    witness("at the gate")
    with open(request.args["gate"], "rb", buffering=0) as pipe:
        return pipe.read(1)


@app.get("/file")
def file() -> Response:
    return send_file(FILES / "large.bin", as_attachment=True, download_name="grüße.bin")


@app.get("/cookies")
def cookies() -> Response:
    response = jsonify(request.cookies)
    response.set_cookie("a", "1", httponly=True)
    response.set_cookie("b", "2", max_age=60)
    return response


@app.get("/no-content")
def no_content() -> tuple[str, int]:
    return "", 204


@app.route("/methods", methods=["GET", "PUT", "DELETE"])
def methods() -> tuple[str, int]:
    return request.get_data(as_text=True) or request.method, 201


@app.get("/teapot")
def teapot() -> None:
    abort(418, "short and stout")


@app.get("/crash")
def crash() -> None:
    raise ZeroDivisionError("crash in a view")


@app.get("/crash-late")
def crash_late() -> Response:
    def body() -> Iterator[bytes]:
        yield b"a" * 1000
        raise ZeroDivisionError("crash within the answer")

    return Response(body())


@app.get("/exit")
def leave() -> None:
    raise SystemExit(1)


@app.errorhandler(404)
def not_found(error: Exception) -> tuple[Response, int]:
    return jsonify(missing=request.path), 404


@inner.get("/facts")
def facts() -> Response:
    return jsonify(endpoint=request.endpoint, url=url_for(".facts"), root=request.script_root)


app.register_blueprint(inner)


def create_app() -> Flask:
    return app
