"""The command line where torch is not installed, and what it says to wrong input."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from rung_porting.cli import main


def test_no_command_but_run_needs_torch() -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'nni', 'lightning', 'sklearn', 'onnx', 'onnxruntime'): sys.modules[name] = None\n"
        "import rung_porting.cli, rung_porting.show.table\n"
        "import rung_porting.repository.publish, rung_porting.repository.register\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["show", "nowhere"], "nowhere is not a folder"),
        (["show", "ftp://bucket"], "is not a model repository"),
        (["publish", "nowhere", "s3://bucket/prefix"], "nowhere is not a folder"),
        (["publish", ".", "s3://models", "--endpoint", "ftp://x"], "is not an S3 endpoint"),
        (["register", "s3://bucket", "--kubeconfig", "missing.yaml"], "missing.yaml"),
    ],
)
def test_wrong_input_gets_one_clear_line(
    arguments: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = CliRunner().invoke(main, arguments)
    assert outcome.exit_code == 1
    assert sentence in outcome.output
    assert "Traceback" not in outcome.output


@pytest.mark.parametrize(("arguments", "status"), [(["--version"], 0), (["show", "nowhere"], 1), (["nonsense"], 2)])
def test_as_a_program_it_says_everything_and_ends_with_its_status(arguments: list[str], status: int) -> None:
    code = "from rung_porting.cli import program; program()"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == status
    assert done.stdout + done.stderr
