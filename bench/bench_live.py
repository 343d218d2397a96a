"""Policies live: the same slice of a real trace on a real Triton, policy after policy, again and again.

Run it with `make bench-live`, as root; it takes about 39 minutes and needs the traces (--data). It brings up the
demo's cluster with three tasks of five versions each on one core, the largest ones taking 100 to 230 ms, as in the
thesis (Buijnsters, TU Delft, section 5.4.2), so that its service level of 0.4 s means the same. What the networks
compute is arithmetic of the right length and no question of anybody: accuracies are those of the simulator's setting.
How much the machine takes for them while it does everything else is measured first, and demand scaled to it.
Policies take turns within each round, so that a noisy machine harms all alike. Then the simulator replays the same
traces with the profiles that were measured here, and both stand side by side.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from rung.api import ReflexMode
from rung.control.policies import decide_settings
from rung_demo.__main__ import POLICIES, REFLEX, WITH_GATE, use_policy
from rung_demo.environment import PROJECT, Options, environment
from rung_demo.ladders import ladder_headers
from rung_demo.live import LiveView
from rung_demo.programs import Kubernetes
from rung_demo.record import RunHeader
from rung_demo.replay import record_run
from rung_demo.stages import Stages
from rung_loadgen.trace import Trace
from rung_sim import figures
from rung_sim.contenders import contender
from rung_sim.experiments import setting
from rung_sim.experiments.page import Page, Table
from rung_sim.outcome import Outcome as Simulated
from rung_sim.outcome import outcome_of as simulated_outcome
from rung_sim.simulation import Choosing, Simulation
from rung_sim.simulation import Options as SimulationOptions
from rung_sim.world import SimulatedServer, World, read_world
from thesis import (
    MILLISECONDS,
    WARM_UP_SECONDS,
    Live,
    mean,
    percent,
    probe,
    replay_of,
    restart,
    seen,
    shown,
    slices,
    tasks_manifest,
    tell,
    write_ladders,
)

PROFILE_SLO = "2s"
"""What a version sustains alone if answers may take this long: nearly all that its core can do, as the thesis measured
it. At 0.4 s the largest version sustains next to nothing, since two requests in a row are late already."""
SERVERS = ("deployment/rung-triton",)
PROBE_SCALE = 0.6
STATIC_WARM_UP_SECONDS, STATIC_SECONDS = 15, 30
"""So much of each slice is enough for policies that do nothing: one is always late, the other never."""
SIMULATED = {"Static Best": "Best", "Static Cheapest": "Cheapest", REFLEX: "Frontier"}


def part_for(policy: str, traces: dict[str, Trace]) -> dict[str, Trace]:
    """Return what a policy gets of a round."""
    if not policy.startswith("Static"):
        return traces
    begin, end = WARM_UP_SECONDS - STATIC_WARM_UP_SECONDS, WARM_UP_SECONDS + STATIC_SECONDS
    return {task: Trace(trace.name, trace.rates_rps[begin:end]) for task, trace in traces.items()}


def warm_up_seconds(policy: str) -> int:
    """Return how much of a run of a policy is not counted."""
    return STATIC_WARM_UP_SECONDS if policy.startswith("Static") else WARM_UP_SECONDS


# ---------------------------------------------------------------------------------------------------------------- runs


def replay_all(
    kubernetes: Kubernetes, folder: Path, rounds: list[dict[str, Trace]], policies: list[str], stages: Stages
) -> list[Live]:
    """Replay every round under every policy, in another order each time."""
    headers = tuple(ladder_headers(kubernetes))
    found = []
    for number, traces in enumerate(rounds):
        turn = number % len(policies)
        for name in policies[turn:] + policies[:turn]:
            restart(kubernetes, SERVERS)
            use_policy(kubernetes, name, stages, len(MILLISECONDS))
            mine = part_for(name, traces)
            replay = replay_of(mine, number)
            header = RunHeader(time.time(), name, headers, capacity_cores=1.0, trace=f"round {number + 1}")
            path = folder / f"{number + 1}-{name.lower().replace(' ', '-')}.jsonl"
            with stages.stage(f"Round {number + 1}, {name}"), LiveView(header, stages.console) as view:
                record_run(kubernetes, replay, header=header, path=path, show=view.show)
            found.append(seen(path, warm_up_seconds(name)))
            lost, accuracy = percent(found[-1].lost_share, 2), percent(found[-1].accuracy, 1)
            stages.say(f"{found[-1].sentence}; after the warm-up {lost} % late, accuracy {accuracy} %")
    return found


def simulate_all(world: World, rounds: list[dict[str, Trace]], policies: list[str]) -> dict[str, list[Simulated]]:
    """Replay the same traces on what was measured."""
    found: dict[str, list[Simulated]] = {}
    for name in policies:
        reflex = ReflexMode.ON if name in WITH_GATE else ReflexMode.OFF
        settings = decide_settings(world.pool.spec.model_copy(update={"reflex": reflex}))
        choosing = Choosing.REFLEX if name in WITH_GATE else Choosing.TRITON
        for number, traces in enumerate(rounds):
            rates = {task: trace.rates_rps for task, trace in part_for(name, traces).items()}
            made = contender(
                SIMULATED.get(name, name),
                world.pool.spec.policy,
                settings,
                SimulationOptions(seed=number, warm_up_seconds=warm_up_seconds(name), choosing=choosing),
                rates,
            )
            run = Simulation(world, rates, made.policy, made.settings, made.options).run()
            found.setdefault(name, []).append(simulated_outcome(run))
    return found


# -------------------------------------------------------------------------------------------------------------- report


def report(runs: list[Live], simulated: dict[str, list[Simulated]], world: World, seconds: int, scale: float) -> Page:
    by_policy = {name: [run for run in runs if run.policy == name] for name in simulated}
    rows, side = [], []
    points: dict[str, list[tuple[float, float]]] = {}
    totals: dict[str, tuple[float, float]] = {}
    for name, mine in by_policy.items():
        requests, late, failed = (sum(getattr(run, what) for run in mine) for what in ("requests", "late", "failed"))
        accuracy, cpu = mean([run.accuracy for run in mine]), mean([run.cpu for run in mine])
        swaps = Counter[str]()
        for run in mine:
            swaps.update(run.swaps)
        by_round = ", ".join(percent(run.lost_share, 2) for run in mine)
        totals[name] = (min(1.0, (late + failed) / max(1, requests)), accuracy)
        if np.isfinite(accuracy):
            points[name] = [totals[name]]
        rows.append(
            [name, f"{requests:,}", f"{late:,}", f"{failed:,}", f"{100 * totals[name][0]:.3f}", by_round,
             percent(accuracy, 2), f"{100 * cpu:.1f}", f"{swaps['warm']}", f"{swaps['cold']}"]
        )  # fmt: skip
        thought = simulated[name]
        live = [mean([run.latency[place] for run in mine]) for place in range(3)]
        sim = [1000 * mean([each.latency_seconds[key] or 0.0 for each in thought]) for key in ("p50", "p95", "p99")]
        side.append(
            [name, f"{100 * totals[name][0]:.2f} / {100 * mean([t.late_share for t in thought]):.2f}",
             f"{percent(accuracy, 1)} / {100 * mean([t.normalized_accuracy_per_request for t in thought]):.1f}",
             f"{100 * cpu:.0f} / {100 * mean([t.cpu for t in thought]):.0f}",
             *(f"{ours:.0f} / {theirs:.0f}" for ours, theirs in zip(live, sim, strict=True)),
             f"{sum(swaps[kind] for kind in ('warm', 'cold')) / max(1, len(mine)):.0f} / "
             f"{mean([float(t.swaps['warm'] + t.swaps['cold']) for t in thought]):.0f}",
             shown([1000 * run.swap_seconds["warm"] for run in mine if "warm" in run.swap_seconds], 0) + " / 0",
             shown([run.swap_seconds["cold"] for run in mine if "cold" in run.swap_seconds], 2) + " / "
             + shown([t.cold_swap_seconds for t in thought if t.cold_swap_seconds is not None], 2)]
        )  # fmt: skip
    ladder = [
        [task.state.name, str(version.number), f"{100 * version.accuracy:.0f}",
         f"{1000 * (profile.cpu_seconds_per_inference or 0):.1f}", f"{profile.max_throughput_rps:.1f}",
         f"{profile.load_seconds or 0:.2f}"]
        for task in world.tasks for version in task.state.versions for profile in version.profiles.values()
    ]  # fmt: skip
    theirs = totals["Stepwise"]
    findings = []
    for name in ("Frontier", REFLEX):
        if name in totals:
            ours = totals[name]
            fewer = f"one {theirs[0] / ours[0]:.0f}th" if ours[0] > 0 else "none"
            findings.append(
                f"{name}: {100 * ours[0]:.3f} % late or failed ({fewer} of Stepwise's {100 * theirs[0]:.3f} %) at "
                f"{100 * (ours[1] - theirs[1]):+.2f} points of normalised accuracy."
            )
    return Page(
        title="Live: policies in turn on one real Triton",
        question=(
            f"{len(by_policy['Frontier'])} rounds of {seconds} s: three tasks on one core of a real Triton, a slice of "
            "the Twitter trace with the thesis' waves in each round, every policy on the same slices in turn (static "
            f"ones: the first {STATIC_SECONDS} s of each, as nothing changes with them). Demand: "
            f"{scale:.2f} times that of the simulator's experiments, as the cheapest versions take {1 / scale:.2f} "
            "times the CPU that they are made for, beside everything else that this machine does. Late: "
            "later than 0.4 s from the moment a client meant to send, or failed. Accuracy: of the version that each "
            "answer names, normalised, by request."
        ),
        command="make bench-live",
        tables=[
            Table(
                ["policy", "requests", "late", "failed", "late or failed, %", "by round, %", "normalised accuracy, %",
                 "CPU, %", "swaps warm", "cold"], rows,
            ),
            Table(
                ["policy", "late, %", "accuracy, %", "CPU, %", "p50, ms", "p95, ms", "p99, ms", "swaps a round",
                 "warm swap, ms", "cold swap, s"], side,
                "**Live / simulated**: the same traces in the simulator, with the profiles that were measured here "
                "(latencies live are means over the tasks and with the warm-up, simulated over all requests after it)",
            ),
            Table(["task", "version", "accuracy, %", "CPU, ms", "sustains, 1/s", "load, s"], ladder, "**Versions**"),
        ],
        figures={"live": figures.scatter(points, "Live: late answers over accuracy")},
        findings=findings,
    )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the real traces")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--policies", nargs="+", choices=(*POLICIES, REFLEX), default=list(POLICIES),
        help=f"Frontier and Stepwise among them; with {REFLEX} a gate stands before the server in every run",
    )  # fmt: skip
    parser.add_argument("--seconds", type=int, default=125, help="of each run, beside its warm-up")
    parser.add_argument("--scale", type=float, help="of the simulator's demand; as the machine's pace allows")
    parser.add_argument("--out", type=Path, help="folder of the page and the recordings; out/bench-live-TIME")
    arguments = parser.parse_args()
    if not {"Frontier", "Stepwise"} <= set(arguments.policies):
        parser.error("--policies: Frontier and Stepwise must be among them, they are what is compared")
    folder = arguments.out or PROJECT / "out" / f"bench-live-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        rounds = slices(arguments.data, arguments.seconds, arguments.rounds, arguments.scale or PROBE_SCALE)
    except setting.NoDataError as error:
        print(f"bench-live: {error}", file=sys.stderr)
        return 2
    stages = Stages()
    with TemporaryDirectory(prefix="rung-bench-live-") as temporary:
        write_ladders(Path(temporary))
        options = Options(
            None, Path(temporary), tasks=tuple(MILLISECONDS), manifest=tasks_manifest(), profile_slo=PROFILE_SLO,
            reflex=REFLEX in arguments.policies,
        )  # fmt: skip
        with environment(options, stages) as kubernetes:
            pool = folder / "pool.yaml"
            pool.write_text(kubernetes.kubectl("get", "spool,itask,mver", "--output", "yaml"))
            scale = arguments.scale or 1.0 / probe(kubernetes, folder, rounds[0], stages, SERVERS)
            stages.say(f"Demand: {scale:.2f} times that of the simulator's experiments")
            rounds = slices(arguments.data, arguments.seconds, arguments.rounds, scale)
            runs = replay_all(kubernetes, folder, rounds, arguments.policies, stages)
    for number, traces in enumerate(rounds):
        (folder / f"{number + 1}-rates.json").write_text(
            json.dumps({t: r.rates_rps.tolist() for t, r in traces.items()})
        )
    world = read_world(pool, [SimulatedServer("rung-triton", 1.0)])
    page = report(runs, simulate_all(world, rounds, arguments.policies), world, arguments.seconds, scale)
    tell(page, folder, "live", stages)
    return 0


if __name__ == "__main__":
    sys.exit(main())
