"""See that Triton's Python backend finds the shared library of this Python; install it when this is root on Debian.

Run by `make setup-triton` with the Python of .venv-triton.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
LIBRARY = f"libpython{VERSION}.so.1.0"
LINE = f"apt-get install --no-install-recommends libpython{VERSION}"
DEADLINE_SECONDS = 600


def found() -> bool:
    """Whether it lies beside this Python, or where the loader looks."""
    if (Path(sys.base_prefix) / "lib" / LIBRARY).exists():
        return True
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        return False
    return True


def main() -> int:
    """Return the exit status: 1 with the line to type when it is missing and can't be installed here."""
    if found():
        return 0
    if os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"installing packages: {LINE}", file=sys.stderr)
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for words in (["apt-get", "update", "-qq"], [*LINE.split(), "--yes", "-qq"]):
            subprocess.run(words, env=environment, timeout=DEADLINE_SECONDS, check=False)
        if found():
            return 0
    print(f"{LIBRARY} is missing, which Triton's Python backend needs: {LINE}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
