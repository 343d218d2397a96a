"""A PortingJob on two nodes of different hardware classes, from the manifest to profiled, registered versions.

The pods run the torch of this machine's `.venv-porting`, mounted into the small image: what the image with torch holds
is checked where it is built, and it would take minutes and gigabytes to load here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from installed.cluster import CHART, Namespace, embedded_cluster, until
from rung_demo.environment import PROJECT

pytestmark = [pytest.mark.e2e, pytest.mark.quiet, pytest.mark.timeout(1500)]

DEMO = PROJECT / "examples/demo"
PACKAGES = PROJECT / ".venv-porting/lib/python3.11/site-packages"
HOME = "rung-porting"
DONE_SECONDS = 900
CODE = """
import lightning, numpy, torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split


class Net(lightning.LightningModule):
    def __init__(self, width):
        super().__init__()
        layers = [nn.Upsample(scale_factor=2)]
        for before in (1, width, width):
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))

    def forward(self, x):
        return self.layers(x)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.003)


class Digits(lightning.LightningDataModule):
    def setup(self, stage):
        x, y = load_digits(return_X_y=True)
        x = torch.tensor(x.reshape(-1, 1, 8, 8) / 16, dtype=torch.float32)
        x = x + 0.25 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
        self.parts = random_split(TensorDataset(x, torch.tensor(y)), [897, 300, 600], torch.Generator().manual_seed(0))

    def train_dataloader(self):
        return DataLoader(self.parts[0], 32, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.parts[1], 100)

    def test_dataloader(self):
        return DataLoader(self.parts[2], 100)
"""
SPEC: dict[str, Any] = {
    "task": "noisy",
    "model": {"import": "mine:Net", "arguments": {"width": 112}},
    "data": {"import": "mine:Digits"},
    "input": [1, 8, 8],
    "training": {"epochs": 4},
    "methods": {"prune": {"criteria": ["L1"], "epochs": [2], "iterations": [1]}},
    "budget": {"trials": 2, "parallel": 2},
    "targets": {"flopsSpan": 5, "maxVersions": 3},
    "cluster": {
        "code": {"name": "mine"},
        "retries": 1,
        "deadline": "30m",
        "profiles": [{"hardwareClass": "fast", "cpu": "1", "sloLatency": "400ms"}],
    },
}


@pytest.fixture(scope="module")
def home() -> Iterator[Namespace]:
    if os.environ.get("KUBECONFIG") or os.geteuid() != 0:
        pytest.skip("needs two embedded nodes of different classes: run as root without KUBECONFIG")
    if not PACKAGES.is_dir():
        pytest.skip("needs the porting environment: make setup-porting")
    nodes = ("--nodes=2", "--node-class=1=fast", "--node-class=2=slow")
    with embedded_cluster(f"porting-{os.getpid()}", *nodes) as cluster:
        namespace = cluster.namespaced(HOME)
        namespace.make()
        namespace.kubectl("apply", f"--filename={DEMO / 's3.yaml'}")
        values = {
            "porting": {
                "enabled": True,
                "image": {"repository": "localhost/rung/rung-loadgen"},
                "workspace": "s3://models/porting",
                "resources": {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "3Gi"}},
                "extraEnv": [{"name": "PYTHONPATH", "value": "/opt/code:/opt/packages"}],
                "volumes": [{"name": "packages", "hostPath": {"path": str(PACKAGES), "type": "Directory"}}],
                "volumeMounts": [{"name": "packages", "mountPath": "/opt/packages", "readOnly": True}],
            },
            "triton": {"enabled": False},
            "pool": {"create": False},
        }
        namespace.helm(
            "install",
            "rung",
            str(CHART),
            f"--values={DEMO / 'values.yaml'}",
            *_sets(values),
            "--wait",
            "--timeout=120s",
        )
        namespace.kubectl("rollout", "status", "deployment/s3", "--timeout=60s")
        namespace.kubectl("create", "configmap", "mine", f"--from-literal=mine.py={CODE}")
        yield namespace


def _sets(values: dict[str, Any]) -> list[str]:
    return [f"--set-json={name}={json.dumps(value)}" for name, value in values.items()]


def apply(home: Namespace, name: str, **changes: Any) -> None:
    manifest = {"apiVersion": "rung.dev/v1alpha1", "kind": "PortingJob", "metadata": {"name": name}}
    home.kubectl("apply", "--filename=-", text=yaml.safe_dump({**manifest, "spec": {**SPEC, **changes}}))


def status(home: Namespace, name: str) -> dict[str, Any]:
    found: dict[str, Any] = home.get("pjob", name).get("status", {})
    return found


def until_ended(home: Namespace, name: str) -> list[str]:
    """Wait for the end; returns the phases that were seen."""
    phases: list[str] = []

    def ended() -> bool:
        phase = status(home, name).get("phase", "")
        if phase and phase not in phases[-1:]:
            phases.append(phase)
        return phase in ("Succeeded", "Failed")

    def fault() -> str:
        logs = home.kubectl("logs", f"--selector=rung.dev/porting-job={name}", "--all-containers", "--tail=20")
        return f"{status(home, name)}\n{home.kubectl('get', 'jobs,pods', '--output=wide')}\n{logs}"

    until(ended, fault, DONE_SECONDS)
    return phases


def nodes_of(home: Namespace, name: str) -> dict[str, set[str]]:
    """Return the nodes on which the pods of each Job of a porting job ran."""
    found: dict[str, set[str]] = {}
    for pod in home.get("pods", f"--selector=rung.dev/porting-job={name}")["items"]:
        job = pod["metadata"]["labels"]["batch.kubernetes.io/job-name"].removeprefix(f"{name}-")
        found.setdefault(job, set()).add(pod["spec"]["nodeName"])
    return found


def versions(home: Namespace) -> dict[int, dict[str, dict[str, Any]]]:
    """Return the profiles of each registered version, by hardware class."""
    return {
        each["spec"]["version"]: {profile["hardwareClass"]: profile for profile in each["spec"]["profiles"]}
        for each in home.get("mver")["items"]
    }


def test_two_nodes_search_publish_profile_and_register(home: Namespace) -> None:
    apply(home, "noisy")
    phases = until_ended(home, "noisy")
    found = status(home, "noisy")
    assert phases[-1] == "Succeeded", found
    seen = [each for each in phases if each in ("Searching", "Publishing", "Profiling")]
    assert seen == ["Searching", "Publishing", "Profiling"]
    assert found["trials"] == {"planned": 2, "made": 2, "failed": 0}
    (progress,) = found["profiles"]
    assert (progress["hardwareClass"], progress["phase"]) == ("fast", "Done")
    assert "versions measured" in progress["message"]
    assert len(nodes_of(home, "noisy")["search-1"]) == 2, "the trials of a round spread over the nodes"
    registered = versions(home)
    assert set(registered) == {each["version"] for each in found["frontier"]}
    assert 2 <= len(registered) <= 3
    assert all(set(profiles) == {"fast"} for profiles in registered.values())
    assert "noisy" in home.kubectl("get", "pjob")


def test_the_same_plan_with_a_second_class_makes_nothing_anew_and_half_a_cpu_does_about_half(home: Namespace) -> None:
    # A job of its own, so that the two classes, here on the cores of one machine, are not measured at the same time.
    slow = {"hardwareClass": "slow", "cpu": "500m", "sloLatency": "400ms"}
    apply(home, "again", cluster={**SPEC["cluster"], "profiles": [*SPEC["cluster"]["profiles"], slow]})
    assert until_ended(home, "again")[-1] == "Succeeded", status(home, "again")
    assert "training" not in home.kubectl("logs", "job/again-search-0")
    nodes = nodes_of(home, "again")
    assert nodes["profile-0"].isdisjoint(nodes["profile-1"]), "each class on its own node"
    assert "has a profile for fast" in home.kubectl("logs", "job/again-profile-0", "--container=porting")
    for number, profiles in versions(home).items():
        assert set(profiles) == {"fast", "slow"}
        assert (profiles["fast"]["cpu"], profiles["slow"]["cpu"]) == ("1", "500m")
        fast, slowly = (profiles[name]["maxThroughput"] for name in ("fast", "slow"))
        print(f"noisy {number}: {fast:.0f}/s on one CPU, {slowly:.0f}/s on half a CPU ({slowly / fast:.2f})")
        assert 0.3 < slowly / fast < 0.7


def test_deleting_it_takes_its_jobs_and_leaves_its_versions(home: Namespace) -> None:
    for name in ("noisy", "again"):
        home.kubectl("delete", "pjob", name)
    left = "jobs,pods,configmaps"

    def gone() -> bool:
        return not home.get(left, "--selector=rung.dev/porting-job")["items"]

    until(gone, lambda: home.kubectl("get", left, "--selector=rung.dev/porting-job"))
    assert home.get("mver")["items"]


def test_a_plan_that_can_not_work_fails_with_the_reason(home: Namespace) -> None:
    apply(home, "typo", model={"import": "mine:Nett"}, cluster={**SPEC["cluster"], "retries": 0})
    assert until_ended(home, "typo")[-1] == "Failed"
    assert "mine has no Nett; did you mean Net?" in status(home, "typo")["message"]


def test_the_spec_can_not_be_changed(home: Namespace) -> None:
    changed = {"spec": {"budget": {"trials": 3}}}
    with pytest.raises(Exception, match="can't be changed: delete it and make another one"):
        home.patch("pjob", "typo", changed)


def test_a_deadline_that_is_over_ends_it(home: Namespace) -> None:
    apply(home, "late", cluster={"deadline": "3s", "code": {"name": "mine"}})
    assert until_ended(home, "late")[-1] == "Failed"
    assert "3s" in status(home, "late")["message"] or "deadline" in status(home, "late")["message"]


def test_the_example_is_accepted(home: Namespace) -> None:
    for path in sorted(Path(PROJECT / "examples/porting").glob("job*.yaml")):
        home.kubectl("apply", "--dry-run=server", f"--filename={path}")
