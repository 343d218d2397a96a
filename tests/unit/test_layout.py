"""The folder `operator/` must not take the place of the standard library's module of that name."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]


@pytest.mark.parametrize("way", [("-c", "import operator; print(operator.__file__)"), ("-",)], ids=["-c", "stdin"])
def test_operator_is_the_standard_librarys_from_the_root_of_the_project(way: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, *way],
        input="import operator; print(operator.__file__)", cwd=PROJECT, capture_output=True, text=True, check=True,
        timeout=30,
    )  # fmt: skip
    assert Path(done.stdout.strip()).parent == Path(sysconfig.get_path("stdlib"))
    assert not (PROJECT / "operator/__init__.py").exists()
