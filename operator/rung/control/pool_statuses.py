"""From a plan and what was seen to the status of the pool. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rung.api import Condition, Cpu, Decision, PoolServerPhase, PoolServerStatus, ServingPoolStatus, with_conditions
from rung.control.servers import ServerWorker
from rung.control.statuses import LONGEST_MESSAGE, Pass
from rung.core.classes import CAUTION
from rung.core.plan import ServerPlan
from rung.core.policies.base import serves
from rung.core.snapshot import ServerState, TaskState, Version


def pool_status(seen: Pass, before: ServingPoolStatus, changed: Decision | None) -> ServingPoolStatus:
    """Build the status of the pool. `changed` is the newest decision that changed something."""
    plans = {plan.server: plan for plan in seen.plan.servers}
    details = tuple(_pool_server(seen, server, plans.get(server.name)) for server in seen.snapshot.servers)
    used = [d.utilization for d in details if d.utilization is not None]
    expected = [d.expected_utilization for d in details if d.expected_utilization is not None]
    return ServingPoolStatus(
        conditions=with_conditions(
            # Where nobody is meant to spread the requests any more, nothing is said of it.
            [each for each in before.conditions if each.type != "Balanced"]
            if seen.balanced is None
            else before.conditions,
            _pool_conditions(seen, details, plans),
        ),
        servers=details,
        ready_servers=sum(server.ready for server in seen.snapshot.servers),
        tasks=len(seen.tasks),
        utilization=max(used, default=None),
        expected_utilization=max(expected, default=None),
        policy_memory=dict(seen.memory),
        last_decision=changed or before.last_decision,
        observed_generation=seen.pool.metadata.generation,
    )


def _pool_server(seen: Pass, server: ServerState, plan: ServerPlan | None) -> PoolServerStatus:
    worker = seen.workers[server.name]
    if not server.ready:
        phase, message = PoolServerPhase.NOT_READY, worker.observation.message or "the pod is not ready"
    elif worker.balancing is not None and server.name in worker.balancing.drained:
        loads = ", ".join(sorted(worker.swapping()))
        phase, message = PoolServerPhase.DRAINED, f"gets no requests while it loads {loads}"
    elif worker.swapping():
        phase, message = PoolServerPhase.SWAPPING, _progress(worker)
    elif not server.active:
        phase, message = PoolServerPhase.PENDING, worker.observation.inventory_message or "serves nothing yet"
    else:
        phase, message = PoolServerPhase.SERVING, worker.observation.inventory_message
        if not message and worker.squeeze.most is not None:
            message = f"short of memory: no more than {worker.squeeze.most} standbys of each task stay loaded"
    newest = server.utilization[-1].value if server.utilization and not seen.metrics_problem else None
    return PoolServerStatus(
        name=server.name,
        node=worker.pod.node,
        hardware_class=server.hardware_class,
        capacity=Cpu.from_cores(server.capacity_cores) if server.capacity_cores else None,
        utilization=round(newest, 2) if newest is not None else None,
        expected_utilization=round(plan.expected_utilization, 2)
        if plan and plan.expected_utilization is not None
        else None,
        phase=phase,
        message=message[:LONGEST_MESSAGE],
    )


def _progress(worker: ServerWorker) -> str:
    """Say what a server loads, and what waits for what: the order and the pace of the loads."""
    places = worker.waiting()
    loads = [
        f"{model} (waits to load, number {places[model]})" if model in places else model
        for model in sorted(worker.swapping())
    ]
    waits = worker.balancing.waits(worker.pod.name) if worker.balancing is not None else ""
    return ", ".join(loads) + (f"; before it is drained it waits: {waits}" if waits else "")


def _pool_conditions(
    seen: Pass, details: tuple[PoolServerStatus, ...], plans: Mapping[str, ServerPlan]
) -> tuple[Condition, ...]:
    generation = seen.pool.metadata.generation
    ready = sum(server.ready for server in seen.snapshot.servers)
    count = len(details)
    over = {p.server: p.expected_utilization for p in plans.values() if (p.expected_utilization or 0.0) > 1.0}
    problem = seen.metrics_problem or seen.demand_problem
    return (
        seen.condition(
            "Ready",
            ready > 0,
            "Serving" if ready else "NoServer",
            f"{ready} of {count} servers are ready"
            if count
            else "no pod has the labels of spec.serverSelector: "
            + ", ".join(f"{key}={value}" for key, value in seen.pool.spec.server_selector.items()),
            generation,
        ),
        seen.condition(
            "MetricsAvailable",
            not problem,
            "Fresh" if not problem else "Missing",
            problem[:LONGEST_MESSAGE],
            generation,
        ),
        seen.condition(
            "Overloaded",
            bool(over),
            "DemandAboveCapacity" if over else "Fits",
            "; ".join(f"{server} would need {value:.0%} of its CPU" for server, value in over.items() if value)[
                :LONGEST_MESSAGE
            ],
            generation,
        ),
        seen.condition("CapacityKnown", *_capacity(seen), generation),
        *(() if seen.balanced is None else (seen.condition("Balanced", *seen.balanced, generation),)),
    )


def _capacity(seen: Pass) -> tuple[bool, str, str]:
    """Say whether it is known what the servers can carry: whether it is, why not, and a sentence."""
    servers, tasks = seen.snapshot.servers, seen.snapshot.tasks
    if unsized := sorted(s.name for s in servers if not s.capacity_cores):
        return (
            False,
            "NoCapacity",
            f"{', '.join(unsized)}: the container triton has no CPU limit, and the node's allocatable CPU is not known",
        )
    if seen.doubted:
        names = ", ".join(sorted(seen.doubted))
        return False, "ProfileNotTrusted", f"CPU is far above what the profiles predict on {names}"
    classes = {s.hardware_class for s in servers}
    if unprofiled := sorted(
        name for name in classes if any(t.versions and not any(_measured(v, name) for v in t.versions) for t in tasks)
    ):
        profiles = (v.profiles.get(name) for t in tasks for v in t.versions for name in unprofiled)
        nearest = sorted({p.assumed_from for p in profiles if p is not None and p.assumed_from is not None})
        until = f"; until then inferences are taken to cost {CAUTION:g} times what they do on {', '.join(nearest)}"
        sentence = f"no version is profiled on hardware class {', '.join(unprofiled)}{until if nearest else ''}"
        return False, "NoProfile", sentence
    # Which tasks a server has matters only where versions of its class were profiled with another CPU than its own.
    profiled = {name: _profiled_cpu(tasks, name) for name in classes}
    doubtful = [server for server in servers if profiled[server.hardware_class] - {server.capacity_cores}]
    if others := [said for server in doubtful if (said := _other_cpu(server, tasks))]:
        advice = "profile the versions again there, or give servers of another CPU a hardware class of their own"
        return False, "ProfiledForOtherCpu", f"{advice}: {'; '.join(others)}"
    return True, "Profiled", ""


def _measured(version: Version, hardware_class: str) -> bool:
    profile = version.profiles.get(hardware_class)
    return profile is not None and profile.assumed_from is None


def _profiled_cpu(tasks: Iterable[TaskState], hardware_class: str) -> set[float]:
    """Return the CPU limits, in cores, with which versions were measured on a hardware class."""
    profiles = (v.profiles.get(hardware_class) for t in tasks for v in t.versions)
    return {p.cpu_cores for p in profiles if p and p.assumed_from is None and p.cpu_cores is not None}


def _other_cpu(server: ServerState, tasks: Iterable[TaskState]) -> str:
    """Say for which other CPU the versions of a server were profiled; empty when there is none."""
    profiled = _profiled_cpu((t for t in tasks if serves(t, server)), server.hardware_class)
    others = " and ".join(Cpu.from_cores(cores) for cores in sorted(profiled - {server.capacity_cores}))
    own, name = Cpu.from_cores(server.capacity_cores), server.hardware_class
    return f"{server.name} has {own}, the profiles of its class {name} hold for {others}" if others else ""
