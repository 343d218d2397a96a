"""Programs of others that come as wheels: unpacked once into the cache, pinned with hashes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
FETCH_SECONDS = 120


class NotHere(Exception):  # noqa: N818 - read as a sentence where it is caught
    """The program can't be had on this machine; the message says why."""


def ensure_wheels(name: str, finish: Callable[[Path], None] = lambda folder: None) -> Path:
    """Return the folder with what requirements/NAME.txt pins, made first where the cache has none.

    `finish` completes a new folder before it counts. Raises NotHere.
    """
    cache = os.environ.get("RUNG_CACHE")
    folder = (Path(cache) if cache else Path.home() / ".cache" / "rung") / name
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as made:
            new = Path(made) / "new"
            uv = shutil.which("uv") or str(ROOT / ".venv-uv" / "bin" / "uv")
            fetch(
                name,
                [
                    uv, "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--target", str(new),
                    "--python", sys.executable, "-r", str(ROOT / "requirements" / f"{name}.txt"),
                ],
                folder.parent,
            )  # fmt: skip
            finish(new)
            new.rename(folder)
    return folder


def fetch(name: str, command: list[str], folder: Path) -> None:
    """Run a command that fetches something. Raises NotHere with its words."""
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=FETCH_SECONDS)
    except subprocess.CalledProcessError as error:
        raise NotHere(f"{name} can't be had here: {command[0]}: {error.stderr.strip()[-300:]}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotHere(f"{name} can't be had here: {error}") from None
