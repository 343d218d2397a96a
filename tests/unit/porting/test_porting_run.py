"""`rung-port run` from a user's own network to a folder of versions: resumable, and clear about every bad input."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from strangers import MODULE, write_stranger

pytestmark = [pytest.mark.porting, pytest.mark.timeout(1800)]
pytest.importorskip("torch", reason="needs the porting environment: make setup-porting")

from rung_porting.data.source import load_data  # noqa: E402
from rung_porting.errors import PortingError  # noqa: E402
from rung_porting.export import judge  # noqa: E402
from rung_porting.importing import look_beside  # noqa: E402
from rung_porting.plan_file import read_plan  # noqa: E402
from rung_porting.recipe import Recipe  # noqa: E402
from rung_porting.repository.catalogue import read_local  # noqa: E402
from rung_porting.stages import Workshop  # noqa: E402
from rung_porting.store import Store  # noqa: E402

DEADLINE_SECONDS = 300


def start(plan: Path, output: Path, cache: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [Path(sys.executable).parent / "rung-port", "run", str(plan), "--output", str(output), *options],
        env={**os.environ, "RUNG_CACHE": str(cache)},
        cwd=plan.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(plan: Path, output: Path, cache: Path, *options: str) -> tuple[int, str]:
    process = start(plan, output, cache, *options)
    try:
        said, _ = process.communicate(timeout=DEADLINE_SECONDS)
        return process.returncode, said
    finally:
        process.kill()
        process.wait(10)


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def published(root: Path) -> dict[str, bytes]:
    """Everything that would be published; the record beside it holds times."""
    return {name: content for name, content in contents(root).items() if not name.endswith(".search.json")}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a stranger's plan ran to its end, into `models`, with its store in `cache`."""
    folder = tmp_path_factory.mktemp("stranger")
    status, said = finish(write_stranger(folder), folder / "models", folder / "cache")
    assert status == 0, said
    assert "Traceback" not in said
    return folder


def test_a_strangers_network_becomes_a_ladder(done: Path) -> None:
    rows = read_local(done / "models").ladders["tumours"]
    methods = {row.spec.lineage.method for row in rows}
    assert "base" in methods
    assert any("l1" in method or "taylor" in method for method in methods)
    (base,) = (row for row in rows if row.spec.lineage.method == "base")
    floats = [row for row in rows if "int8" not in row.spec.lineage.method]
    smallest = min(row.spec.lineage.flops or 0 for row in floats)
    assert smallest < (base.spec.lineage.flops or 0) / 2.5
    assert base.spec.accuracy.value > 0.7, "it learned"


def test_published_accuracy_is_what_onnxruntime_shows_on_the_test_split(done: Path) -> None:
    look_beside(done)
    plan = read_plan(str(done / "plan.yaml"))
    data = load_data(plan.data, plan.input, None, plan.seed)
    for row in read_local(done / "models").ladders["tumours"]:
        found = judge(done / "models" / "tumours" / str(row.number) / "model.onnx", data, "test")
        assert found.accuracy == pytest.approx(row.spec.accuracy.value, abs=1e-6)
        assert row.spec.accuracy.samples == 100
        assert row.number - 1_000_000 in (round(found.accuracy * 100_000) + tie for tie in range(8))


def test_the_record_says_what_was_tried_and_why_the_rest_did_not_survive(done: Path) -> None:
    record = json.loads((done / "models" / "tumours.search.json").read_text())
    assert record["over"] == "4 of 4 trials are made"
    assert len(record["trials"]) == 5
    versions = [version for trial in record["trials"] for version in trial["versions"]]
    numbers = {version["number"] for version in versions if version["number"]}
    assert numbers == {row.number for row in read_local(done / "models").ladders["tumours"]}
    for version in versions:
        assert (version["verdict"] == "survived") == (version["number"] is not None)


def test_a_second_run_makes_nothing_and_gives_the_same(done: Path) -> None:
    store = done / "cache" / "porting"
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()}
    status, said = finish(done / "plan.yaml", done / "again", done / "cache")
    assert status == 0, said
    assert contents(done / "again") == contents(done / "models")
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()} == before
    assert "earlier runs" not in said


def test_what_an_earlier_run_left_stays_and_is_named(done: Path, tmp_path: Path) -> None:
    shutil.copytree(done / "models", tmp_path / "models")
    earlier = {row.number for row in read_local(done / "models").ladders["tumours"]}
    status, said = finish(done / "plan.yaml", tmp_path / "models", done / "cache", "--generation", "2")
    assert status == 0, said
    assert f"also holds {len(earlier)} versions of earlier runs, which would be published too: {min(earlier)}" in said
    assert {row.number for row in read_local(tmp_path / "models").ladders["tumours"]} > earlier


def test_killed_five_times_at_random_it_goes_on_and_ends_with_the_same_versions(done: Path, tmp_path: Path) -> None:
    chance = random.Random(7)
    plan = write_stranger(tmp_path / "killed")
    cache, output = tmp_path / "cache", tmp_path / "models"
    kills = 0
    while kills < 5:
        process = start(plan, output, cache)
        made = len(list((cache / "porting").glob("*/entry.json"))) if cache.exists() else 0
        deadline = time.monotonic() + DEADLINE_SECONDS
        # At some moment after it began to work on something that is not in the store yet.
        while not list((cache / "porting").glob("*.tmp")) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 2.0))
        if process.poll() is not None:
            break  # it came to its end between two kills
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=10)
        kills += 1
        assert len(list((cache / "porting").glob("*/entry.json"))) >= made, "nothing that was made is lost"
    assert kills >= 3
    status, said = finish(plan, output, cache)
    assert status == 0, said
    float_versions = [name for name, each in published(output).items() if name.endswith("yaml") and b"int8" not in each]
    assert float_versions
    expected = published(done / "models")
    assert {name: published(output)[name] for name in float_versions} == {
        name: expected[name] for name in float_versions
    }
    assert published(output).keys() == expected.keys()


def test_ctrl_c_ends_the_workers_and_says_so(tmp_path: Path) -> None:
    plan = write_stranger(tmp_path / "stopped", training={"epochs": 5000})
    process = start(plan, tmp_path / "models", tmp_path / "cache")
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not list((tmp_path / "cache" / "porting").glob("*.unfinished/last.ckpt")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    workers = subprocess.run(
        ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True, timeout=10
    ).stdout.split()
    assert workers
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "Traceback" not in said
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]


FORWARD_LINE = MODULE.splitlines().index("        return self.layers(x)") + 1
BAD_INPUT: list[tuple[dict[str, object], tuple[str, str] | None, str]] = [
    ({"model": {"import": "min:Net"}}, None, "there is no module 'min'"),
    ({"model": {"import": "mine:Nett"}}, None, "mine has no Nett; did you mean Net?"),
    ({"model": {"import": "mine:Tumours"}}, None, "must be a subclass of lightning.pytorch.core"),
    ({"model": {"import": "mine:Net", "arguments": {"depth": 3}}}, None, "unexpected keyword argument 'depth'"),
    ({"model": {"builtin": "resnet19"}}, None, "there is no built-in network 'resnet19'"),
    ({"model": {"builtin": "resnet18"}}, None, "resnet18 takes images: input must be [channels, height, width]"),
    ({"data": {"builtin": "mnist"}}, None, "there is no built-in data 'mnist': there is digits"),
    ({"input": [15]}, None, "inputs of the train split have the shape [30], the plan's input says [15]"),
    ({"training": {"epochs": 1, "learningRate": 0.1}}, None, "training.learningRate is for built-in networks"),
    ({"training": {"epochs": 1, "batchSize": 8}}, None, "training.batchSize is for built-in data"),
    ({}, ("return self.layers(x)", "return self.layers(x), x"), "forward answers a tuple of 2; Rung serves"),
    ({}, ("nn.Linear(width, 2)", "nn.Linear(width, 4)"), "forward answers (2, 4) for two inputs; the data has 2"),
    (
        {},
        ("return self.layers(x)", "return self.layer(x)"),
        f"mine.py:{FORWARD_LINE}",
    ),
    ({}, ("import lightning, torch", "import lightning, torch, nosuch"), "mine needs the module 'nosuch'"),
    ({}, ("import lightning, torch", "import lightning, torch\n1 / 0"), "ZeroDivisionError: division by zero"),
    ({}, ("batch[0]), batch[1])", "batch[0]), batch[1]) / 0 * 0"), "the loss became nan in epoch 1, batch 1: lower"),
    ({}, ("def val_dataloader", "def other"), "has no validation split"),
    ({}, ("def test_dataloader", "def other"), "has no test split"),
    ({}, ("self.parts[2], 100)", "[], 100)"), "the test split is empty"),
    ({}, ("torch.tensor(y)", "torch.tensor(y * 1.0)"), "must be one whole number for each input"),
]


@pytest.mark.parametrize(("changes", "code", "sentence"), BAD_INPUT, ids=[sentence for _, _, sentence in BAD_INPUT])
def test_every_bad_input_gets_a_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, object],
    code: tuple[str, str] | None,
    sentence: str,
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    text = MODULE if code is None else MODULE.replace(*code)
    assert (text != MODULE) == (code is not None)
    plan = write_stranger(tmp_path / "bad", text, **changes)
    look_beside(plan.parent)
    try:
        said = Workshop(read_plan(str(plan)), Store(tmp_path / "store")).outcome(Recipe()).failure
    except PortingError as error:
        said = str(error)
    assert said is not None
    assert sentence in said
    assert "\n" not in said
    assert not list((tmp_path / "store").glob("*/entry.json"))


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (
            ("return self.layers(x)", "return self.layers(x), x"),
            "Error: tumours: model mine:Net: forward answers a",
        ),
        (("batch[0]), batch[1])", "batch[0]), batch[1]) / 0 * 0"), "Error: tumours: the loss became nan"),
    ],
)
def test_a_run_that_fails_says_so_and_writes_nothing(tmp_path: Path, code: tuple[str, str], sentence: str) -> None:
    plan = write_stranger(tmp_path / "bad", MODULE.replace(*code))
    status, said = finish(plan, tmp_path / "models", tmp_path / "cache")
    assert status == 1, said
    assert sentence in " ".join(said.split()), said
    assert "Traceback" not in said
    assert not (tmp_path / "models").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk: needs root")
@pytest.mark.parametrize("kibibytes", [24, 200])
def test_a_disk_that_is_full_is_one_sentence_wherever_it_happens(tmp_path: Path, kibibytes: int) -> None:
    plan, cache = write_stranger(tmp_path / "mine"), tmp_path / "cache"
    cache.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "rung-test", cache], check=True)
    try:
        status, said = finish(plan, tmp_path / "models", cache)
    finally:
        subprocess.run(["umount", cache], check=True)
    assert status == 1
    assert "the disk is full: make room, or set RUNG_CACHE to another one" in said
    assert "Traceback" not in said
