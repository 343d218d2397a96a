"""Asks a component whether it is ready."""

from __future__ import annotations

import socket
import ssl
import urllib.error
import urllib.request
from pathlib import Path

from rung_devcluster.cluster.components import Component

PROBE_DEADLINE_SECONDS = 2.0
HTTP_OK = 200

# An environment with a proxy is no reason to send a question to this very machine through it.
_no_proxy = urllib.request.ProxyHandler({})


def is_ready(component: Component, authority: Path) -> bool:
    """Ask once; anything but a clear yes within the deadline is a no."""
    if component.ready_socket is not None:
        return _takes_connections(component.ready_socket)
    if component.ready_url is None:
        return True
    handlers: list[urllib.request.BaseHandler] = [_no_proxy]
    if component.ready_url.startswith("https:"):
        handlers.append(urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=str(authority))))
    try:
        with urllib.request.build_opener(*handlers).open(component.ready_url, timeout=PROBE_DEADLINE_SECONDS) as answer:
            return bool(answer.status == HTTP_OK)
    except OSError:
        return False


def _takes_connections(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(PROBE_DEADLINE_SECONDS)
        try:
            connection.connect(str(path))
        except OSError:
            return False
        return True
