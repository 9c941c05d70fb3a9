"""An application that hangs at import, in slot 0 only."""

import os
import time

from tests.process import apps

app = apps.app

if os.environ["ASGI_SUPERVISE_SLOT"] == "0":
    os.write(2, b"stuck at import\n")
    time.sleep(1000)
