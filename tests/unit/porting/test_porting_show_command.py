"""`rung-port show` as a user types it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from ladders import LADDER, write_ladder, write_plan, write_profiles, write_record
from rung_porting.cli import main
from rung_porting.show.search import search_table


def show(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["show", *map(str, arguments)])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    write_profiles(write_ladder(folder), n100=1.0)
    write_ladder(folder, "parity", LADDER[:3])
    write_record(folder)
    write_plan(folder)
    return folder


def test_tables_a_page_and_pictures_in_one_go(root: Path, tmp_path: Path) -> None:
    outcome = show(root, "--html", tmp_path / "new" / "page.html", "--png", tmp_path / "pictures")
    assert outcome.exit_code == 0, outcome.output
    assert "the frontier spans 23.8x in throughput on n100" in outcome.output
    for name in ("new/page.html", "pictures/digits.png", "pictures/parity.png"):
        assert f"wrote {tmp_path / name}" in outcome.output
        assert (tmp_path / name).stat().st_size > 10_000


def test_only_the_tasks_that_one_asks_for(root: Path, tmp_path: Path) -> None:
    outcome = show(root, "--task", "parity", "--html", tmp_path / "page.html")
    assert outcome.exit_code == 0, outcome.output
    assert "parity" in outcome.output
    assert "1093100" not in outcome.output
    assert "<title>Rung: parity</title>" in (tmp_path / "page.html").read_text()


def test_a_card_is_all_that_is_printed(root: Path) -> None:
    outcome = show(root, "--card", "digits/1098710")
    assert outcome.exit_code == 0, outcome.output
    assert outcome.output.startswith("# digits 1098710\n")
    assert outcome.output.endswith("seed: 1\n```\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--task", "cats"], "there is no task 'cats' in"),
        (["--hardware-class", "rpi5"], "no version was profiled on 'rpi5'; profiled hardware classes: n100"),
        (["--card", "digits"], "names no version: give TASK/VERSION"),
        (["--card", "digits/1", "--html", "page.html"], "--card prints one card and nothing else"),
        (["--html", "models"], "is a directory"),
        (["--html", "models/digits.plan.yaml/page.html"], "digits.plan.yaml"),
        (["--png", "models/digits.plan.yaml/all.png"], "digits.plan.yaml"),
    ],
)
def test_wrong_input_gets_one_clear_sentence(
    root: Path, arguments: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root.parent)
    outcome = show(root, *arguments)
    assert outcome.exit_code in (1, 2)
    assert sentence in outcome.output
    assert "Traceback" not in outcome.output


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{",
        "{}",
        json.dumps({"task": 1}),
        json.dumps({"task": "digits", "over": "", "trials": [{}]}),
        "[" * 100_000,
        "\0",
    ],
)
def test_a_broken_record_of_a_search_is_named_and_the_rest_is_shown(root: Path, tmp_path: Path, content: str) -> None:
    (root / "digits.search.json").write_text(content)
    outcome = show(root, "--html", tmp_path / "page.html")
    assert outcome.exit_code == 1
    assert "refused:" in outcome.output
    assert "digits.search.json" in outcome.output
    assert "Traceback" not in outcome.output
    assert "1093100" in outcome.output
    assert "digits.search.json" in (tmp_path / "page.html").read_text()


def test_a_broken_plan_beside_a_task_is_named(root: Path) -> None:
    (root / "digits.plan.yaml").write_text("task: digits\nmodle: {}\n")
    outcome = show(root, "--card", "digits/1098710")
    assert outcome.exit_code == 1
    assert "digits.plan.yaml:2: modle: there is no such field; did you mean model?" in outcome.output


@pytest.mark.parametrize(
    ("missing", "arguments"),
    [("matplotlib", ["--png", "x.png"]), ("plotly", ["--html", "x.html"]), ("rich", [])],
)
def test_what_is_not_installed_is_named_with_its_extra(root: Path, missing: str, arguments: list[str]) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from rung_porting.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "show", str(root), *arguments],
        cwd=root, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.strip() == f"Error: this needs {missing}: pip install 'rung[show]'"


def test_cards_need_neither_rich_nor_a_drawing_library_and_nothing_needs_torch(root: Path, tmp_path: Path) -> None:
    for names, arguments in (
        (("rich", "matplotlib", "plotly"), ["--card", "digits/1098710"]),
        (("torch", "nni", "lightning", "sklearn", "onnx", "onnxruntime"), ["--html", "x.html", "--png", "x.png"]),
    ):
        code = f"import sys; sys.modules.update(dict.fromkeys({names})); from rung_porting.cli import main; main()"
        command = [sys.executable, "-c", code, "show", str(root), *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr


def test_square_brackets_in_a_record_are_not_taken_for_markup(root: Path) -> None:

    record = json.loads((root / "digits.search.json").read_text())
    record["trials"][0]["sentence"] = "input [1, 8, 8] [red]x[/nothing]"
    (root / "digits.search.json").write_text(json.dumps(record))
    console = Console(width=200, record=True)
    console.print(search_table(root / "digits.search.json"))
    assert "input [1, 8, 8] [red]x[/nothing]" in console.export_text()
