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
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from rung.api import ReflexMode
from rung.control.policies import decide_settings
from rung_demo.__main__ import POLICIES, REFLEX, WITH_GATE, use_policy
from rung_demo.environment import PROJECT, Options, environment, image
from rung_demo.ladders import ladder_headers
from rung_demo.live import LiveView
from rung_demo.outcome import outcome_of
from rung_demo.programs import Kubernetes
from rung_demo.record import Run, RunHeader, read_run
from rung_demo.replay import Replay, record_run
from rung_demo.stages import Stages
from rung_loadgen.trace import Trace
from rung_porting.repository.folder import TensorShapes, config_text, write_config, write_version
from rung_sim import figures
from rung_sim.contenders import contender
from rung_sim.experiments import setting
from rung_sim.experiments.page import Page, Table
from rung_sim.outcome import Outcome as Simulated
from rung_sim.outcome import outcome_of as simulated_outcome
from rung_sim.simulation import Choosing, Simulation
from rung_sim.simulation import Options as SimulationOptions
from rung_sim.world import SimulatedServer, World, read_world

INPUTS, ROWS, WIDTH = 16, 128, 512
MILLISECONDS = {"ants": (9, 17, 32, 60, 100), "cifar10": (12, 25, 50, 95, 160), "cifar100": (15, 33, 70, 130, 230)}
ACCURACIES = {
    "ants": (0.62, 0.70, 0.76, 0.81, 0.85),
    "cifar10": (0.55, 0.66, 0.75, 0.82, 0.86),
    "cifar100": (0.50, 0.62, 0.72, 0.80, 0.84),
}
SLO = "400ms"
PROFILE_SLO = "2s"
"""What a version sustains alone if answers may take this long: nearly all that its core can do, as the thesis measured
it. At 0.4 s the largest version sustains next to nothing, since two requests in a row are late already."""
WARM_UP_SECONDS = 60
"""Demand climbs in a straight line to where the slice begins, in half of this time; it is not counted. In the other
half even a policy that looks at half a minute of CPU comes down from where it began."""
PROBE_SECONDS, PROBE_SCALE = 45, 0.6
"""A run on the cheapest versions, for what they cost."""
SWINGING = 0.6
"""Of all slices, this share swings less than the one that is taken."""
STATIC_WARM_UP_SECONDS, STATIC_SECONDS = 15, 30
"""So much of each slice is enough for policies that do nothing: one is always late, the other never."""
SIMULATED = {"Static Best": "Best", "Static Cheapest": "Cheapest", REFLEX: "Frontier"}


# ------------------------------------------------------------------------------------------------------------ versions


def network(layers: int) -> bytes:
    """Return an ONNX file whose answer takes `layers` products of (ROWS, WIDTH) by (WIDTH, WIDTH)."""
    random = np.random.default_rng(0)
    spread = random.standard_normal((INPUTS, ROWS * WIDTH)).astype(np.float32)
    matrix = (random.standard_normal((WIDTH, WIDTH)) / WIDTH**0.5).astype(np.float32)
    constants = [numpy_helper.from_array(spread, "spread"), numpy_helper.from_array(matrix, "matrix")]
    constants.append(numpy_helper.from_array(np.array([-1, ROWS, WIDTH], np.int64), "rows"))
    constants.append(numpy_helper.from_array(np.array([1], np.int64), "axis"))
    nodes = [
        helper.make_node("MatMul", ["input", "spread"], ["flat"]),
        helper.make_node("Reshape", ["flat", "rows"], ["h0"]),
    ]
    nodes += [helper.make_node("MatMul", [f"h{n}", "matrix"], [f"h{n + 1}"]) for n in range(layers)]
    nodes.append(helper.make_node("ReduceMean", [f"h{layers}", "axis"], ["output"], keepdims=0))
    graph = helper.make_graph(
        nodes, "arithmetic",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", INPUTS])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", WIDTH])],
        constants,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def seconds_of(model: bytes) -> float:
    """Return what one inference takes on one thread of this machine."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    sample = {"input": np.zeros((1, INPUTS), np.float32)}
    times = []
    for _ in range(12):
        began = time.perf_counter()
        session.run(None, sample)
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def write_ladders(root: Path) -> None:
    """Write every version of every task, as `rung-port run` leaves them."""
    few, many = 4, 44
    base = seconds_of(network(few))
    each = (seconds_of(network(many)) - base) / (many - few)
    start = base - few * each
    shapes = TensorShapes("input", (INPUTS,), "output", (WIDTH,))
    for task, ladder in MILLISECONDS.items():
        write_config(root, task, config_text(task, shapes))
        for accuracy, milliseconds in zip(ACCURACIES[task], ladder, strict=True):
            number = 1_000_000 + round(100_000 * accuracy)
            layers = max(1, round((milliseconds / 1000 - start) / each))
            content = network(layers)
            path = root / f"{task}-{number}.onnx"
            path.write_bytes(content)
            spec: dict[str, Any] = {
                "taskRef": {"name": task}, "version": number,
                "artifact": {"uri": "model.onnx", "sha256": sha256(content).hexdigest(), "bytes": len(content)},
                "accuracy": {"metric": "accuracy", "value": accuracy},
                "lineage": {"method": "base", "flops": 2 * layers * ROWS * WIDTH * WIDTH},
            }  # fmt: skip
            write_version(root, task, number, path, spec)
            path.unlink()


def tasks_manifest() -> str:
    one = (
        "apiVersion: rung.dev/v1alpha1\nkind: InferenceTask\nmetadata: {{name: {}}}\n"
        "spec: {{poolRef: {{name: edge}}, slo: {{latency: {}}}}}\n"
    )
    return "---\n".join(one.format(task, SLO) for task in MILLISECONDS)


# -------------------------------------------------------------------------------------------------------------- demand


def slices(data: Path, seconds: int, rounds: int, scale: float) -> list[dict[str, Trace]]:
    """Return the traces of each round: of the simulator's demand, a part in which it swings a lot."""
    day = setting.trace(setting.need(data, setting.TWITTER_DAY))
    found = []
    for seed in range(rounds):
        rates = setting.thesis_demand(day, seed, scale=scale)
        # What they ask for, in cores, if the middle versions answer; smoothed over ten seconds.
        load = np.sum([rates[task] * MILLISECONDS[task][2] / 1000 for task in MILLISECONDS], axis=0)
        smooth = np.convolve(load, np.ones(10) / 10, mode="same")
        starts = range(setting.WARM_UP_SECONDS, load.size - seconds, 10)
        by_swing = sorted(starts, key=lambda at: float(np.ptp(smooth[at + 5 : at + seconds - 5])))
        start = by_swing[int(SWINGING * len(by_swing))]
        traces = {}
        for task in MILLISECONDS:
            part = rates[task][start : start + seconds]
            climb = np.clip(np.arange(WARM_UP_SECONDS) / (0.5 * WARM_UP_SECONDS), 0.0, 1.0) * part[:10].mean()
            traces[task] = Trace(f"round {seed + 1}", np.round(np.concatenate([climb, part]), 2))
        found.append(traces)
    return found


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


@dataclass(frozen=True)
class Live:
    """One run as its clients saw it after the warm-up; swaps and latencies (milliseconds) are of all of it."""

    policy: str
    requests: int
    late: int
    failed: int
    accuracy: float
    cpu: float
    swaps: dict[str, int]
    swap_seconds: dict[str, float]
    latency: tuple[float, float, float]
    sentence: str

    @property
    def lost_share(self) -> float:
        """What was late or failed. Of an overloaded server, late answers of the warm-up come in the counted time."""
        return min(1.0, (self.late + self.failed) / max(1, self.requests))


def cpu_share(run: Run, after_seconds: float) -> float:
    """Return the mean share of the server's CPU that was used."""
    begin = run.start_seconds + after_seconds
    return _mean(
        [
            server.utilization
            for line in run.pool
            if begin < line.time_seconds <= run.end_seconds
            for server in line.servers
            if server.utilization is not None
        ]
    )


def seen(path: Path) -> Live:
    """Add a recording up."""
    run = read_run(path)
    after = warm_up_seconds(run.header.name)
    lines = [line for line in run.load if line.elapsed_seconds > after]
    worth = {(t.task, str(v.version)): v.normalized_accuracy for t in run.header.tasks for v in t.ladder}
    answers = [(worth[line.task, number], count) for line in lines for number, count in line.versions.items()]
    answered = sum(count for _, count in answers)
    tasks = run.summary.tasks if run.summary is not None else ()
    percentiles = [(t.latency_p50_milliseconds, t.latency_p95_milliseconds, t.latency_p99_milliseconds) for t in tasks]
    total = outcome_of(run)
    return Live(
        policy=run.header.name,
        requests=sum(line.offered for line in lines),
        late=sum(line.late for line in lines),
        failed=sum(sum(line.failed.values()) for line in lines),
        accuracy=sum(a * n for a, n in answers) / answered if answered else float("nan"),
        cpu=cpu_share(run, after),
        swaps=dict(total.swaps),
        swap_seconds=dict(run.swaps.mean_seconds) if run.swaps is not None else {},
        latency=(
            _mean([p for p, _, _ in percentiles if p is not None]),
            _mean([p for _, p, _ in percentiles if p is not None]),
            _mean([p for _, _, p in percentiles if p is not None]),
        ),
        sentence=total.sentence(),
    )


def fresh_server(kubernetes: Kubernetes) -> None:
    """Have a Triton that nobody has asked anything: the queue that one policy left must not be the next one's."""
    kubernetes.kubectl("rollout", "restart", "deployment/rung-triton")
    kubernetes.kubectl("rollout", "status", "deployment/rung-triton", "--timeout=120s", deadline_seconds=130)


def replay_of(traces: dict[str, Trace], seed: int) -> Replay:
    """Return the load that these traces are."""
    seconds = next(iter(traces.values())).seconds
    return Replay(traces, dict.fromkeys(traces, 400.0), "dns:///rung-triton:8001", image("rung-loadgen"), seed, seconds)


def probe(kubernetes: Kubernetes, folder: Path, traces: dict[str, Trace], stages: Stages) -> float:
    """Return how many times the CPU that they are made for the cheapest versions take here."""
    fresh_server(kubernetes)
    use_policy(kubernetes, "Static Cheapest", stages, len(MILLISECONDS))
    header = RunHeader(time.time(), "probe", tuple(ladder_headers(kubernetes)), capacity_cores=1.0, trace="probe")
    constant = {task: Trace("probe", np.full(PROBE_SECONDS, trace.rates_rps.mean())) for task, trace in traces.items()}
    replay = replay_of(constant, 0)
    with stages.stage("What the cheapest versions cost here"):
        record_run(kubernetes, replay, header=header, path=folder / "probe.jsonl", show=lambda *_: None)
    made_for = sum(trace.rates_rps[0] * MILLISECONDS[task][0] / 1000 for task, trace in constant.items())
    return cpu_share(read_run(folder / "probe.jsonl"), PROBE_SECONDS / 3) / float(made_for)


def replay_all(
    kubernetes: Kubernetes, folder: Path, rounds: list[dict[str, Trace]], policies: list[str], stages: Stages
) -> list[Live]:
    """Replay every round under every policy, in another order each time."""
    headers = tuple(ladder_headers(kubernetes))
    found = []
    for number, traces in enumerate(rounds):
        turn = number % len(policies)
        for name in policies[turn:] + policies[:turn]:
            fresh_server(kubernetes)
            use_policy(kubernetes, name, stages, len(MILLISECONDS))
            mine = part_for(name, traces)
            replay = replay_of(mine, number)
            header = RunHeader(time.time(), name, headers, capacity_cores=1.0, trace=f"round {number + 1}")
            path = folder / f"{number + 1}-{name.lower().replace(' ', '-')}.jsonl"
            with stages.stage(f"Round {number + 1}, {name}"), LiveView(header, stages.console) as view:
                record_run(kubernetes, replay, header=header, path=path, show=view.show)
            found.append(seen(path))
            lost, accuracy = _percent(found[-1].lost_share, 2), _percent(found[-1].accuracy, 1)
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


def _mean(values: list[float]) -> float:
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")


def _percent(share: float, digits: int) -> str:
    """Return a share in per cent; a dash where nothing was answered, so that there is none."""
    return _shown([100 * share], digits)


def _shown(values: list[float], digits: int) -> str:
    mean = _mean(values)
    return f"{mean:.{digits}f}" if np.isfinite(mean) else "-"


def report(runs: list[Live], simulated: dict[str, list[Simulated]], world: World, seconds: int, scale: float) -> Page:
    by_policy = {name: [run for run in runs if run.policy == name] for name in simulated}
    rows, side = [], []
    points: dict[str, list[tuple[float, float]]] = {}
    totals: dict[str, tuple[float, float]] = {}
    for name, mine in by_policy.items():
        requests, late, failed = (sum(getattr(run, what) for run in mine) for what in ("requests", "late", "failed"))
        accuracy, cpu = _mean([run.accuracy for run in mine]), _mean([run.cpu for run in mine])
        swaps = Counter[str]()
        for run in mine:
            swaps.update(run.swaps)
        by_round = ", ".join(_percent(run.lost_share, 2) for run in mine)
        totals[name] = (min(1.0, (late + failed) / max(1, requests)), accuracy)
        if np.isfinite(accuracy):
            points[name] = [totals[name]]
        rows.append(
            [name, f"{requests:,}", f"{late:,}", f"{failed:,}", f"{100 * totals[name][0]:.3f}", by_round,
             _percent(accuracy, 2), f"{100 * cpu:.1f}", f"{swaps['warm']}", f"{swaps['cold']}"]
        )  # fmt: skip
        thought = simulated[name]
        live = [_mean([run.latency[place] for run in mine]) for place in range(3)]
        sim = [1000 * _mean([each.latency_seconds[key] or 0.0 for each in thought]) for key in ("p50", "p95", "p99")]
        side.append(
            [name, f"{100 * totals[name][0]:.2f} / {100 * _mean([t.late_share for t in thought]):.2f}",
             f"{_percent(accuracy, 1)} / {100 * _mean([t.normalized_accuracy_per_request for t in thought]):.1f}",
             f"{100 * cpu:.0f} / {100 * _mean([t.cpu for t in thought]):.0f}",
             *(f"{ours:.0f} / {theirs:.0f}" for ours, theirs in zip(live, sim, strict=True)),
             f"{sum(swaps[kind] for kind in ('warm', 'cold')) / max(1, len(mine)):.0f} / "
             f"{_mean([float(t.swaps['warm'] + t.swaps['cold']) for t in thought]):.0f}",
             _shown([1000 * run.swap_seconds["warm"] for run in mine if "warm" in run.swap_seconds], 0) + " / 0",
             _shown([run.swap_seconds["cold"] for run in mine if "cold" in run.swap_seconds], 2) + " / "
             + _shown([t.cold_swap_seconds for t in thought if t.cold_swap_seconds is not None], 2)]
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
            scale = arguments.scale or 1.0 / probe(kubernetes, folder, rounds[0], stages)
            stages.say(f"Demand: {scale:.2f} times that of the simulator's experiments")
            rounds = slices(arguments.data, arguments.seconds, arguments.rounds, scale)
            runs = replay_all(kubernetes, folder, rounds, arguments.policies, stages)
    for number, traces in enumerate(rounds):
        (folder / f"{number + 1}-rates.json").write_text(
            json.dumps({t: r.rates_rps.tolist() for t, r in traces.items()})
        )
    world = read_world(pool, [SimulatedServer("rung-triton", 1.0)])
    page = report(runs, simulate_all(world, rounds, arguments.policies), world, arguments.seconds, scale)
    page.write(folder, "live")
    for line in page.findings:
        stages.say(line)
    stages.say(f"The table, the picture and every recording: {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
