"""From what was seen to the statuses of a task's versions. Pure."""

from __future__ import annotations

from datetime import UTC, datetime

from rung.api import BrokenServer, InferenceTask, ModelVersion, ModelVersionStatus, with_conditions
from rung.control.servers import ServerWorker
from rung.control.statuses import LONGEST_MESSAGE, Pass
from rung.core.frontier import dominated_by


def version_status(
    seen: Pass, task: InferenceTask, version: ModelVersion, before: ModelVersionStatus
) -> ModelVersionStatus:
    """Build the status of one version of a task."""
    state = seen.state(task)
    servers = seen.servers_of(state)
    mine = next(v for v in state.versions if v.number == version.spec.version)
    classes = sorted({server.hardware_class for server in servers} & set(mine.profiles))
    on = tuple(c for c in classes if mine in seen.ladder(state, c))
    beaten = next(
        (d for c in classes if c not in on and (d := dominated_by(mine, state.versions, c, seen.metric))), None
    )
    names = {v.spec.version: v.name for v in seen.versions[task.name]}
    have = [s.name for s in servers if version.spec.version in seen.workers[s.name].observation.files(task.model)]
    broken = tuple(
        BrokenServer(
            server=name,
            message=b.message[:LONGEST_MESSAGE],
            failures=b.failures,
            retry_after=datetime.fromtimestamp(b.retry_at_seconds, UTC).replace(microsecond=0),
        )
        for name, worker in sorted(seen.workers.items())
        for b in worker.broken.all()
        if b.model == task.model and b.version == version.spec.version
    )
    generation = version.metadata.generation
    said = [m for s in servers if (m := _mirror_message(seen.workers[s.name], task, version.spec.version))]
    conditions = (
        seen.condition(
            "Valid",
            not broken,
            "Loads" if not broken else "LoadFailed",
            broken[0].message if broken else "",
            generation,
        ),
        seen.condition(
            "OnFrontier",
            bool(on) if classes else None,
            "Frontier" if on else ("Dominated" if classes else "NotProfiled"),
            f"version {beaten.number} is at least as accurate and as fast" if beaten and not on else "",
            generation,
        ),
        seen.condition(
            "Available",
            bool(servers) and len(have) == len(servers),
            "Mirrored" if servers and len(have) == len(servers) else "NotMirrored",
            "; ".join(said)[:LONGEST_MESSAGE] or f"on {len(have)} of {len(servers)} servers",
            generation,
        ),
    )
    return ModelVersionStatus(
        conditions=with_conditions(before.conditions, conditions),
        on_frontier_for=on,
        dominated_by=names.get(beaten.number) if beaten and not on else None,
        broken_on=broken,
        observed_generation=generation,
    )


def _mirror_message(worker: ServerWorker, task: InferenceTask, number: int) -> str:
    inventory = worker.observation.inventory
    found = inventory.tasks.get(task.model) if inventory else None
    version = found.versions.get(number) if found else None
    return f"{worker.pod.name}: {version.state.value}: {version.message}" if version and version.message else ""
