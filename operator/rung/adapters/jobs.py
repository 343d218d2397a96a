"""Kubernetes Jobs and what belongs to them: their pods' last words, and the ConfigMaps that they mount."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rung.adapters.kubernetes_calls import ApiPart, Conflict

_COMPLETION_INDEX = "batch.kubernetes.io/job-completion-index"
_MOST_OBJECTS = 1000


@dataclass(frozen=True, slots=True)
class JobState:
    """A Job as the API server has it. `complete` and `failed` are both False while it runs."""

    name: str
    owner_uid: str
    annotations: Mapping[str, str]
    complete: bool
    failed: bool
    active: int
    message: str
    failed_indexes: int


@dataclass(frozen=True, slots=True)
class JobPod:
    """A pod of a Job: how it stands, and what its container said when it ended (at most 4 kB)."""

    name: str
    job: str
    index: int
    phase: str
    message: str
    """What the container left as its last word; while it waits, why."""


class Jobs(ApiPart):
    """The Jobs of one API server."""

    async def list_jobs(self, namespace: str, selector: str) -> tuple[JobState, ...]:
        """Return the Jobs with these labels. Raises KubernetesError."""
        path = f"/apis/batch/v1/namespaces/{namespace}/jobs"
        answer = await self._send("listing Jobs", "GET", path, {"labelSelector": selector, "limit": _MOST_OBJECTS})
        return tuple(_job(raw) for raw in answer.get("items") or ())

    async def list_pods(self, namespace: str, selector: str) -> tuple[JobPod, ...]:
        """Return the pods with these labels. Raises KubernetesError."""
        path = f"/api/v1/namespaces/{namespace}/pods"
        answer = await self._send("listing pods", "GET", path, {"labelSelector": selector, "limit": _MOST_OBJECTS})
        return tuple(_pod(raw) for raw in answer.get("items") or ())

    async def create(self, manifest: Mapping[str, Any]) -> bool:
        """Create a Job or a ConfigMap; False when one of that name is there. Raises KubernetesError."""
        metadata = manifest["metadata"]
        group = "/apis/batch/v1" if manifest["kind"] == "Job" else "/api/v1"
        path = f"{group}/namespaces/{metadata['namespace']}/{manifest['kind'].lower()}s"
        what = f"creating the {manifest['kind']} {metadata['namespace']}/{metadata['name']}"
        try:
            await self._send(what, "POST", path, {"fieldValidation": "Strict"}, manifest)
        except Conflict:
            return False
        return True


def _job(raw: Mapping[str, Any]) -> JobState:
    status = raw.get("status") or {}
    conditions = {each["type"]: each for each in status.get("conditions") or () if each.get("status") == "True"}
    failed = conditions.get("Failed")
    return JobState(
        name=raw["metadata"]["name"],
        owner_uid=next((each["uid"] for each in raw["metadata"].get("ownerReferences") or () if each.get("uid")), ""),
        annotations=raw["metadata"].get("annotations") or {},
        complete="Complete" in conditions,
        failed=failed is not None,
        active=int(status.get("active") or 0),
        message=str(failed.get("message") or failed.get("reason") or "") if failed else "",
        failed_indexes=count_indexes(str(status.get("failedIndexes") or "")),
    )


def count_indexes(text: str) -> int:
    """Count the indexes of a list as Kubernetes writes it, such as `1,3-5`."""
    count = 0
    for part in text.split(","):
        first, _, last = part.partition("-")
        if first.isdigit():
            count += 1 + (int(last) - int(first) if last.isdigit() else 0)
    return count


def _pod(raw: Mapping[str, Any]) -> JobPod:
    metadata, status = raw["metadata"], raw.get("status") or {}
    labels = metadata.get("labels") or {}
    index = str((metadata.get("annotations") or {}).get(_COMPLETION_INDEX) or labels.get(_COMPLETION_INDEX) or "0")
    containers = [*(status.get("containerStatuses") or ()), *(status.get("initContainerStatuses") or ())]
    states = [each.get("state") or {} for each in containers]
    # A container that waits for the sidecars says only that: what they say comes first.
    states.sort(key=lambda state: (state.get("waiting") or {}).get("reason") == "PodInitializing")
    words = [
        str(state[kind].get("message") or state[kind].get("reason") or "")
        for state in states
        for kind in ("terminated", "waiting")
        if state.get(kind)
    ]
    unscheduled = [
        str(each.get("message") or "")
        for each in status.get("conditions") or ()
        if each.get("type") == "PodScheduled" and each.get("status") == "False"
    ]
    return JobPod(
        name=metadata["name"],
        job=labels.get("batch.kubernetes.io/job-name", ""),
        index=int(index) if index.isdigit() else 0,
        phase=str(status.get("phase") or "Pending"),
        message=next(filter(None, [*words, *unscheduled]), ""),
    )
