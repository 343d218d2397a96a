"""The Jobs and the ConfigMap of a porting job: the chart's pod templates with what only the operator knows."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rung.api import PortingJob, PortingPlan, ProfileTarget
from rung.api.base import API_VERSION
from rung.core.porting_steps import Step, StepKind

JOB_LABEL = "rung.dev/porting-job"
STEP_ANNOTATION = "rung.dev/porting-step"
HARDWARE_CLASS_LABEL = "rung.dev/hardware-class"
CONTAINER, SERVER = "porting", "triton"
LONGEST_NAME = 40
PLAN_FOLDER, PLAN_FILE = "/plan", "plan.yaml"
_TRITON = "localhost:8001"
_SEARCH, _PROFILE = "steps", "profile"
_REPOSITORY, _WORKSPACE = "$(RUNG_REPOSITORY)", "--workspace=$(RUNG_WORKSPACE)"


class BadTemplates(Exception):  # noqa: N818 - it names the state of the file
    """The chart's pod templates can't be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Templates:
    """Pod templates as the chart gives them: of the pods that search, publish and register, and of those that profile.

    The container `porting` of each gets its arguments and the plan; where versions are measured, the sidecar `triton`
    gets its CPU limit.
    """

    steps: Mapping[str, Any]
    profile: Mapping[str, Any]


def read_templates(path: Path) -> Templates:
    """Read the chart's file. Raises BadTemplates."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise BadTemplates(f"{path}: {error}") from None
    if not isinstance(content, dict):
        raise BadTemplates(f"{path}: it has no pod templates")
    for name in (_SEARCH, _PROFILE):
        try:
            containers = [each["name"] for each in content[name]["spec"]["containers"]]
        except (KeyError, TypeError) as error:
            raise BadTemplates(f"{path}: {name} is no pod template: {error!r}") from None
        if CONTAINER not in containers:
            raise BadTemplates(f"{path}: {name} has no container {CONTAINER}")
    return Templates(content[_SEARCH], content[_PROFILE])


def plan_manifest(job: PortingJob) -> dict[str, Any]:
    """Return the ConfigMap that holds the plan, as `rung-port` reads it."""
    plan = {name: value for name, value in job.spec.to_json().items() if name in _plan_fields()}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(job, _plan_name(job)),
        "data": {PLAN_FILE: yaml.safe_dump(plan, sort_keys=False)},
    }


def job_manifest(job: PortingJob, step: Step, templates: Templates, seconds_left: float) -> dict[str, Any]:
    """Return the Job of one step. An index whose pods failed doesn't end the others (backoffLimitPerIndex)."""
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {**_metadata(job, job_name(job, step)), "annotations": {STEP_ANNOTATION: step.key}},
        "spec": {
            "completionMode": "Indexed",
            "completions": step.pods,
            "parallelism": step.pods,
            "backoffLimitPerIndex": job.spec.cluster.retries,
            "activeDeadlineSeconds": max(1, int(seconds_left)),
            "template": _pod_template(job, step, templates),
        },
    }


def job_name(job: PortingJob, step: Step) -> str:
    """Return the name of a step's Job; classes are numbered, since their names may be long."""
    if step.kind is StepKind.PROFILE:
        classes = [target.hardware_class for target in job.spec.cluster.profiles]
        return f"{short_name(job)}-{step.kind}-{classes.index(step.hardware_class)}"
    return f"{short_name(job)}-{step.key}"


def short_name(job: PortingJob) -> str:
    """Return what the names of a porting job's Jobs begin with, and its label's value: 63 characters are the most."""
    if len(job.name) <= LONGEST_NAME and "." not in job.name:
        return job.name
    digest = hashlib.sha256(job.name.encode()).hexdigest()[:8]
    return f"{job.name.replace('.', '-')[: LONGEST_NAME - 9]}-{digest}"


def selector(job: PortingJob) -> str:
    """Return what selects the Jobs and pods of a porting job."""
    return f"{JOB_LABEL}={short_name(job)}"


def _plan_fields() -> set[str]:
    return {field.alias or name for name, field in PortingPlan.model_fields.items()}


def _plan_name(job: PortingJob) -> str:
    # One that is made again under its name has another plan, while the old one's is still to be collected.
    return f"{short_name(job)}-plan-{(job.uid or '')[:8]}"


def _metadata(job: PortingJob, name: str) -> dict[str, Any]:
    owner = {"apiVersion": API_VERSION, "kind": "PortingJob", "name": job.name, "uid": job.uid, "controller": True}
    return {"name": name, "namespace": job.namespace, "labels": _labels(job), "ownerReferences": [owner]}


def _labels(job: PortingJob) -> dict[str, str]:
    return {JOB_LABEL: short_name(job), "app.kubernetes.io/managed-by": "rung"}


def _pod_template(job: PortingJob, step: Step, templates: Templates) -> dict[str, Any]:
    profiles = step.kind is StepKind.PROFILE
    template: dict[str, Any] = copy.deepcopy(dict(templates.profile if profiles else templates.steps))
    metadata = template.setdefault("metadata", {})
    metadata["labels"] = {**(metadata.get("labels") or {}), **_labels(job)}
    spec = template["spec"]
    spec["restartPolicy"] = "Never"
    # Trials run the user's code: only the pod that registers gets the right to write ModelVersions.
    spec["automountServiceAccountToken"] = step.kind is StepKind.REGISTER
    container = next(each for each in spec["containers"] if each["name"] == CONTAINER)
    container["args"] = _arguments(job, step)
    _mount_plan(job, spec, container)
    if step.kind is StepKind.PUBLISH:
        _add_server(spec, templates)
    if profiles:
        target = _target(job, step)
        spec["nodeSelector"] = {
            **(spec.get("nodeSelector") or {}),
            HARDWARE_CLASS_LABEL: target.hardware_class,
        }
        for server in [*(spec.get("initContainers") or ()), *spec["containers"]]:
            if server["name"] == SERVER:
                resources = server.setdefault("resources", {})
                for kind in ("requests", "limits"):
                    resources[kind] = {**(resources.get(kind) or {}), "cpu": str(target.cpu)}
    return template


def _add_server(spec: dict[str, Any], templates: Templates) -> None:
    """Put a Triton beside the pod that publishes: what does not load there is not published.

    It answers one request a version, so it asks for no CPU of its own: a small node has none to spare.
    """
    profile = copy.deepcopy(dict(templates.profile["spec"]))
    servers = [each for each in profile.get("initContainers") or () if each["name"] == SERVER]
    mounted: set[str] = set()
    for server in servers:
        (server.get("resources") or {}).get("requests", {}).pop("cpu", None)
        (server.get("resources") or {}).get("limits", {}).pop("cpu", None)
        for mount in server.get("volumeMounts") or ():
            mounted.add(mount["name"])
            mount["name"] = f"{SERVER}-{mount['name']}"
    volumes = [each for each in profile.get("volumes") or () if each["name"] in mounted]
    spec["initContainers"] = [*(spec.get("initContainers") or ()), *servers]
    spec["volumes"] = [
        *(spec.get("volumes") or ()), *({**each, "name": f"{SERVER}-{each['name']}"} for each in volumes)
    ]  # fmt: skip
    spec["tolerations"] = [*(spec.get("tolerations") or ()), *(profile.get("tolerations") or ())]
    if profile.get("runtimeClassName"):
        spec["runtimeClassName"] = profile["runtimeClassName"]


def _mount_plan(job: PortingJob, spec: dict[str, Any], container: dict[str, Any]) -> None:
    sources: list[dict[str, Any]] = [{"configMap": {"name": _plan_name(job)}}]
    if job.spec.cluster.code is not None:
        # Optional: without it a pod starts and says which module it misses. The plan's own file wins, so it is last.
        sources.insert(0, {"configMap": {"name": job.spec.cluster.code.name, "optional": True}})
    spec["volumes"] = [*(spec.get("volumes") or ()), {"name": "plan", "projected": {"sources": sources}}]
    mount = {"name": "plan", "mountPath": PLAN_FOLDER, "readOnly": True}
    container["volumeMounts"] = [*(container.get("volumeMounts") or ()), mount]


def _target(job: PortingJob, step: Step) -> ProfileTarget:
    return next(each for each in job.spec.cluster.profiles if each.hardware_class == step.hardware_class)


def _arguments(job: PortingJob, step: Step) -> list[str]:
    """Return the arguments of `rung-port`; Kubernetes puts in where the repository is, which the chart knows."""
    plan = f"{PLAN_FOLDER}/{PLAN_FILE}"
    # Stages are shared by all jobs of the workspace; what came of its trials is each job's own.
    shared = [_WORKSPACE, f"--search={job.uid}"]
    if step.kind is StepKind.SEARCH:
        return ["trial", plan, f"--round={step.round}", *shared]
    if step.kind is StepKind.PUBLISH:
        return ["gather", plan, *shared, f"--repository={_REPOSITORY}", f"--triton={_TRITON}"]
    if step.kind is StepKind.REGISTER:
        return ["register", _REPOSITORY, f"--task={job.spec.task}", f"--namespace={job.namespace}"]
    target = _target(job, step)
    return [
        "profile",
        f"--triton={_TRITON}",
        "--agent=http://localhost:8090",
        f"--repository={_REPOSITORY}",
        f"--tasks={job.spec.task}",
        f"--hardware-class={target.hardware_class}",
        f"--cpu={target.cpu.cores:g}",
        f"--slo={target.slo_latency}",
        "--skip-existing",
    ]
