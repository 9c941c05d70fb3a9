"""Applications served by the process tests."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from typing import Any

time.sleep(float(os.environ.get("SLOW_IMPORT_S", "0")))

ORPHANING = ["/bin/sh", "-c", "/bin/sleep 0.05 & exit 0"]


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    word, _, argument = scope["path"].strip("/").partition("/")
    match word:
        case "slow":
            os.write(2, b"slow request begins\n")
            await asyncio.sleep(float(argument))
        case "block":
            os.write(2, b"blocked\n")
            time.sleep(float(argument))  # noqa: ASYNC251 - that is the point
        case "burn":
            until_s = time.process_time() + float(argument)
            while time.process_time() < until_s:
                pass
        case "orphan":
            # The shell ends at once; what it left behind becomes an orphan, then a zombie.
            subprocess.run(ORPHANING, check=True)  # noqa: ASYNC221
        case _:
            pass
    identity = {
        "slot": scope["extensions"]["asgi_supervise"]["slot"],
        "pid": os.getpid(),
        "uid": os.getresuid(),
        "gid": os.getresgid(),
        "groups": os.getgroups(),
        "umask": _umask(),
    }
    body = json.dumps(identity).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


async def lifespan(receive: Any, send: Any) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            os.write(2, b"lifespan is shut down\n")
            return


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
