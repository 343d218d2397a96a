"""One run: the load as a Job in the cluster, what the operator publishes meanwhile, and the recording of both."""

from __future__ import annotations

import asyncio
import json
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

import yaml
from prometheus_client.parser import text_string_to_metric_families

from rung.adapters.kubernetes import KubernetesError, connect
from rung.api import InferenceTask
from rung_demo.programs import DemoError, Kubernetes, end
from rung_demo.record import (
    DecisionLine,
    Line,
    PoolLine,
    Recorder,
    RunHeader,
    ServerLine,
    SwapsLine,
    TaskLine,
    parse_line,
)
from rung_loadgen.lines import LoadSummary
from rung_loadgen.trace import Trace

Page = Mapping[str, Sequence[tuple[Mapping[str, str], float]]]
"""The samples of a page of metrics, by name: labels and value."""

POLL_SECONDS = 1.0
JOB = "rung-replay"


@dataclass(frozen=True)
class Replay:
    """What is replayed, and against what."""

    traces: Mapping[str, Trace]
    slo_milliseconds: Mapping[str, float]
    target: str
    image: str
    seed: int
    seconds: int


def job_manifest(replay: Replay) -> str:
    """Return the Job and its traces as YAML."""
    traces = {
        f"{task}.txt": "\n".join(f"{rate:.2f}" for rate in trace.rates_rps) for task, trace in replay.traces.items()
    }
    arguments = ["replay", f"--target={replay.target}", f"--seed={replay.seed}", f"--duration={replay.seconds}s"]
    arguments += [f"--task={task}:/traces/{task}.txt:slo={replay.slo_milliseconds[task]:g}ms" for task in replay.traces]
    container = {
        "name": "load",
        "image": replay.image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["rung-load"],
        "args": arguments,
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "traces", "mountPath": "/traces"}],
    }
    pod = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [{"name": "traces", "configMap": {"name": JOB}}],
    }
    template = {"metadata": {"labels": {"app": JOB}}, "spec": pod}
    run = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": JOB},
        "spec": {"backoffLimit": 0, "activeDeadlineSeconds": replay.seconds + 180, "template": template},
    }
    return yaml.safe_dump_all(
        [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": JOB}, "data": traces}, run]
    )


def record_run(
    kubernetes: Kubernetes,
    replay: Replay,
    *,
    header: RunHeader,
    path: Path,
    show: Callable[[Line], None],
) -> LoadSummary:
    """Run the load, record everything to `path`, hand every line to `show`, and return the load's summary.

    Raises DemoError when the load can't be run to its end.
    """
    kubernetes.kubectl("delete", "job,configmap", JOB, "--ignore-not-found", "--wait=true")
    lines: queue.Queue[Line | DemoError] = queue.Queue()
    stop = threading.Event()
    summary: LoadSummary | None = None

    def read_load() -> None:
        try:
            _read_load(kubernetes, replay.seconds, lines.put, stop)
        except DemoError as error:
            lines.put(error)

    metrics = OperatorMetrics()
    watchers = (
        threading.Thread(target=lambda: asyncio.run(_watch(kubernetes, metrics, lines.put, stop)), daemon=True),
        threading.Thread(target=lambda: metrics.follow(kubernetes, stop), daemon=True),
    )
    with Recorder(path, header) as recorder:
        for watcher in watchers:
            watcher.start()
        kubernetes.apply(job_manifest(replay))
        reader = threading.Thread(target=read_load, daemon=True)
        reader.start()
        deadline = time.monotonic() + replay.seconds + 180
        try:
            while reader.is_alive() or not lines.empty():
                if time.monotonic() > deadline:
                    raise DemoError(f"the load did not end; look at it: kubectl logs job/{JOB}")
                try:
                    line = lines.get(timeout=0.5)
                except queue.Empty:
                    continue
                if isinstance(line, DemoError):
                    raise line
                recorder.write(line)
                show(line)
                if isinstance(line, LoadSummary):
                    summary = line
        finally:
            stop.set()
            for watcher in watchers:
                watcher.join(10)
    if summary is None:
        logs = kubernetes.kubectl("logs", f"job/{JOB}", "--tail=15")
        raise DemoError(f"the load ended without a summary; it said:\n{logs}")
    return summary


def _read_load(kubernetes: Kubernetes, seconds: int, put: Callable[[Line], None], stop: threading.Event) -> None:
    """Follow the Job's log and pass on its lines; ends with the Job."""
    kubernetes.kubectl(
        "wait", "pod", f"--selector=job-name={JOB}", "--for=create",
        "--for=jsonpath={.status.containerStatuses[0].started}=true", "--timeout=90s", deadline_seconds=100,
    )  # fmt: skip
    process = kubernetes.stream("logs", "--follow", f"job/{JOB}")
    timer = threading.Timer(seconds + 150, process.kill)
    timer.start()
    try:
        assert process.stdout is not None
        for text in process.stdout:
            if stop.is_set():
                return
            if text.startswith("{"):
                try:
                    line = parse_line(text)
                except (ValueError, json.JSONDecodeError):
                    continue
                put(line)
                if isinstance(line, LoadSummary):
                    return
    finally:
        timer.cancel()
        end(process)


# ---------------------------------------------------------------------------------------------- what the operator says


class OperatorMetrics:
    """The operator's own metrics, through a port-forward that is opened again when it or the operator ends."""

    def __init__(self) -> None:
        self._page: Page = {}
        self._read_monotonic = float("-inf")

    @property
    def page(self) -> Page:
        """The newest page; empty when it is too old to be of now."""
        return self._page if time.monotonic() - self._read_monotonic < 3 * POLL_SECONDS else {}

    def follow(self, kubernetes: Kubernetes, stop: threading.Event) -> None:
        """Read the page each second until told to stop. A read that fails is left out."""
        while not stop.wait(POLL_SECONDS):
            try:
                with kubernetes.forwarded("service/rung-operator", 8080) as address:
                    while not stop.wait(POLL_SECONDS):
                        with urlopen(f"http://{address}/metrics", timeout=2) as answer:
                            self._page = parse_page(answer.read().decode())
                        self._read_monotonic = time.monotonic()
            except (DemoError, OSError, HTTPException, ValueError):
                continue


async def _watch(
    kubernetes: Kubernetes, metrics: OperatorMetrics, put: Callable[[Line], None], stop: threading.Event
) -> None:
    """Tell each second what the operator says, until told to stop. A read that fails is left out."""
    told: dict[str, object] = {}
    first: Swaps | None = None
    async with connect(kubernetes.kubeconfig) as cluster:
        while not stop.is_set():
            began = time.monotonic()
            try:
                tasks = (await cluster.list_tasks(kubernetes.namespace)).objects
            except KubernetesError:
                tasks = ()
            page = metrics.page
            if page or tasks:
                put(pool_line(time.time(), page, tasks))
            if page:
                swaps = swaps_so_far(page)
                first = swaps if first is None else first
                put(swaps_line(time.time(), swaps, first))
            for decision in new_decisions(tasks, told):
                put(decision)
            await asyncio.sleep(max(0.1, POLL_SECONDS - (time.monotonic() - began)))


def pool_line(now_seconds: float, page: Page, tasks: Iterable[InferenceTask]) -> PoolLine:
    """Reduce what was read to one line of the recording. CPU comes from the metrics: a status is seconds old."""
    observed = {labels["server"]: value for labels, value in page.get("rung_observed_utilization", ())}
    expected = {labels["server"]: value for labels, value in page.get("rung_expected_utilization", ())}
    return PoolLine(
        time_seconds=now_seconds,
        servers=tuple(
            ServerLine(server, observed.get(server), expected.get(server)) for server in sorted({*observed, *expected})
        ),
        tasks=tuple(
            TaskLine(
                task.name,
                task.status.active_version,
                task.status.accuracy,
                task.status.normalized_accuracy,
                task.status.demand,
            )
            for task in tasks
        ),
    )


def new_decisions(tasks: Iterable[InferenceTask], told: dict[str, object]) -> list[DecisionLine]:
    """Return the last decisions that were not seen before; `told` remembers them."""
    found = []
    for task in tasks:
        decision = task.status.last_decision
        if decision is None:
            continue
        key = (decision.time, decision.code, decision.to_version)
        known = told.get(task.name)
        told[task.name] = key
        if known == key or known is None:
            continue
        found.append(
            DecisionLine(
                time_seconds=decision.time.timestamp(),
                task=task.name,
                code=decision.code,
                sentence=decision.sentence,
                from_version=decision.from_version,
                to_version=decision.to_version,
                server=decision.server or "",
            )
        )
    return found


def parse_page(text: str) -> Page:
    """Read a page of metrics. Raises ValueError when it is none."""
    page: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            page.setdefault(sample.name, []).append((sample.labels, sample.value))
    return page


@dataclass(frozen=True, slots=True)
class Swaps:
    """What the operator has counted: swaps by kind and outcome, and by kind the seconds they took and their number."""

    counts: Mapping[tuple[str, str], float]
    seconds: Mapping[str, float]
    timed: Mapping[str, float]


def swaps_so_far(page: Page) -> Swaps:
    """Return what the operator has counted since it began."""
    counts: dict[tuple[str, str], float] = {}
    for labels, value in page.get("rung_swaps_total", ()):
        key = (labels["kind"], labels["outcome"])
        counts[key] = counts.get(key, 0.0) + value
    return Swaps(
        counts, _by_kind(page, "rung_swap_duration_seconds_sum"), _by_kind(page, "rung_swap_duration_seconds_count")
    )


def _by_kind(page: Page, name: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for labels, value in page.get(name, ()):
        found[labels["kind"]] = found.get(labels["kind"], 0.0) + value
    return found


def swaps_line(now_seconds: float, swaps: Swaps, first: Swaps) -> SwapsLine:
    """Return how many swaps there were since the first look, and how long they took in the mean."""
    succeeded: dict[str, int] = {}
    failed: dict[str, int] = {}
    for (kind, outcome), value in swaps.counts.items():
        new = int(value - first.counts.get((kind, outcome), 0.0))
        if kind != "none" and new > 0:
            bucket = succeeded if outcome == "ok" else failed
            bucket[kind] = bucket.get(kind, 0) + new
    mean_seconds = {
        kind: (swaps.seconds.get(kind, 0.0) - first.seconds.get(kind, 0.0)) / ended
        for kind, count in swaps.timed.items()
        if (ended := count - first.timed.get(kind, 0.0)) > 0
    }
    return SwapsLine(now_seconds, succeeded, failed, mean_seconds)
