"""Faults under load: what each costs the clients of three servers behind the chart's balancer, lost and late.

Run it with `make bench-faults`, as root; it takes about half an hour and needs the traces (--data). The servers, the
networks and the tasks are those of bench_fleet.py. One replay goes through all faults: each has a window in which the
same slice of the trace comes again, 20 s into which the fault begins. What was late or failed in the window is what it
cost, beside a window without any fault.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from bench_fleet import BALANCER, CORES, DEPLOYMENTS, OBJECTIVE, PLACES, fleet_options
from rung_demo.__main__ import REFLEX, use_policy
from rung_demo.environment import POOL, PROJECT, environment, wait_until_serving
from rung_demo.ladders import ladder_headers
from rung_demo.live import LiveView
from rung_demo.programs import Kubernetes
from rung_demo.record import Line, Run, RunHeader, read_run
from rung_demo.replay import record_run
from rung_demo.stages import Stages
from rung_loadgen.lines import LoadLine
from rung_loadgen.trace import Trace
from rung_sim.experiments import setting
from rung_sim.experiments.page import Page, Table
from thesis import (
    MILLISECONDS,
    WARM_UP_SECONDS,
    accuracy,
    mean,
    percent,
    probe,
    replay_of,
    restart,
    slices,
    tell,
    write_ladders,
)

LOAD = 2.0
"""Of the low load in bench_fleet.py; what is left of three servers when one is gone then has the high one."""
BEGINS_SECONDS = 20
"""Of a window."""
Context = Callable[[Kubernetes], Iterator[None]]


# ----------------------------------------------------------------------------------------------------- the processes


def pod_of(kubernetes: Kubernetes, selector: str) -> Mapping[str, Any]:
    """Return the one running pod with these labels."""
    found = json.loads(kubernetes.kubectl("get", "pods", f"--selector={selector}", "--output", "json"))["items"]
    (pod,) = [pod for pod in found if not pod["metadata"].get("deletionTimestamp")]
    return dict(pod)


def processes_of(pod: Mapping[str, Any], container: str) -> list[int]:
    """Return the processes of a container, as this machine numbers them, its first one first."""
    statuses = {status["name"]: status for status in pod["status"]["containerStatuses"]}
    identity = statuses[container]["containerID"].rpartition("/")[2]
    found: list[tuple[int, int]] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if identity not in (folder / "cgroup").read_text():
                continue
            inside = re.search(r"^NSpid:.*?(\d+)$", (folder / "status").read_text(), re.MULTILINE)
        except OSError:
            continue  # it ended meanwhile
        found.append((int(inside[1]) if inside else sys.maxsize, int(folder.name)))
    if not found:
        raise LookupError(f"no process of container {container} of {pod['metadata']['name']} was found")
    return [pid for _, pid in sorted(found)]


def cpu_quota(pid: int) -> Path:
    """Return the file that limits the CPU of a process' cgroup; of the second version, its first number does."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "cpu" in controllers.split(","):
            return Path(f"/sys/fs/cgroup/cpu{path}/cpu.cfs_quota_us")
        if not controllers and (file := Path(f"/sys/fs/cgroup{path}/cpu.max")).exists():
            return file
    raise LookupError(f"process {pid} is in no cgroup with a CPU limit")


# -------------------------------------------------------------------------------------------------------- the faults


def server(release: str) -> str:
    """Return the labels of the Triton pod of a release."""
    return f"app.kubernetes.io/instance={release},app.kubernetes.io/component=triton"


OPERATOR = "app.kubernetes.io/instance=rung,app.kubernetes.io/component=operator"
ENVOY = "app.kubernetes.io/instance=rung,app.kubernetes.io/component=balancer"


def killed(selector: str, container: str) -> Context:
    """Kill a container's first process; its kubelet starts it again."""

    def fault(kubernetes: Kubernetes) -> Iterator[None]:
        os.kill(processes_of(pod_of(kubernetes, selector), container)[0], signal.SIGKILL)
        yield

    return fault


def hung(kubernetes: Kubernetes) -> Iterator[None]:
    """Stop every process of a server's Triton: it takes connections and answers nothing."""
    pids = processes_of(pod_of(kubernetes, server("rung-c")), "triton")
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    yield
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


def slowed(kubernetes: Kubernetes) -> Iterator[None]:
    """Give a server a third of its CPU, of which nobody tells the operator."""
    file = cpu_quota(processes_of(pod_of(kubernetes, server("rung-b")), "triton")[0])
    before = file.read_text()
    quota, *rest = before.split()
    file.write_text(" ".join([str(int(quota) // 3), *rest]))
    yield
    file.write_text(before)


def cut_off(kubernetes: Kubernetes) -> Iterator[None]:
    """Let nothing that the operator sends reach a server; clients, the balancer and Prometheus still do."""
    pid = processes_of(pod_of(kubernetes, OPERATOR), "operator")[0]
    route = ["nsenter", f"--target={pid}", "--net", "ip", "route"]
    address = f"{pod_of(kubernetes, server('rung-b'))['status']['podIP']}/32"
    subprocess.run([*route, "add", "blackhole", address], check=True, timeout=10)
    yield
    subprocess.run([*route, "delete", "blackhole", address], check=True, timeout=10)


def operator_away(kubernetes: Kubernetes) -> Iterator[None]:
    """Have no operator."""
    kubernetes.kubectl("scale", "deployment/rung-operator", "--replicas=0")
    yield
    kubernetes.kubectl("scale", "deployment/rung-operator", "--replicas=1")


def drained(kubernetes: Kubernetes) -> Iterator[None]:
    """Drain the node of a server's pod; the other pods, which the only node has too, are left where they are."""
    pod = pod_of(kubernetes, server("rung-c"))
    node = pod["spec"]["nodeName"]
    kubernetes.kubectl(
        "drain", node, f"--pod-selector={server('rung-c')}", "--delete-emptydir-data", "--ignore-daemonsets",
        "--timeout=90s", deadline_seconds=100,
    )  # fmt: skip
    yield
    kubernetes.kubectl("uncordon", node)


@dataclass(frozen=True)
class Fault:
    """One line of the table."""

    name: str
    does: Context | None = None
    lasts_seconds: int = 30
    """Until it is mended, where nothing else does."""


FAULTS = (
    Fault("none"),
    Fault("a server killed", killed(server("rung"), "triton")),
    Fault("a server hung for 30 s", hung),
    Fault("a server three times slower for 30 s", slowed),
    Fault("a server cut off from the operator for 30 s", cut_off),
    Fault("a gate killed", killed(server("rung-b"), "gate")),
    Fault("Envoy killed", killed(ENVOY, "envoy")),
    Fault("the operator away for 60 s", operator_away, 60),
    Fault("a node drained (kubectl drain) for 30 s", drained),
)


# ------------------------------------------------------------------------------------------------------- the replay


@dataclass
class Schedule:
    """Does what is due when the load comes to its second, one thing after the other and beside the load."""

    kubernetes: Kubernetes
    faults: tuple[Fault, ...]
    window_seconds: int
    stages: Stages
    done: list[Future[None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="faults")
        self._due: list[tuple[int, Callable[[], None]]] = []
        for number, fault in enumerate(self.faults):
            if fault.does is not None:
                begins = WARM_UP_SECONDS + number * self.window_seconds + BEGINS_SECONDS
                acts = fault.does(self.kubernetes)
                self._due.append((begins, partial(self._step, acts, f"Now: {fault.name}")))
                self._due.append((begins + fault.lasts_seconds, partial(self._step, acts, "")))
        self._due.sort(key=lambda each: each[0])

    def _step(self, acts: Iterator[None], word: str) -> None:
        if word:
            self.stages.say(word)
        next(acts, None)

    def take(self, line: Line) -> None:
        """Take note of a line of the recording."""
        while isinstance(line, LoadLine) and self._due and line.elapsed_seconds >= self._due[0][0]:
            self.done.append(self._worker.submit(self._due.pop(0)[1]))

    def end(self) -> None:
        """Do what is left (all that was begun is mended), and raise what went wrong."""
        for _, act in self._due:
            self.done.append(self._worker.submit(act))
        self._worker.shutdown()
        for each in self.done:
            each.result()


@contextmanager
def schedule(
    kubernetes: Kubernetes, faults: tuple[Fault, ...], window_seconds: int, stages: Stages
) -> Iterator[Schedule]:
    """Yield what makes the faults; at the end none is left."""
    made = Schedule(kubernetes, faults, window_seconds, stages)
    try:
        yield made
    finally:
        made.end()


def repeated(traces: Mapping[str, Trace], times: int) -> dict[str, Trace]:
    """Return the climb once, and what follows it so many times."""
    return {
        task: Trace(
            trace.name,
            np.concatenate([trace.rates_rps[:WARM_UP_SECONDS], np.tile(trace.rates_rps[WARM_UP_SECONDS:], times)]),
        )
        for task, trace in traces.items()
    }


# ---------------------------------------------------------------------------------------------------------- the page


def row(run: Run, fault: Fault, number: int, window_seconds: int) -> list[str]:
    """Return the line of a fault."""
    begin = WARM_UP_SECONDS + number * window_seconds
    lines = [line for line in run.load if begin < line.elapsed_seconds <= begin + window_seconds]
    offered, late = sum(line.offered for line in lines), sum(line.late for line in lines)
    failed = sum(sum(line.failed.values()) for line in lines)
    kinds = sorted({kind for line in lines for kind in line.failed})
    struck = {line.elapsed_seconds for line in lines if line.late or line.failed}
    after = max((second - begin - BEGINS_SECONDS for second in struck), default=0)
    longest = max((line.latency_max_milliseconds or 0.0 for line in lines), default=0.0)
    return [
        fault.name, f"{offered:,}", f"{failed:,}" + (f" ({', '.join(kinds)})" if kinds else ""), f"{late:,}",
        percent((late + failed) / max(1, offered), 2), f"{len(struck)}", f"{max(0, after)}" if struck else "-",
        f"{longest:,.0f}", percent(accuracy(run, lines), 1),
    ]  # fmt: skip


def report(run: Run, faults: tuple[Fault, ...], window_seconds: int, scale: float) -> Page:
    """Return the page."""
    rows = [row(run, fault, number, window_seconds) for number, fault in enumerate(faults)]
    rate = mean([line.offered for line in run.load if line.elapsed_seconds > WARM_UP_SECONDS]) * len(MILLISECONDS)
    return Page(
        title="Live: faults under load",
        question=(
            f"Three Tritons of {CORES} cores behind the chart's balancer (a real Envoy), each task on two, Frontier "
            f"with the reflex, objective {100 * OBJECTIVE:g} %: what does each fault cost clients that repeat nothing? "
            f"In each window of {window_seconds} s the same slice of the Twitter trace comes with the thesis' waves, "
            f"{rate:.0f} requests/s in the mean ({LOAD:g} times the low load of bench-fleet, {scale:.2f} times the "
            f"simulator's), and {BEGINS_SECONDS} s into it the fault begins."
        ),
        command="make bench-faults",
        tables=[
            Table(
                ["fault", "requests", "failed", "late", "late or failed, %", "seconds with such", "last one, s after",
                 "longest answer, ms", "accuracy, %"], rows,
            ),
        ],
    )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the real traces")
    parser.add_argument("--seconds", type=int, default=100, help="of the window of each fault; at least 100")
    parser.add_argument("--scale", type=float, help="of the simulator's demand; as the machine's pace allows")
    parser.add_argument("--faults", type=int, nargs="+", default=[*range(len(FAULTS))], help="their numbers, from 0")
    parser.add_argument("--out", type=Path, help="folder of the page and the recording; out/bench-faults-TIME")
    arguments = parser.parse_args()
    faults = tuple(FAULTS[number] for number in arguments.faults)
    folder = arguments.out or PROJECT / "out" / f"bench-faults-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    folder.mkdir(parents=True, exist_ok=True)
    seconds = max(100, arguments.seconds)
    try:
        (traces,) = slices(arguments.data, seconds, 1, LOAD * (arguments.scale or 1.0))
    except setting.NoDataError as error:
        print(f"bench-faults: {error}", file=sys.stderr)
        return 2
    stages = Stages()
    with TemporaryDirectory(prefix="rung-bench-faults-") as temporary:
        write_ladders(Path(temporary), CORES)
        with environment(fleet_options(Path(temporary)), stages) as kubernetes:
            scale = arguments.scale or 1.0 / probe(
                kubernetes, folder, traces, stages, DEPLOYMENTS, len(PLACES), BALANCER
            )
            stages.say(f"Demand: {scale:.2f} times that of the simulator's experiments")
            (traces,) = slices(arguments.data, seconds, 1, LOAD * scale)
            restart(kubernetes, DEPLOYMENTS)
            kubernetes.kubectl("patch", "spool", POOL, "--type=merge", '--patch={"spec":{"rollout":{"drain":"Cold"}}}')
            use_policy(kubernetes, REFLEX, stages, len(MILLISECONDS))
            wait_until_serving(kubernetes, stages, tasks=len(MILLISECONDS))
            headers = tuple(ladder_headers(kubernetes))
            header = RunHeader(time.time(), "faults", headers, capacity_cores=3 * CORES, trace="faults")
            path = folder / "faults.jsonl"
            replay = replay_of(repeated(traces, len(faults)), 0, BALANCER)
            with (
                stages.stage("Faults under load"),
                LiveView(header, stages.console) as view,
                schedule(kubernetes, faults, seconds, stages) as due,
            ):

                def show(line: Line) -> None:
                    view.show(line)
                    due.take(line)

                record_run(kubernetes, replay, header=header, path=path, show=show)
            (folder / "operator.log").write_text(kubernetes.kubectl("logs", "deployment/rung-operator"))
    tell(report(read_run(path), faults, seconds, scale), folder, "faults", stages)
    return 0


if __name__ == "__main__":
    sys.exit(main())
