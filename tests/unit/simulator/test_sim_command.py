"""`rung simulate`, as a user types it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from rung.cli import main

SECONDS = 90


def made(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "rung.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with pool.yaml and a trace for each of its two tasks."""
    metrics = {"prometheusUrl": "http://prometheus:9090"}
    policy = {"name": "Stepwise", "stepwise": {"downAbove": 0.9, "goal": 0.85}}
    objects = [made("ServingPool", "edge", {"serverSelector": {"a": "b"}, "metrics": metrics, "policy": policy})]
    for task in ("digits", "parity"):
        objects.append(made("InferenceTask", task, {"poolRef": {"name": "edge"}, "slo": {"latency": "400ms"}}))
        for number, (accuracy, seconds) in enumerate(((0.6, 0.01), (0.8, 0.04), (0.9, 0.1)), start=1):
            profile = {"hardwareClass": "default", "cpu": "1", "sloLatency": "400ms", "maxThroughput": 1 / seconds}
            artifact = {"uri": f"s3://models/{task}/{number}/model.onnx", "sha256": "0" * 64, "bytes": 9}
            accuracies = {"metric": "accuracy", "value": accuracy}
            spec = {"taskRef": {"name": task}, "version": number, "artifact": artifact, "accuracy": accuracies}
            objects.append(made("ModelVersion", f"{task}-{number}", {**spec, "profiles": [profile]}))
    (tmp_path / "pool.yaml").write_text(yaml.safe_dump_all(objects))
    (tmp_path / "digits.txt").write_text("4\n" * 30 + "9\n" * 30 + "4\n" * 30)
    (tmp_path / "parity.txt").write_text("3\n" * SECONDS)
    return tmp_path


def simulate(folder: Path, *arguments: str) -> Result:
    traces = [f"digits={folder / 'digits.txt'}", f"parity={folder / 'parity.txt'}"]
    return CliRunner().invoke(main, ["simulate", *traces, "--pool", str(folder / "pool.yaml"), *arguments])


def test_json_is_one_object_by_policy_with_everything_that_is_compared(folder: Path) -> None:
    names = ["Frontier", "Stepwise", "InFaaS", "ModelSwitching", "InfAdapter", "Proteus", "Best", "SlackFit", "Oracle"]
    words = [word for name in names for word in ("--policy", name)]
    done = simulate(folder, *words, "--json", "--seed", "3", "--reflex")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert list(found) == [label for name in names for label in (name, f"{name}+reflex")]
    for outcome in found.values():
        assert outcome["requests"] == found["Best"]["requests"]
        assert outcome["requests"] == pytest.approx(30 * (4 + 9 + 4) + 3 * SECONDS, rel=0.15)
        assert 0 <= outcome["late_share"] <= 1
        assert isinstance(outcome["failed"], int)
        assert set(outcome["normalized_accuracy_by_task"]) == {"digits", "parity"}
        mean = sum(outcome["normalized_accuracy_by_task"].values()) / 2
        assert outcome["normalized_accuracy"] == pytest.approx(mean)
        assert 0 < outcome["cpu"] <= 1
        assert outcome["core_seconds"] == SECONDS
        assert set(outcome["swaps"]) == {"warm", "cold"}
    assert found["Best"]["normalized_accuracy"] == 1.0
    assert found["InFaaS"]["normalized_accuracy"] == pytest.approx(0.6 / 0.9)
    again = simulate(folder, *words, "--json", "--seed", "3", "--reflex")
    timeless = [{k: v for k, v in o.items() if k != "decisions_per_second"} for o in json.loads(again.stdout).values()]
    assert timeless == [{k: v for k, v in o.items() if k != "decisions_per_second"} for o in found.values()]


def test_the_pools_own_parameters_count_for_the_policy_that_it_names(folder: Path) -> None:
    own = json.loads(simulate(folder, "--policy", "Stepwise", "--json").stdout)["Stepwise"]
    objects = list(yaml.safe_load_all((folder / "pool.yaml").read_text()))
    objects[0]["spec"]["policy"]["stepwise"] = {"downAbove": 0.4, "goal": 0.3, "upBelow": 0.2}
    (folder / "pool.yaml").write_text(yaml.safe_dump_all(objects))
    careful = json.loads(simulate(folder, "--policy", "Stepwise", "--json").stdout)["Stepwise"]
    assert careful["cpu"] < own["cpu"]


def test_the_table_and_the_folder(folder: Path) -> None:
    done = simulate(folder, "--policy", "Frontier", "--policy", "Cheapest", "--out", str(folder / "out"))
    assert done.exit_code == 0, done.output
    assert "Frontier" in done.output
    assert "norm. accuracy" in done.output
    out = folder / "out"
    assert {path.name for path in out.iterdir()} == {
        "outcome.json", "steps.jsonl", "late-over-accuracy.png", "Frontier.png", "Cheapest.png"
    }  # fmt: skip
    steps = [json.loads(line) for line in (out / "steps.jsonl").read_text().splitlines()]
    assert {step["policy"] for step in steps} == {"Frontier", "Cheapest"}
    assert all(step["reason"].endswith(".") for step in steps)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--policy", "Best ", "--policy", "Magic"], "there is no policy 'Best '; there are Frontier, Stepwise"),
        (["more=@digits.txt"], "the pool has no task more; it has digits, parity"),
        (["digits=@digits.txt"], "digits has two traces; give one"),
        (["--warm-up", "90"], "leaves nothing of the trace to count"),
        (["--cores", "0"], "0 is not from 0.01 to 1024"),
        (["--hardware-class", "n100"], "no version of digits has a profile for the hardware class n100"),
        (["--out", "/dev/null/x"], "can't be written"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(folder: Path, arguments: list[str], sentence: str) -> None:
    done = simulate(folder, *(word.replace("@", f"{folder}/") for word in arguments))
    assert done.exit_code in (1, 2)
    assert sentence in done.output
    assert "Traceback" not in done.output


def test_a_task_without_a_trace_is_named(folder: Path) -> None:
    one = [f"digits={folder / 'digits.txt'}", "--pool", str(folder / "pool.yaml")]
    done = CliRunner().invoke(main, ["simulate", *one])
    assert "parity has no trace; give parity=FILE" in done.output
    (folder / "digits.txt").write_text("1\nmany\n")
    done = CliRunner().invoke(main, ["simulate", *one])
    assert "'many' is no number" in done.output


def test_without_the_simulators_extra_it_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rung_sim.comparison", None)
    done = simulate(folder)
    assert done.exit_code == 1
    assert "pip install 'rung[sim]'" in done.output


def test_help_teaches() -> None:
    done = CliRunner().invoke(main, ["--help"])
    assert "simulate" in done.output
    done = CliRunner().invoke(main, ["simulate", "--help"])
    assert "one number a line" in done.output
    assert "kubectl get spool,itask,mver -o yaml" in " ".join(done.output.split())
