"""Three servers behind the chart's balancer, each task on two of them: low and high load, as in the thesis.

Run it with `make bench-fleet`, as root; it takes about 40 minutes and needs the traces (--data). The demo's cluster,
with two more releases of the chart for the second and the third server: each Triton has 0.4 of a core, and networks
whose answers take as long there as the thesis' (Buijnsters, TU Delft, section 5.5) on one core. Clients ask the
balancer, a real Envoy, over one connection. Frontier with the reflex decides; every case gets the same slices in turn,
so that a noisy machine harms all alike.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from rung_demo.__main__ import REFLEX, use_policy
from rung_demo.environment import POOL, PROJECT, Options, environment, install_release, wait_until_serving
from rung_demo.ladders import ladder_headers
from rung_demo.live import LiveView
from rung_demo.programs import Kubernetes
from rung_demo.record import RunHeader
from rung_demo.replay import record_run
from rung_demo.stages import Stages
from rung_loadgen.trace import Trace
from rung_sim.experiments import setting
from rung_sim.experiments.page import Page, Table
from thesis import (
    MILLISECONDS,
    Live,
    mean,
    percent,
    probe,
    replay_of,
    restart,
    seen,
    slices,
    tasks_manifest,
    tell,
    write_ladders,
)

CORES = 0.4
PROFILE_SLO = "2s"
OBJECTIVE = 0.9998
"""Of the tasks' service level: the goal, as its owner would say it."""
PLACES = {"rung": ("ants", "cifar100"), "rung-b": ("ants", "cifar10"), "rung-c": ("cifar10", "cifar100")}
"""By release: the tasks that its server answers."""
SLOW = "rung-c"
BALANCER = "rung-balancer"
DEPLOYMENTS = tuple(f"deployment/{release}-triton" for release in PLACES)
THESIS = {"low": (97.09, 86.31, 85.86), "high": (86.79, 79.19, 67.89)}
"""Normalised accuracies of its three tasks, per cent; 0.72 % of all answers were late."""


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    name: str
    load: float
    """By the demand of one server in the simulator's experiments."""
    drain: str = "Cold"
    slow: bool = False
    thesis: str = ""


CASES = (
    Case("low load", 1.0, thesis="low"),
    Case("low load, without coordination", 1.0, drain="Never"),
    Case("high load", 3.0, thesis="high"),
    Case("high load, without coordination", 3.0, drain="Never"),
    Case("2.5 times the low load, one server half as fast", 2.5, slow=True),
)


def fleet_options(versions: Path) -> Options:
    """Return what brings the three servers up."""
    shared = (
        "balancer.enabled=true", "triton.resources.requests.cpu=100m",
        f"triton.resources.limits.cpu={1000 * CORES:.0f}m", "triton.resources.requests.memory=512Mi",
    )  # fmt: skip
    labels = {release: tuple(f"triton.podLabels.{task}=here" for task in tasks) for release, tasks in PLACES.items()}
    return Options(
        None, versions, tasks=tuple(MILLISECONDS),
        manifest=tasks_manifest(OBJECTIVE, {task: {task: "here"} for task in MILLISECONDS}),
        profile_slo=PROFILE_SLO, reflex=True, values=(*shared, "operator.logLevel=INFO"),
        more_servers={"rung": labels.pop("rung"), **labels},
    )  # fmt: skip


def prepare(kubernetes: Kubernetes, options: Options, case: Case, stages: Stages) -> None:
    """Have fresh servers, as fast as the case has them, and the pool follow its word."""
    cores = CORES / 2 if case.slow else CORES
    mine = (*options.more_servers[SLOW], f"triton.resources.limits.cpu={1000 * cores:.0f}m")
    install_release(kubernetes, SLOW, replace(options, more_servers={**options.more_servers, SLOW: mine}))
    restart(kubernetes, DEPLOYMENTS)
    patch = json.dumps({"spec": {"rollout": {"drain": case.drain}}})
    kubernetes.kubectl("patch", "spool", POOL, "--type=merge", "--patch", patch)
    use_policy(kubernetes, REFLEX, stages, len(MILLISECONDS))
    wait_until_serving(kubernetes, stages, tasks=len(MILLISECONDS))


def run_all(
    kubernetes: Kubernetes, folder: Path, options: Options, rounds: dict[float, list[dict[str, Trace]]],
    cases: tuple[Case, ...], stages: Stages,
) -> dict[str, list[Live]]:  # fmt: skip
    """Replay every round in every case, in another order each time."""
    headers = tuple(ladder_headers(kubernetes))
    found: dict[str, list[Live]] = {case.name: [] for case in cases}
    for number in range(len(rounds[cases[0].load])):
        turn = number % len(cases)
        for case in cases[turn:] + cases[:turn]:
            prepare(kubernetes, options, case, stages)
            traces = rounds[case.load][number]
            cores = CORES * (2.5 if case.slow else 3.0)
            header = RunHeader(time.time(), case.name, headers, capacity_cores=cores, trace=f"round {number + 1}")
            path = folder / f"{number + 1}-{case.name.replace(' ', '-').replace(',', '')}.jsonl"
            with stages.stage(f"Round {number + 1}, {case.name}"), LiveView(header, stages.console) as view:
                record_run(kubernetes, replay_of(traces, number, BALANCER), header=header, path=path, show=view.show)
            log = kubernetes.kubectl("logs", "deployment/rung-operator", "--since=10m")
            path.with_suffix(".operator.log").write_text(log, encoding="utf-8")
            live = seen(path)
            found[case.name].append(live)
            stages.say(
                f"{live.sentence}; after the warm-up {percent(live.lost_share, 3)} % late, "
                f"accuracy {percent(live.accuracy, 1)} %"
            )
    return found


def report(found: dict[str, list[Live]], cases: tuple[Case, ...], seconds: int, scale: float) -> Page:
    """Return the page."""
    rows, lines = [], []
    for case in cases:
        runs = found[case.name]
        requests, late, failed = (sum(getattr(run, what) for run in runs) for what in ("requests", "late", "failed"))
        by_task = [mean([run.accuracy_by_task[task] for run in runs]) for task in MILLISECONDS]
        lost = (late + failed) / max(1, requests)
        swaps = {kind: sum(run.swaps.get(kind, 0) for run in runs) for kind in ("warm", "cold")}
        rows.append(
            [case.name, f"{requests:,}", f"{late:,}", f"{failed:,}", f"{100 * lost:.3f}",
             ", ".join(percent(run.lost_share, 2) for run in runs), *(percent(each, 2) for each in by_task),
             f"{100 * mean([run.cpu for run in runs]):.0f}", f"{swaps['warm']}", f"{swaps['cold']}"]
        )  # fmt: skip
        if case.thesis:
            mine = "/".join(percent(each, 2) for each in by_task)
            theirs = "/".join(f"{each:.2f}" for each in THESIS[case.thesis])
            lines.append(f"{case.name}: {100 * lost:.3f} % late at {mine} %; the thesis: 0.72 % late, {theirs} %.")
    return Page(
        title="Live: three servers behind a balancer",
        question=(
            f"{len(next(iter(found.values())))} rounds of {seconds} s: three Tritons of {CORES} cores, each task on "
            "two of them, behind the chart's balancer (a real Envoy); networks as long on such a server as the thesis' "
            "on one core, a slice of the Twitter trace with the thesis' waves in each round. Frontier with the reflex; "
            f"the tasks' objective is {100 * OBJECTIVE:g} % in time. Demand: {scale:.2f} times that of the simulator's "
            "experiments, as the cheapest versions take "
            f"{1 / scale:.2f} times the CPU that they are made for. Without coordination: `rollout.drain: Never`. "
            "Accuracies: normalised, by request, of ants, cifar10 and cifar100."
        ),
        command="make bench-fleet",
        tables=[
            Table(
                ["case", "requests", "late", "failed", "late or failed, %", "by round, %", *MILLISECONDS, "CPU, %",
                 "swaps warm", "cold"], rows,
            ),
        ],
        findings=lines,
    )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the real traces")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=int, default=100, help="of each run, beside its warm-up")
    parser.add_argument("--scale", type=float, help="of the simulator's demand; as the machine's pace allows")
    parser.add_argument("--cases", type=int, nargs="+", default=[*range(len(CASES))], help="their numbers, from 0")
    parser.add_argument("--out", type=Path, help="folder of the page and the recordings; out/bench-fleet-TIME")
    arguments = parser.parse_args()
    cases = tuple(CASES[number] for number in arguments.cases)
    folder = arguments.out or PROJECT / "out" / f"bench-fleet-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    folder.mkdir(parents=True, exist_ok=True)

    def demand(scale: float) -> dict[float, list[dict[str, Trace]]]:
        loads = {case.load for case in cases}
        return {load: slices(arguments.data, arguments.seconds, arguments.rounds, scale * load) for load in loads}

    try:
        rounds = demand(arguments.scale or 1.0)
    except setting.NoDataError as error:
        print(f"bench-fleet: {error}", file=sys.stderr)
        return 2
    stages = Stages()
    with TemporaryDirectory(prefix="rung-bench-fleet-") as temporary:
        write_ladders(Path(temporary), CORES)
        options = fleet_options(Path(temporary))
        with environment(options, stages) as kubernetes:
            first = rounds[cases[0].load][0]
            scale = arguments.scale or 1.0 / probe(
                kubernetes, folder, first, stages, DEPLOYMENTS, len(PLACES), BALANCER
            )
            stages.say(f"Demand: {scale:.2f} times that of the simulator's experiments")
            found = run_all(kubernetes, folder, options, demand(scale), cases, stages)
    tell(report(found, cases, arguments.seconds, scale), folder, "fleet", stages)
    return 0


if __name__ == "__main__":
    sys.exit(main())
