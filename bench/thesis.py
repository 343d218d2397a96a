"""What the benchmarks with real servers share: the thesis' three tasks as networks of the right length, its demand, and
what the clients of a run saw.

What the networks compute is arithmetic and no question of anybody: accuracies are those of the simulator's setting.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import yaml
from onnx import TensorProto, helper, numpy_helper

from rung_demo.__main__ import use_policy
from rung_demo.environment import image
from rung_demo.ladders import ladder_headers
from rung_demo.outcome import outcome_of
from rung_demo.programs import Kubernetes
from rung_demo.record import Run, RunHeader, read_run
from rung_demo.replay import Replay, record_run
from rung_demo.stages import Stages
from rung_loadgen.lines import LoadLine
from rung_loadgen.trace import Trace
from rung_porting.repository.folder import TensorShapes, config_text, write_config, write_version
from rung_sim.experiments import setting
from rung_sim.experiments.page import Page

INPUTS, ROWS, WIDTH = 16, 128, 512
MILLISECONDS = {"ants": (9, 17, 32, 60, 100), "cifar10": (12, 25, 50, 95, 160), "cifar100": (15, 33, 70, 130, 230)}
ACCURACIES = {
    "ants": (0.62, 0.70, 0.76, 0.81, 0.85),
    "cifar10": (0.55, 0.66, 0.75, 0.82, 0.86),
    "cifar100": (0.50, 0.62, 0.72, 0.80, 0.84),
}
SLO_SECONDS = 0.4
WARM_UP_SECONDS = 60
"""Demand climbs in a straight line to where the slice begins, in half of this time; it is not counted. In the other
half even a policy that looks at half a minute of CPU comes down from where it began."""
PROBE_SECONDS = 45
"""A run on the cheapest versions, for what they cost."""
SWINGING = 0.6
"""Of all slices, this share swings less than the one that is taken."""


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


def write_ladders(root: Path, cores: float = 1.0) -> None:
    """Write every version of every task, as `rung-port run` leaves them, for servers of so many cores (at most one).

    What takes 100 ms on one core takes as long on half of one if it is half the work.
    """
    few, many = 4, 44
    base = seconds_of(network(few))
    each = (seconds_of(network(many)) - base) / (many - few)
    start = base - few * each
    shapes = TensorShapes("input", (INPUTS,), "output", (WIDTH,))
    for task, ladder in MILLISECONDS.items():
        write_config(root, task, config_text(task, shapes))
        for accuracy, milliseconds in zip(ACCURACIES[task], ladder, strict=True):
            number = 1_000_000 + round(100_000 * accuracy)
            layers = max(1, round((cores * milliseconds / 1000 - start) / each))
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


def tasks_manifest(
    objective: float | None = None, server_selectors: Mapping[str, Mapping[str, str]] | None = None
) -> str:
    """Return the InferenceTasks; an objective and selectors of servers where they are given."""
    found = []
    for name in MILLISECONDS:
        slo: dict[str, object] = {"latency": f"{1000 * SLO_SECONDS:.0f}ms"}
        spec: dict[str, object] = {"poolRef": {"name": "edge"}, "slo": slo}
        if objective is not None:
            slo["objective"] = objective
        if server_selectors is not None:
            spec["serverSelector"] = dict(server_selectors[name])
        metadata = {"name": name}
        found.append({"apiVersion": "rung.dev/v1alpha1", "kind": "InferenceTask", "metadata": metadata, "spec": spec})
    return yaml.safe_dump_all(found)


# -------------------------------------------------------------------------------------------------------------- demand


def slices(data: Path, seconds: int, rounds: int, scale: float) -> list[dict[str, Trace]]:
    """Return the traces of each round: of the simulator's demand, a part in which it swings a lot.

    Raises setting.NoDataError without the trace.
    """
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


def replay_of(traces: dict[str, Trace], seed: int, service: str = "rung-triton") -> Replay:
    """Return the load that these traces are, on a Service."""
    seconds = next(iter(traces.values())).seconds
    slo = dict.fromkeys(traces, 1000 * SLO_SECONDS)
    return Replay(traces, slo, f"dns:///{service}:8001", image("rung-loadgen"), seed, seconds)


# ----------------------------------------------------------------------------------------------------------- servers


def restart(kubernetes: Kubernetes, deployments: Sequence[str]) -> None:
    """Have servers that nobody has asked anything: the queue that one run left must not be the next one's."""
    kubernetes.kubectl("rollout", "restart", *deployments)
    for each in deployments:
        kubernetes.kubectl("rollout", "status", each, "--timeout=120s", deadline_seconds=130)


def probe(
    kubernetes: Kubernetes,
    folder: Path,
    traces: dict[str, Trace],
    stages: Stages,
    deployments: Sequence[str],
    cores: float = 1.0,
    service: str = "rung-triton",
) -> float:
    """Return how many times the CPU that they are made for the cheapest versions take here.

    `cores` is what all the servers have together, by what one of them is made for.
    """
    restart(kubernetes, deployments)
    use_policy(kubernetes, "Static Cheapest", stages, len(MILLISECONDS))
    header = RunHeader(time.time(), "probe", tuple(ladder_headers(kubernetes)), capacity_cores=cores, trace="probe")
    constant = {task: Trace("probe", np.full(PROBE_SECONDS, trace.rates_rps.mean())) for task, trace in traces.items()}
    with stages.stage("What the cheapest versions cost here"):
        record_run(
            kubernetes, replay_of(constant, 0, service), header=header, path=folder / "probe.jsonl",
            show=lambda *_: None,
        )  # fmt: skip
    made_for = sum(trace.rates_rps[0] * MILLISECONDS[task][0] / 1000 for task, trace in constant.items())
    return cores * cpu_share(read_run(folder / "probe.jsonl"), PROBE_SECONDS / 3) / float(made_for)


# ------------------------------------------------------------------------------------------------------ what was seen


@dataclass(frozen=True)
class Live:
    """One run as its clients saw it after the warm-up; swaps and latencies (milliseconds) are of all of it."""

    policy: str
    requests: int
    late: int
    failed: int
    accuracy: float
    """Normalised, by request."""
    accuracy_by_task: dict[str, float]
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
    """Return the mean share of the servers' CPU that was used."""
    begin = run.start_seconds + after_seconds
    return mean(
        [
            server.utilization
            for line in run.pool
            if begin < line.time_seconds <= run.end_seconds
            for server in line.servers
            if server.utilization is not None
        ]
    )


def accuracy(run: Run, lines: Iterable[LoadLine]) -> float:
    """Return the mean normalised accuracy of the answers in some lines of a run; NaN where nothing was answered."""
    worth = {(t.task, str(v.version)): v.normalized_accuracy for t in run.header.tasks for v in t.ladder}
    answers = [(worth[line.task, number], count) for line in lines for number, count in line.versions.items()]
    answered = sum(count for _, count in answers)
    return sum(share * count for share, count in answers) / answered if answered else float("nan")


def seen(path: Path, warm_up_seconds: int = WARM_UP_SECONDS) -> Live:
    """Add a recording up. Raises RecordError when it can't be read."""
    run = read_run(path)
    lines = [line for line in run.load if line.elapsed_seconds > warm_up_seconds]
    tasks = run.summary.tasks if run.summary is not None else ()
    percentiles = [(t.latency_p50_milliseconds, t.latency_p95_milliseconds, t.latency_p99_milliseconds) for t in tasks]
    total = outcome_of(run)
    return Live(
        policy=run.header.name,
        requests=sum(line.offered for line in lines),
        late=sum(line.late for line in lines),
        failed=sum(sum(line.failed.values()) for line in lines),
        accuracy=accuracy(run, lines),
        accuracy_by_task={task: accuracy(run, [line for line in lines if line.task == task]) for task in MILLISECONDS},
        cpu=cpu_share(run, warm_up_seconds),
        swaps=dict(total.swaps),
        swap_seconds=dict(run.swaps.mean_seconds) if run.swaps is not None else {},
        latency=(
            mean([p for p, _, _ in percentiles if p is not None]),
            mean([p for _, p, _ in percentiles if p is not None]),
            mean([p for _, _, p in percentiles if p is not None]),
        ),
        sentence=total.sentence(),
    )


def tell(page: Page, folder: Path, name: str, stages: Stages) -> None:
    """Write a benchmark's page beside its recordings, and say what is in it."""
    page.write(folder, name)
    for line in page.findings:
        stages.say(line)
    stages.say(f"The page and every recording: {folder}")


def mean(values: list[float]) -> float:
    """Return the mean of what is known; NaN of nothing."""
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")


def percent(share: float, digits: int) -> str:
    """Return a share in per cent; a dash where nothing was answered, so that there is none."""
    return shown([100 * share], digits)


def shown(values: list[float], digits: int) -> str:
    """Return the mean of some numbers; a dash where there is none."""
    found = mean(values)
    return f"{found:.{digits}f}" if np.isfinite(found) else "-"
