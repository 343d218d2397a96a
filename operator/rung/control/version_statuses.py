"""From what was seen to the statuses of a task's versions. Pure."""

from __future__ import annotations

from datetime import UTC, datetime

from rung.adapters.agent import VersionState
from rung.api import BrokenServer, Condition, InferenceTask, ModelVersion, ModelVersionStatus, with_conditions
from rung.control.statuses import LONGEST_MESSAGE, Pass
from rung.core.frontier import dominated_by
from rung.core.snapshot import ServerState


def version_status(
    seen: Pass, task: InferenceTask, version: ModelVersion, before: ModelVersionStatus
) -> ModelVersionStatus:
    """Build the status of one version of a task."""
    state = seen.state(task)
    servers = seen.servers_of(state)
    mine = next(v for v in state.versions if v.number == version.spec.version)
    measured = {name for name, profile in mine.profiles.items() if profile.assumed_from is None}
    classes = sorted({server.hardware_class for server in servers} & measured)
    on = tuple(c for c in classes if mine in seen.ladder(state, c))
    beaten = next(
        (d for c in classes if c not in on and (d := dominated_by(mine, state.versions, c, seen.metric))), None
    )
    names = {v.spec.version: v.name for v in seen.versions[task.name]}
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
        _available(seen, task, version, servers),
    )
    return ModelVersionStatus(
        conditions=with_conditions(before.conditions, conditions),
        on_frontier_for=on,
        dominated_by=names.get(beaten.number) if beaten and not on else None,
        broken_on=broken,
        observed_generation=generation,
    )


def _available(seen: Pass, task: InferenceTask, version: ModelVersion, servers: tuple[ServerState, ...]) -> Condition:
    number, registered = version.spec.version, version.spec.artifact.sha256
    files = {s.name: f for s in servers if (f := seen.workers[s.name].observation.file(task.model, number))}
    sums = {name: file.sha256 for name, file in files.items() if file.state is VersionState.AVAILABLE}
    others = [f"{name} has {_short(sha256)}" for name, sha256 in sums.items() if sha256 != registered]
    have = len(sums) - len(others)
    everywhere = bool(servers) and have == len(servers)
    said = [f"{name}: {file.state.value}: {file.message}" for name, file in files.items() if file.message]
    if others:
        said.insert(
            0,
            f"registered with sha256 {_short(registered)}, and not loaded from another file: delete this object and "
            "register the version from the repository that the servers mirror; one that was trained again needs a "
            f"number of its own; {', '.join(others)}",
        )
    return seen.condition(
        "Available",
        everywhere,
        "Mirrored" if everywhere else ("OtherFile" if others else "NotMirrored"),
        "; ".join(said) or f"on {have} of {len(servers)} servers",
        version.metadata.generation,
    )


def _short(sha256: str) -> str:
    return f"{sha256[:12]}..."
