"""The `rung` command: what it refuses, and in which words."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from rung.cli import main


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["operator", "--listen=8080"], "8080 is no HOST:PORT"),
        (["operator", "--listen=0.0.0.0:99999"], "is no HOST:PORT"),
        (["operator", "--namespaces= , "], "names no namespace"),
        (["operator", "--log-level=LOUD"], "LOUD"),
        (["explain"], "Missing argument 'TASK'"),
        (["explain", "digits", "--last=0"], "0"),
    ],
)
def test_bad_usage_is_refused_before_anything_starts(arguments: list[str], sentence: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert sentence in result.output


@pytest.mark.parametrize("command", [["tasks"], ["explain", "digits"]])
def test_without_a_cluster_it_says_what_to_set(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nowhere"))
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 1
    assert result.output == (
        f"rung: no cluster: there is no file {tmp_path / 'nowhere'}; set KUBECONFIG to the kubeconfig of your cluster\n"
    )


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from rung.cli import main\n"
        "assert CliRunner().invoke(main, ['explain', '--help']).exit_code == 0\n"
        "print(sorted({'kopf', 'kubernetes', 'grpc', 'numpy', 'aiohttp', 'pydantic'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
