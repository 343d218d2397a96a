"""The output folder: layout, and what is refused when it is read back."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import yaml

from rung.adapters.triton import parse_config
from rung_porting.errors import PortingError
from rung_porting.repository.catalogue import read_local
from rung_porting.repository.folder import TensorShapes, config_text, read_folder, write_config, write_version

SHAPES = TensorShapes("image", (1, 8, 8), "logits", (10,))


def spec(
    number: int, content: bytes, accuracy: float = 0.9, flops: int = 100, task: str = "digits"
) -> dict[str, object]:
    return {
        "taskRef": {"name": task},
        "version": number,
        "artifact": {"uri": "model.onnx", "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)},
        "accuracy": {"metric": "accuracy", "value": accuracy, "samples": 700, "dataset": "test"},
        "lineage": {"method": "base", "flops": flops},
    }


def write(root: Path, number: int, content: bytes = b"network", accuracy: float = 0.9, flops: int = 100) -> Path:
    write_config(root, "digits", config_text("digits", SHAPES))
    (root.parent / "source.onnx").write_bytes(content)
    write_version(root, "digits", number, root.parent / "source.onnx", spec(number, content, accuracy, flops))
    return root / "digits" / str(number)


def test_the_layout_and_that_a_second_write_changes_nothing(tmp_path: Path) -> None:
    root = tmp_path / "models"
    folder = write(root, 1_090_000)
    before = {path.relative_to(root).as_posix(): path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    assert sorted(before) == ["digits/1090000/model.onnx", "digits/1090000/version.yaml", "digits/config.pbtxt"]
    assert write(root, 1_090_000) == folder
    assert {p.relative_to(root).as_posix(): p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()} == before
    (task,) = read_folder(root)
    assert [version.number for version in task.versions] == [1_090_000]
    assert not task.faults


def test_triton_reads_the_config(tmp_path: Path) -> None:
    parsed = parse_config(config_text("digits", SHAPES))
    assert parsed.name == "digits"
    assert parsed.backend == "onnxruntime"
    assert parsed.max_batch_size == 8
    assert [(each.name, list(each.dims)) for each in parsed.input] == [("image", [1, 8, 8])]
    assert [(each.name, list(each.dims)) for each in parsed.output] == [("logits", [10])]
    assert not parsed.HasField("version_policy")


def test_another_version_under_the_same_number_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "models"
    write(root, 1_090_000)
    with pytest.raises(PortingError, match="holds another version"):
        write(root, 1_090_000, b"another network")
    with pytest.raises(PortingError, match=r"config\.pbtxt exists with other content"):
        write_config(root, "digits", "name: 'else'")


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda folder: (folder / "model.onnx").write_bytes(b"netw0rk"), "another SHA-256"),
        (lambda folder: (folder / "model.onnx").write_bytes(b"netw"), "has 4 bytes"),
        (lambda folder: (folder / "model.onnx").unlink(), "No such file"),
        (lambda folder: (folder / "version.yaml").unlink(), "No such file"),
        (lambda folder: (folder / "version.yaml").write_text("a: [1"), "not plain YAML"),
        (lambda folder: (folder / "version.yaml").write_bytes(b"\xff\xfe"), "version.yaml"),
        (lambda folder: (folder / "version.yaml").write_text("version: 1090000"), "malformed"),
    ],
)
def test_a_damaged_version_is_named_and_the_others_stay(tmp_path: Path, damage: object, sentence: str) -> None:
    root = tmp_path / "models"
    damaged = write(root, 1_090_000)
    write(root, 1_095_000)
    damage(damaged)  # type: ignore[operator]
    (task,) = read_folder(root)
    assert [version.number for version in task.versions] == [1_095_000]
    (fault,) = task.faults
    assert sentence in fault
    assert str(damaged) in fault


def test_a_version_in_the_wrong_folder_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "models"
    folder = write(root, 1_090_000)
    folder.rename(folder.with_name("1080000"))
    folder = write(root, 1_095_000)
    (folder / "version.yaml").write_text(yaml.safe_dump(spec(1_095_000, b"network", task="parity")))
    (task,) = read_folder(root)
    assert not task.versions
    assert "says version 1090000" in task.faults[0]
    assert "is of task 'parity'" in task.faults[1]


def test_what_is_no_folder_of_versions_says_so(tmp_path: Path) -> None:
    with pytest.raises(PortingError, match="is not a folder"):
        read_folder(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(PortingError, match="holds no task"):
        read_folder(tmp_path / "empty")


def test_the_ladder_tells_who_is_beaten_by_operations_until_profiles_know_better(tmp_path: Path) -> None:
    root = tmp_path / "models"
    write(root, 1_090_000, b"small", 0.90, flops=10)
    slow = write(root, 1_092_000, b"slow", 0.92, flops=90)
    write(root, 1_095_000, b"large", 0.95, flops=80)
    rows = read_local(root).ladders["digits"]
    assert [(row.number, row.beaten_by) for row in rows] == [
        (1_090_000, None),
        (1_092_000, 1_095_000),
        (1_095_000, None),
    ]
    for number, rate in ((1_090_000, 700.0), (1_092_000, 300.0), (1_095_000, 200.0)):
        profiles = slow.parent / str(number) / "profiles"
        profiles.mkdir()
        text = yaml.safe_dump({"hardwareClass": "n100", "sloLatency": "400ms", "maxThroughput": rate})
        (profiles / "n100-20260101T000000Z.yaml").write_text(text)
    rows = read_local(root).ladders["digits"]
    assert [row.beaten_by for row in rows] == [None, None, None]
    assert [dict(row.throughput_rps) for row in rows] == [{"n100": 700.0}, {"n100": 300.0}, {"n100": 200.0}]


def test_a_broken_profile_is_named(tmp_path: Path) -> None:
    root = tmp_path / "models"
    folder = write(root, 1_090_000)
    (folder / "profiles").mkdir()
    (folder / "profiles" / "n100-20260101T000000Z.yaml").write_text("hardwareClass: n100\nmaxThroughput: -1\n")
    catalogue = read_local(root)
    assert catalogue.ladders["digits"] == ()
    assert "maxThroughput" in catalogue.faults[0]
