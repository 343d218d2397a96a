"""Trials that share a store in S3, as the pods of a PortingJob do: together they come to what `rung-port run` makes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from servers.s3 import S3Server, running_s3
from servers.triton import TritonServer

pytestmark = [pytest.mark.cluster, pytest.mark.porting, pytest.mark.timeout(900)]
pytest.importorskip("torch", reason="needs the porting environment: make setup-porting")

from rung.adapters.s3 import ModelRepository  # noqa: E402
from rung_porting.cluster.shared_store import SharedStore  # noqa: E402
from rung_porting.errors import StoreError  # noqa: E402

PLAN: dict[str, Any] = {
    "task": "bursts",
    "model": {"builtin": "residual", "arguments": {"streams": [16, 24], "blocks": 1, "side": 8}},
    "data": {"builtin": "digits", "arguments": {"noise": 0.2}},
    "input": [2, 8, 8],
    "training": {"epochs": 2, "learningRate": 0.003},
    "methods": {
        "prune": {"epochs": [1], "iterations": [1], "roundTo": 1},
        "knob": {"argument": "frames", "values": [1]},
    },
    "budget": {"trials": 3, "parallel": 2},
    "targets": {"flopsSpan": 20},
}
ROUNDS = (1, 2, 1)


class Pods:
    """Each with a disk of its own, which is gone when it ends; they share a bucket and nothing else."""

    def __init__(self, folder: Path, s3: S3Server, name: str) -> None:
        self.folder = folder
        self.environment = {**os.environ, **s3.environment, "AWS_ENDPOINT_URL": s3.endpoint}
        self.plan = folder / "plan.yaml"
        self.plan.write_text(yaml.safe_dump(PLAN))
        self.search = "job-1"
        self.workspace, self.repository = f"s3://models/{name}-porting", f"s3://models/{name}"
        self.stages = s3.folder / f"objects/models/{name}-porting/stages"
        self.published = s3.folder / f"objects/models/{name}"

    def run(self, *arguments: object, status: int = 0) -> tuple[str, dict[str, Any]]:
        """Run one to its end. Returns what it printed and its last words."""
        disk, words = self.folder / "disk", self.folder / "words"
        shutil.rmtree(disk, ignore_errors=True)
        disk.mkdir()
        words.unlink(missing_ok=True)
        done = subprocess.run(
            [Path(sys.executable).parent / "rung-port", *map(str, arguments)],
            env={**self.environment, "TMPDIR": str(disk), "RUNG_LAST_WORDS": str(words)},
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == status, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr, json.loads(words.read_text()) if words.exists() else {}

    def trial(self, number: int, index: int, *, status: int = 0) -> tuple[str, dict[str, Any]]:
        options = ("--round", number, "--index", index, "--workspace", self.workspace, "--search", self.search)
        return self.run("trial", self.plan, *options, status=status)

    def gather(self, triton: TritonServer) -> tuple[str, dict[str, Any]]:
        options = ("--repository", self.repository, "--triton", triton.address)
        shared = ("--workspace", self.workspace, "--search", self.search)
        return self.run("gather", self.plan, *shared, *options)


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, bucket: S3Server) -> Pods:
    """A search that was made to its end."""
    pods = Pods(tmp_path_factory.mktemp("whole"), bucket, "whole")
    for number, count in enumerate(ROUNDS):
        for index in range(count):
            said, words = pods.trial(number, index)
            assert words["made"] is True
            assert len(words["versions"]) == 2, said
    return pods


@pytest.fixture
def begun(tmp_path: Path, bucket: S3Server, whole: Pods, request: pytest.FixtureRequest) -> Pods:
    """A workspace of this test's own, in which only the unpruned network was made."""
    pods = Pods(tmp_path, bucket, request.node.name.split("[")[0].replace("_", "-")[:40].strip("-"))
    shutil.copytree(whole.stages.parent, pods.stages.parent)
    for path in [*pods.stages.parent.glob("outcomes/*/[12]-*"), *pods.stages.glob("bursts-prune-*")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(pods.stages.parent / "outcomes/job-2", ignore_errors=True)
    return pods


def models(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("model.onnx")}


def test_pods_that_share_nothing_but_s3_publish_what_one_machine_makes(whole: Pods, triton: TritonServer) -> None:
    _, words = whole.trial(len(ROUNDS), 0)
    assert words == {"over": "3 of 3 trials are made"}
    said, words = whole.gather(triton)
    local = whole.folder / "local"
    whole.run("run", whole.plan, "--output", local)
    there = models(whole.published)
    assert there, said
    assert there.items() <= models(local).items()
    assert {each["version"] for each in words["versions"]} == {int(name.split("/")[1]) for name in there}


def test_another_job_of_the_same_plan_looks_up_what_was_made(whole: Pods) -> None:
    whole.search = "job-2"
    said, words = whole.trial(0, 0)
    assert words["made"] is True
    assert "training" not in said
    assert len(list(whole.stages.parent.glob("outcomes/job-2/*.json"))) == 1
    whole.search = "job-1"


def test_a_trial_whose_pods_failed_is_lost_for_good_and_the_others_go_on(begun: Pods, triton: TritonServer) -> None:
    begun.trial(1, 1)
    _, words = begun.trial(2, 0)
    assert words["made"] is True
    # A pod that was taken for dead comes to its end all the same: history is written.
    _, words = begun.trial(1, 0)
    assert words["failure"] == "its pods failed"
    _, words = begun.gather(triton)
    assert words["versions"]


def test_half_an_upload_stands_in_nobodys_way(begun: Pods) -> None:
    (trained,) = begun.stages.glob("bursts-train-*")
    (trained / "entry.json").unlink()
    next(trained.iterdir()).unlink()
    said, words = begun.trial(1, 0)
    assert words["made"] is True
    assert "training the unpruned network" in said
    assert (trained / "entry.json").exists(), "and now it is whole"


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"files": {"../../x": "0"}}', '{"files": 3}', '{"files": {"x": "../../y"}}']
)
def test_what_a_stranger_wrote_into_the_workspace_is_refused_with_its_name(
    bucket: S3Server, tmp_path: Path, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    folder = bucket.folder / "objects/models/strange/stages/bursts-train-0"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "entry.json").write_text(content)
    store = SharedStore(tmp_path, ModelRepository("s3://models/strange", endpoint=bucket.endpoint))
    with pytest.raises(StoreError, match=r"bursts-train-0/entry\.json is no entry of a store; delete it"):
        store.get("bursts-train", "0")
    outcome = bucket.folder / "objects/models/strange/outcomes/a"
    outcome.mkdir(parents=True, exist_ok=True)
    (outcome / "0-0.json").write_text(content)
    with pytest.raises(StoreError, match=r"outcomes/a/0-0\.json is no outcome of a trial; delete it"):
        store.outcome("a", "0-0")


def test_what_can_not_be_reached_is_one_sentence_and_no_outcome(begun: Pods) -> None:
    (entry,) = begun.stages.glob("bursts-train-*/entry.json")
    entry.write_text("{")
    said, words = begun.trial(1, 0, status=1)
    assert "entry.json is no entry of a store; delete it" in said
    assert words == {}
    assert not list(begun.stages.parent.glob("outcomes/*/1-0.json"))
    begun.workspace = "s3://nowhere/x"
    said, _ = begun.trial(0, 0, status=1)
    assert "nowhere" in said
    begun.workspace = "s3://models/x"
    begun.environment["AWS_SECRET_ACCESS_KEY"] = "wrong"
    said, _ = begun.trial(0, 0, status=1)
    assert "denied" in said.lower() or "refuse" in said.lower(), said


def test_the_rounds_after_the_unpruned_network_need_it(tmp_path: Path, bucket: S3Server) -> None:
    said, _ = Pods(tmp_path, bucket, "empty").trial(1, 0, status=1)
    assert "the unpruned network: there is no outcome" in said
