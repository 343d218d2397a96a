"""What the tasks' ladders are, as the operator published them: for the trace, the live view and the report."""

from __future__ import annotations

import asyncio

from rung.adapters.kubernetes import connect
from rung.api import InferenceTask, ModelVersion
from rung_demo.programs import DemoError, Kubernetes
from rung_demo.record import LadderVersion, TaskHeader
from rung_demo.trace import TaskCapacity


def ladder_headers(kubernetes: Kubernetes) -> list[TaskHeader]:
    """Return each task with its versions on the frontier, cheapest first. Raises DemoError, KubernetesError."""
    tasks, versions = asyncio.run(_read(kubernetes))
    return [_header(task, [v for v in versions if v.spec.task_ref.name == task.name]) for task in tasks]


async def _read(kubernetes: Kubernetes) -> tuple[tuple[InferenceTask, ...], tuple[ModelVersion, ...]]:
    async with connect(kubernetes.kubeconfig) as cluster:
        tasks = await cluster.list_tasks(kubernetes.namespace)
        return tasks.objects, (await cluster.list_versions(kubernetes.namespace)).objects


def _header(task: InferenceTask, versions: list[ModelVersion]) -> TaskHeader:
    profiled = [v for v in versions if v.spec.profiles and v.status.dominated_by is None]
    if not profiled:
        raise DemoError(f"task {task.name} has no profiled version")
    best = max(version.spec.accuracy.value for version in profiled)
    ladder = sorted(profiled, key=lambda version: version.spec.accuracy.value)
    return TaskHeader(
        task=task.name,
        slo_milliseconds=task.spec.slo.latency.seconds * 1000,
        ladder=tuple(
            LadderVersion(
                version.spec.version,
                version.spec.accuracy.value,
                version.spec.accuracy.value / best,
                version.spec.profiles[0].max_throughput,
            )
            for version in ladder
        ),
    )


def task_capacities(headers: list[TaskHeader]) -> list[TaskCapacity]:
    """Return what each task's best and cheapest versions sustain alone."""
    return [
        TaskCapacity(
            header.task, header.ladder[-1].max_throughput_rps or 0.0, header.ladder[0].max_throughput_rps or 0.0
        )
        for header in headers
    ]
