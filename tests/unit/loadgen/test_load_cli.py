"""What the command says of input that it can't use; nothing is sent, so no server is needed."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from rung_loadgen.cli import main, parse_task_option


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("digit:{folder}/none.txt", "none.txt: can't be read"),
        ("digit:{folder}/bad.txt", "bad.txt: line 2: 'x' is no number"),
        ("digit:{folder}/t.txt", "127.0.0.1:9: no description of model 'digit': UNAVAILABLE"),
        ("digit:{folder}/t.txt:slo=soon", "'soon' is not understood"),
        ("digit:{folder}/t.txt:slo=0s", "longer than 0s"),
        ("digit:{folder}/t.txt:scale=-1", "scale must be a number of 0 or more"),
        ("digit:{folder}/t.txt:scale=x", "could not convert"),
        ("digit:{folder}/t.txt:colour=red", "'colour=red'"),
        ("digit", "NAME:TRACEFILE"),
        (":x", "NAME:TRACEFILE"),
        ("digit:{folder}/huge.txt", "more than the bound"),
    ],
)
def test_bad_input_ends_in_one_clear_sentence(tmp_path: Path, task: str, message: str) -> None:
    (tmp_path / "t.txt").write_text("20\n")
    (tmp_path / "bad.txt").write_text("20\nx\n")
    (tmp_path / "huge.txt").write_text("90000\n" * 100)

    arguments = ["replay", "--target=127.0.0.1:9", f"--task={task.format(folder=tmp_path)}", "--wait=300ms"]
    done = CliRunner().invoke(main, arguments)

    assert done.exit_code in (1, 2)
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_a_task_option_says_everything_about_its_task() -> None:
    task = parse_task_option("digit:/traces/d.txt:model=digits,slo=400ms,scale=0.5,data=/d.npz")

    assert (task.name, task.trace, task.model) == ("digit", Path("/traces/d.txt"), "digits")
    assert (task.slo_seconds, task.scale, task.data) == (0.4, 0.5, Path("/d.npz"))
    assert parse_task_option("digit:d.txt").model == "digit"
