from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from rung.api.__main__ import main
from rung.api.crd import HEADER, crd_files

CRDS = Path(__file__).resolve().parents[3] / "crds"


def test_the_crds_in_the_repository_are_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["crds", str(CRDS), "--check"]) == 0, capsys.readouterr().out


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    main(["crds", str(tmp_path / "a" / "b")])
    main(["crds", str(tmp_path / "c")])
    files = {path.name: path.read_bytes() for path in (tmp_path / "a" / "b").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "c").iterdir()}
    assert len(files) == 4
    for content in files.values():
        assert yaml.safe_load(content)["spec"]["scope"] == "Namespaced"
        assert b"&id" not in content


def test_check_shows_what_differs_and_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["crds", str(tmp_path)])
    file = tmp_path / "servingpools.rung.dev.yaml"
    stale = file.read_text().replace("default: 0.65", "default: 0.6")
    file.write_text(stale)
    (tmp_path / "inferencetasks.rung.dev.yaml").unlink()
    (tmp_path / "old.yaml").write_text(HEADER)
    capsys.readouterr()
    assert main(["crds", str(tmp_path), "--check"]) == 1
    said = capsys.readouterr().out
    assert "+                        default: 0.65" in said
    assert "inferencetasks.rung.dev.yaml (wanted)" in said
    assert "old.yaml belongs to no kind" in said
    assert "run `python -m rung.api crds" in said
    assert file.read_text() == stale


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("kind: List\n")
    (tmp_path / "old.yaml").write_text(HEADER + "kind: Gone\n")
    assert main(["crds", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {*crd_files(), "other.yaml"}
    assert main(["crds", str(tmp_path), "--check"]) == 0
