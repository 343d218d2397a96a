"""The Jobs of a porting job, from the chart's templates as helm renders them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from rung.api import parse_porting_job
from rung.control.porting_manifests import (
    BadTemplates,
    Templates,
    job_manifest,
    job_name,
    plan_manifest,
    read_templates,
    selector,
)
from rung.core.porting_steps import Step, StepKind

JOB = parse_porting_job(
    {
        "metadata": {"name": "digits", "namespace": "edge", "uid": "u-1", "generation": 1},
        "spec": {
            "task": "digits",
            "model": {"import": "mine:Net", "arguments": {"width": 8}},
            "data": {"builtin": "digits"},
            "input": [1, 8, 8],
            "cluster": {
                "code": {"name": "my-code"},
                "retries": 3,
                "profiles": [
                    {"hardwareClass": "n100", "sloLatency": "100ms"},
                    {"hardwareClass": "rpi5", "cpu": "500m", "sloLatency": "400ms"},
                ],
            },
        },
    }
)
PORTING = {"name": "porting", "image": "a", "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}]}
TEMPLATES = Templates(
    steps={"metadata": {"labels": {"mine": "too"}}, "spec": {"containers": [PORTING], "volumes": [{"name": "tmp"}]}},
    profile={
        "spec": {
            "containers": [PORTING],
            "initContainers": [
                {
                    "name": "triton",
                    "resources": {"limits": {"cpu": "4", "memory": "1Gi"}},
                    "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],
                },
                {"name": "agent", "volumeMounts": [{"name": "models", "mountPath": "/models"}]},
            ],
            "volumes": [{"name": "shm"}, {"name": "models"}],
            "nodeSelector": {"disk": "ssd"},
        }
    },
)


def made(step: Step, seconds_left: float = 100.7) -> dict[str, Any]:
    return job_manifest(JOB, step, TEMPLATES, seconds_left)


def test_a_round_is_an_indexed_job_of_the_porting_job_in_which_one_index_does_not_end_the_others() -> None:
    job = made(Step(StepKind.SEARCH, 2, pods=4))
    assert job["metadata"]["name"] == "digits-search-2"
    assert job["metadata"]["namespace"] == "edge"
    (owner,) = job["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"], owner["controller"]) == ("PortingJob", "u-1", True)
    spec = job["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 4, 4)
    assert (spec["backoffLimitPerIndex"], spec["activeDeadlineSeconds"]) == (3, 100)
    pod = spec["template"]
    assert pod["metadata"]["labels"]["mine"] == "too"
    assert pod["metadata"]["labels"]["rung.dev/porting-job"] == "digits"
    (container,) = pod["spec"]["containers"]
    assert container["args"] == [
        "trial", "/plan/plan.yaml", "--round=2", "--workspace=$(RUNG_WORKSPACE)", "--search=u-1"
    ]  # fmt: skip
    (_, plan) = pod["spec"]["volumes"]
    assert [each["configMap"]["name"] for each in plan["projected"]["sources"]] == ["my-code", "digits-plan-u-1"]
    assert container["volumeMounts"][-1] == {"name": "plan", "mountPath": "/plan", "readOnly": True}
    assert TEMPLATES.steps["spec"]["volumes"] == [{"name": "tmp"}], "the template itself is not changed"


def test_a_class_is_measured_on_its_nodes_with_its_cpu_limit() -> None:
    job = made(Step(StepKind.PROFILE, hardware_class="rpi5"))
    assert job["metadata"]["name"] == "digits-profile-1"
    spec = job["spec"]["template"]["spec"]
    assert spec["nodeSelector"] == {"disk": "ssd", "rung.dev/hardware-class": "rpi5"}
    triton, agent = spec["initContainers"]
    assert "resources" not in agent
    assert triton["resources"] == {"limits": {"cpu": "500m", "memory": "1Gi"}, "requests": {"cpu": "500m"}}
    arguments = spec["containers"][0]["args"]
    assert {"--tasks=digits", "--hardware-class=rpi5", "--cpu=0.5", "--slo=400ms"} <= set(arguments)


def test_a_server_stands_beside_the_pod_that_publishes() -> None:
    spec = made(Step(StepKind.PUBLISH))["spec"]["template"]["spec"]
    assert [each["name"] for each in spec["initContainers"]] == ["triton"]
    assert {each["name"] for each in spec["volumes"]} == {"tmp", "plan", "triton-shm"}
    (triton,) = spec["initContainers"]
    assert triton["volumeMounts"] == [{"name": "triton-shm", "mountPath": "/dev/shm"}]
    assert triton["resources"] == {"limits": {"memory": "1Gi"}}, "it needs no CPU of its own"
    assert "--triton=localhost:8001" in spec["containers"][0]["args"]
    assert "initContainers" not in TEMPLATES.steps["spec"]
    tokens = {
        step.kind: made(step)["spec"]["template"]["spec"]["automountServiceAccountToken"]
        for step in (Step(StepKind.SEARCH), Step(StepKind.PUBLISH), Step(StepKind.REGISTER))
    }
    assert tokens == {StepKind.SEARCH: False, StepKind.PUBLISH: False, StepKind.REGISTER: True}


def test_the_names_tell_the_steps_apart() -> None:
    steps = [
        Step(StepKind.SEARCH, 0), Step(StepKind.SEARCH, 1), Step(StepKind.PUBLISH), Step(StepKind.REGISTER),
        Step(StepKind.PROFILE, hardware_class="n100"), Step(StepKind.PROFILE, hardware_class="rpi5"),
    ]  # fmt: skip
    assert len({job_name(JOB, step) for step in steps}) == len({step.key for step in steps}) == len(steps)


@pytest.mark.parametrize("name", ["a" * 41, "a" * 253, "digits.v1", "b." * 20 + "c"])
def test_long_names_and_dots_become_names_that_jobs_and_labels_can_have(name: str) -> None:
    job = JOB.model_copy(update={"metadata": JOB.metadata.model_copy(update={"name": name})})
    found = job_name(job, Step(StepKind.SEARCH, 1000))
    assert re.fullmatch(r"[a-z0-9][-a-z0-9]{0,62}", found)
    assert selector(job) == f"rung.dev/porting-job={found.removesuffix('-search-1000')}"
    other = JOB.model_copy(update={"metadata": JOB.metadata.model_copy(update={"name": name + "x"})})
    assert job_name(other, Step(StepKind.PUBLISH)) != job_name(job, Step(StepKind.PUBLISH))


def test_a_deadline_that_is_all_but_over_is_still_a_second() -> None:
    assert made(Step(StepKind.PUBLISH), -5)["spec"]["activeDeadlineSeconds"] == 1


def test_the_plan_is_what_rung_port_reads() -> None:
    manifest = plan_manifest(JOB)
    assert manifest["metadata"]["ownerReferences"][0]["uid"] == "u-1"
    plan = yaml.safe_load(manifest["data"]["plan.yaml"])
    assert "cluster" not in plan
    assert plan["model"] == {"import": "mine:Net", "arguments": {"width": 8}}
    assert JOB.spec.model_validate({**plan, "cluster": JOB.spec.cluster.to_json()}) == JOB.spec


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it has no pod templates"),
        ("[1]", "it has no pod templates"),
        ("steps: {}", "steps is no pod template: KeyError"),
        ("steps: {spec: {containers: [{name: other}]}}", "steps has no container porting"),
        ("steps: [", "while parsing"),
    ],
)
def test_templates_that_can_not_be_used_are_refused(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "templates.yaml"
    path.write_text(text)
    with pytest.raises(BadTemplates, match=why):
        read_templates(path)
    with pytest.raises(BadTemplates, match="No such file"):
        read_templates(tmp_path / "none.yaml")
