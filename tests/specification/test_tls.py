"""TLS extension 0.2.

TLS is not spoken yet: a proxy in front terminates it.
"""

from __future__ import annotations

import pytest

from tests.specification.asking import request, scope_of, websocket_scope
from tests.worker.conftest import Run


def test_not_without_tls(run: Run) -> None:
    """When to use this extension: it is forbidden for connections without TLS.

    ``"tls"`` is in the ``extensions`` of no request and no WebSocket.
    """
    assert "tls" not in scope_of(run)["extensions"]
    assert "tls" not in websocket_scope(run)["extensions"]


@pytest.mark.parametrize("line", ["X-Forwarded-Proto: https", "Forwarded: proto=https"])
def test_not_for_a_proxy(run: Run, line: str) -> None:
    """When to use this extension: … also if a proxy says that its client came by TLS.

    The scheme is ``https`` or ``wss`` then; of certificates and ciphers nothing is known.
    """
    scope = scope_of(run, request("/", line))
    assert scope["scheme"] == "https"
    assert "tls" not in scope["extensions"]
    assert "tls" not in websocket_scope(run, "/", line)["extensions"]
