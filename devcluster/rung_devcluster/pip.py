"""A pip of our own: the environment that runs this may have none (uv makes such)."""

from __future__ import annotations

import sys
from pathlib import Path

from rung_devcluster.cache import cache_folder, making
from rung_devcluster.commands import run

DEADLINE_SECONDS = 300.0


def own_pip() -> list[str | Path]:
    """Return the beginning of a command line that runs pip, from an environment in the cache; made when missing.

    Raises CommandError when this Python can't make one (Debian and Ubuntu: apt-get install python3-venv).
    """
    folder = cache_folder() / "pip" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    if not folder.exists():
        with making(folder) as temporary:
            python = temporary / "bin" / "python"
            what = "pip: an environment for it (python3-venv)"
            # In two steps, so that a failure of the second is told with what it printed.
            run(
                [sys.executable, "-m", "venv", "--without-pip", temporary], what=what, deadline_seconds=DEADLINE_SECONDS
            )
            run([python, "-m", "ensurepip"], what=what, deadline_seconds=DEADLINE_SECONDS)
    return [folder / "bin" / "python", "-m", "pip", "--disable-pip-version-check"]
