"""The gate's own tests, in Go, and what Go says of its code."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from rung_devcluster.tools.gobuild import go_program

GATE = Path(__file__).parents[2] / "gate"
DEADLINE_SECONDS = 600

pytestmark = pytest.mark.timeout(DEADLINE_SECONDS)


@pytest.mark.parametrize("arguments", [("vet", "./..."), ("test", "-race=false", "./...")], ids=["vet", "test"])
def test_go(arguments: tuple[str, ...]) -> None:
    environment = {**os.environ, "GOTOOLCHAIN": "local", "GOWORK": "off", "GOFLAGS": "-mod=readonly"}
    done = subprocess.run(
        [go_program(), *arguments], cwd=GATE, env=environment, capture_output=True, text=True,
        timeout=DEADLINE_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def test_it_is_formatted() -> None:
    done = subprocess.run(
        [Path(go_program()).with_name("gofmt"), "-l", "."], cwd=GATE, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
