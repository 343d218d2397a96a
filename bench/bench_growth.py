"""How one operator grows: its loop, CPU, memory, API calls and Prometheus queries, from 1 server to 100.

    python bench/bench_growth.py [--servers 1 --servers 100] [--tasks-per-server 10] [--waves 600] [--interval 1]

A real API server and a real Prometheus; the servers are simulated (`simulated_servers.py`): they speak Triton's gRPC
protocol and the agent's HTTP, load versions, and count requests that come in waves of 40 to 160 %, each task at its own
time, so that Frontier steps somewhere all the time. Measured is the operator's process alone, from /proc, and what the
API server and Prometheus say they got.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml
from matplotlib.figure import Figure

from bench_operator import cpu_seconds, metrics_page, rss_bytes
from rung_sim.experiments.page import Page, Table
from simulated_servers import AGENT_PORT, GRPC_PORT, address

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "cluster"))

from rung_devcluster.tools import ensure_tools
from servers.apiserver import ApiServer
from servers.models import config_text
from servers.ports import free_port
from servers.site import Process

PROJECT = Path(__file__).resolve().parents[1]
VERSIONS = 5
LOAD_SECONDS = 0.5
SETTLE_SECONDS = 600.0
STEADY_SECONDS = 150.0
"""Before it is measured: Frontier learns for a minute or two, and steps more than it does later."""
POOL = "edge"


@dataclass(frozen=True, slots=True)
class Cost:
    """What an operator with so many servers costs."""

    servers: int
    tasks: int
    versions: int
    loop_mean_milliseconds: float
    loop_longest_milliseconds: float
    """Three passes of a hundred take longer, at most."""
    passes_per_second: float
    cpu_share: float
    rss_megabytes: float
    api_calls_per_second: float
    status_writes_per_second: float
    queries_per_pass: float
    swaps_per_minute: float
    loads_per_minute: float
    """Of these, swaps to a version that had to be loaded."""
    settle_seconds: float


def cost_seconds(number: int) -> float:
    """Return what an inference by a version costs."""
    return 0.002 * 2.0 ** (number - 1)


def content_hash(number: int) -> str:
    """Return what the file of a version is to be."""
    return sha256(f"version {number}".encode()).hexdigest()


@dataclass
class Fleet:
    """A running operator and what it looks after."""

    folder: Path
    api: ApiServer
    namespace: str
    operator: Process
    operator_port: int
    prometheus_port: int

    def operator_metrics(self) -> dict[str, float]:
        return metrics_page(f"http://127.0.0.1:{self.operator_port}/metrics")

    def prometheus_queries(self) -> float:
        found = metrics_page(f"http://127.0.0.1:{self.prometheus_port}/metrics")
        return sum(v for k, v in found.items() if k.startswith("prometheus_http_requests_total") and '/query"' in k)

    def api_calls(self) -> float:
        """Return what the API server was asked so far, watches and its own leases left out."""
        text = self.api.kubectl("get", "--raw", "/metrics")
        lines = [line for line in text.splitlines() if line.startswith("apiserver_request_total{")]
        skipped = ('verb="WATCH"', 'resource="leases"', 'subresource="/metrics"')
        return sum(float(line.rpartition(" ")[2]) for line in lines if not any(one in line for one in skipped))


def wait(condition: Callable[[], bool], what: str, seconds: float = SETTLE_SECONDS) -> float:
    """Wait until a condition holds; returns how long it took."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(0.5)
    return time.monotonic() - began


def create_objects(
    api: ApiServer, namespace: str, names: list[list[str]], prometheus_port: int, interval_seconds: float
) -> None:
    """Create the pods, the pool, the tasks and their versions."""
    path = f"/apis/rung.dev/v1alpha1/namespaces/{namespace}"

    def create(plural: str, kind: str, name: str, spec: dict[str, Any]) -> None:
        body = {"apiVersion": "rung.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}
        status, answer = api.send("POST", f"{path}/{plural}", body)
        assert status == 201, answer

    waiting: list[tuple[str, str, str, dict[str, Any]]] = []

    def later(*each: Any) -> None:
        waiting.append(each)

    create(
        "servingpools", "ServingPool", POOL,
        {
            "serverSelector": {"rung.dev/pool": POOL}, "policy": {"name": "Frontier"},
            "interval": f"{interval_seconds:g}s",
            "metrics": {"prometheusUrl": f"http://127.0.0.1:{prometheus_port}"},
        },
    )  # fmt: skip
    for number, tasks in enumerate(names):
        name = f"triton-{number:03}"
        # No two servers' tasks are the same: what is computed once for the same versions is not here.
        less = 0.0001 * number
        containers = [
            {"name": "triton", "image": "none", "ports": [{"name": "grpc", "containerPort": GRPC_PORT}],
             "resources": {"limits": {"cpu": "1", "memory": "2Gi"}}},
            {"name": "agent", "image": "none", "ports": [{"name": "agent", "containerPort": AGENT_PORT}]},
        ]  # fmt: skip
        pod = {
            "apiVersion": "v1", "kind": "Pod", "spec": {"containers": containers},
            "metadata": {"name": name, "labels": {"rung.dev/pool": POOL, "shard": f"s{number}"}},
        }  # fmt: skip
        created, answer = api.send("POST", f"/api/v1/namespaces/{namespace}/pods", pod)
        assert created == 201, answer
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
        answer["status"] = {
            "podIP": address(number), "podIPs": [{"ip": address(number)}], "phase": "Running", "conditions": [ready],
        }  # fmt: skip
        written, answer = api.send("PUT", f"/api/v1/namespaces/{namespace}/pods/{name}/status", answer)
        assert written == 200, answer
        for task in tasks:
            slo = {"latency": "400ms"}
            spec = {"poolRef": {"name": POOL}, "slo": slo, "serverSelector": {"shard": f"s{number}"}}
            later("inferencetasks", "InferenceTask", task, spec)
            for version in range(1, VERSIONS + 1):
                seconds = cost_seconds(version)
                profile = {
                    "hardwareClass": "default", "sloLatency": "400ms", "maxThroughput": 1 / seconds,
                    "cpuSecondsPerInference": seconds,
                }  # fmt: skip
                later(
                    "modelversions", "ModelVersion", f"{task}-{version}",
                    {
                        "taskRef": {"name": task}, "version": version,
                        "artifact": {
                            "uri": f"s3://models/{task}/{version}/model.onnx", "bytes": 1000,
                            "sha256": content_hash(version),
                        },
                        "accuracy": {"metric": "top1", "value": round(0.6 + 0.08 * version - less, 4)},
                        "profiles": [profile],
                    },
                )  # fmt: skip
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(create, *each) for each in waiting]:
            done.result()


@contextlib.contextmanager
def running_fleet(folder: Path, api: ApiServer, servers: int, given: argparse.Namespace) -> Iterator[Fleet]:
    """Bring everything up but the operator's first word."""
    folder.mkdir(parents=True)
    namespace = api.make_namespace("growth")
    names = [[f"task-{server:03}-{task:02}" for task in range(given.tasks_per_server)] for server in range(servers)]
    versions = {n: (content_hash(n), cost_seconds(n)) for n in range(1, VERSIONS + 1)}
    spec = {"tasks": names, "versions": versions, "config": config_text("MODEL"), "load_seconds": LOAD_SECONDS}
    spec["wave_seconds"] = given.waves
    (folder / "servers.json").write_text(json.dumps(spec))
    prometheus_port, operator_port = free_port(), free_port()
    targets = [
        {"targets": [f"{address(n)}:{AGENT_PORT}"], "labels": {"namespace": namespace, "pod": f"triton-{n:03}"}}
        for n in range(servers)
    ]
    scrape = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
        "scrape_configs": [{"job_name": "servers", "static_configs": targets}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(scrape))
    simulated = Path(__file__).with_name("simulated_servers.py")
    with contextlib.ExitStack() as stack:
        process = subprocess.Popen(
            [sys.executable, str(simulated), str(folder / "servers.json")], stdout=subprocess.PIPE, text=True
        )
        stack.callback(process.wait, 30)
        stack.callback(process.terminate)
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready"
        prometheus = Process(
            "prometheus",
            [
                str(ensure_tools(["prometheus"])["prometheus"]), f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'tsdb'}", f"--web.listen-address=127.0.0.1:{prometheus_port}",
            ],
            folder,
        )  # fmt: skip
        stack.callback(prometheus.end)
        prometheus.start()
        create_objects(api, namespace, names, prometheus_port, given.interval)
        operator = Process(
            "operator",
            [
                str(Path(sys.executable).parent / "rung"), "operator", f"--namespaces={namespace}",
                f"--listen=127.0.0.1:{operator_port}", "--log-level=INFO",
            ],
            folder, {"KUBECONFIG": str(api.kubeconfig)},
        )  # fmt: skip
        stack.callback(operator.end)
        operator.start()
        yield Fleet(folder, api, namespace, operator, operator_port, prometheus_port)


def measure(folder: Path, api: ApiServer, servers: int, given: argparse.Namespace) -> Cost:
    """Run a fleet and measure its operator."""
    seconds, tasks = given.seconds, servers * given.tasks_per_server
    with running_fleet(folder, api, servers, given) as fleet:
        pool = f'pool="{fleet.namespace}/{POOL}"'

        def answered() -> int:
            with contextlib.suppress(OSError):
                found = fleet.operator_metrics()
                return sum(k.startswith("rung_active_version{") and pool in k for k in found)
            return 0

        settled = wait(lambda: answered() >= tasks, "every task is answered")
        # The first changes belong to the start.
        time.sleep(STEADY_SECONDS)
        assert fleet.operator.process is not None
        pid = fleet.operator.process.pid
        before, began = fleet.operator_metrics(), time.monotonic()
        cpu, calls, queries = cpu_seconds(pid), fleet.api_calls(), fleet.prometheus_queries()
        time.sleep(seconds)
        after, passed = fleet.operator_metrics(), time.monotonic() - began
        cpu, calls = cpu_seconds(pid) - cpu, fleet.api_calls() - calls
        queries = fleet.prometheus_queries() - queries

        def grew(name: str, *labels: str) -> float:
            return sum(
                after[key] - before.get(key, 0.0)
                for key in after
                if key.partition("{")[0] == name and all(label in key for label in labels)
            )

        passes = grew("rung_loop_duration_seconds_count", pool)
        loads = grew("rung_swaps_total", pool, 'kind="cold"')
        buckets = sorted(
            (float(key.partition('le="')[2].partition('"')[0]), after[key] - before.get(key, 0.0))
            for key in after
            if key.startswith("rung_loop_duration_seconds_bucket") and pool in key
        )
        longest = next((limit for limit, count in buckets if count >= 0.97 * passes), float("inf"))
        return Cost(
            servers=servers,
            tasks=tasks,
            versions=tasks * VERSIONS,
            loop_mean_milliseconds=round(1000 * grew("rung_loop_duration_seconds_sum", pool) / max(passes, 1), 1),
            loop_longest_milliseconds=round(1000 * longest, 1),
            passes_per_second=round(passes / passed, 2),
            cpu_share=round(cpu / passed, 3),
            rss_megabytes=round(rss_bytes(pid) / 1e6, 1),
            api_calls_per_second=round(calls / passed, 2),
            status_writes_per_second=round(grew("rung_status_writes_total") / passed, 2),
            queries_per_pass=round(queries / max(passes, 1), 2),
            swaps_per_minute=round(60 * (grew("rung_swaps_total", pool, 'kind="warm"') + loads) / passed, 1),
            loads_per_minute=round(60 * loads / passed, 1),
            settle_seconds=round(settled, 1),
        )


def page(costs: list[Cost], given: argparse.Namespace) -> Page:
    """Return the page."""
    columns = [
        "servers", "tasks", "versions", "a pass, ms", "97 % below", "passes/s", "CPU of a core, %", "memory, MB",
        "API calls/s", "of these statuses/s", "queries a pass", "swaps/min", "of these cold", "all answered after, s",
    ]  # fmt: skip
    rows = [
        [
            f"{c.servers}", f"{c.tasks:,}", f"{c.versions:,}", f"{c.loop_mean_milliseconds:.0f}",
            f"{c.loop_longest_milliseconds:.0f}", f"{c.passes_per_second:.2f}", f"{100 * c.cpu_share:.1f}",
            f"{c.rss_megabytes:.0f}", f"{c.api_calls_per_second:.1f}", f"{c.status_writes_per_second:.1f}",
            f"{c.queries_per_pass:.1f}", f"{c.swaps_per_minute:.0f}", f"{c.loads_per_minute:.0f}",
            f"{c.settle_seconds:.0f}",
        ]
        for c in costs
    ]  # fmt: skip
    figure = Figure(figsize=(10, 6), layout="constrained")
    panels = {
        "a pass, ms": [c.loop_mean_milliseconds for c in costs],
        "CPU of a core, %": [100 * c.cpu_share for c in costs],
        "memory, MB": [c.rss_megabytes for c in costs],
        "calls of the API server a second": [c.api_calls_per_second for c in costs],
    }
    for axes, (name, values) in zip(figure.subplots(2, 2).flat, panels.items(), strict=True):
        axes.plot([c.servers for c in costs], values, marker="o", color="#0072b2")
        axes.set(title=name, xlabel="servers", ylim=(0, None), xlim=(0, None))
        axes.grid(True, color="#e5e5e5", linewidth=0.6)
    return Page(
        title="One operator as its fleet grows",
        question=(
            f"{given.tasks_per_server} tasks on each server, {VERSIONS} versions each, demand of every task in waves "
            f"of 40 to 160 % every {given.waves:g} s, each at its own time; Frontier, a decision every "
            f"{given.interval:g} s, over {given.seconds:g} s that begin "
            f"{STEADY_SECONDS:g} s after the last task was answered. The API server and Prometheus are real; "
            "the servers are simulated ones that speak Triton's gRPC and the agent's HTTP. CPU "
            "and memory are the operator's alone, on the machine that the other programs run on, too."
        ),
        command="make bench-growth",
        tables=[Table(columns, rows)],
        figures={"growth": figure},
    )


def main() -> None:
    # Ended by a signal, it still ends what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--servers", type=int, action="append", help="may be repeated (default: 1, 10, 30, 100)")
    parser.add_argument("--tasks-per-server", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to measure (default: 60)")
    parser.add_argument("--waves", type=float, default=600.0, help="seconds from one wave to the next (default: 600)")
    parser.add_argument(
        "--interval", type=float, default=1.0, help="seconds from one decision to the next (default: 1)"
    )
    parser.add_argument("--out", type=Path, help="folder of the page; out/bench-growth-TIME")
    parser.add_argument("--json", type=Path, help="write the numbers there too")
    given = parser.parse_args()
    costs: list[Cost] = []
    with tempfile.TemporaryDirectory(prefix="rung-growth-") as folder:
        for servers in given.servers or [1, 10, 30, 100]:
            api = ApiServer(Path(folder) / f"apiserver-{servers}")
            try:
                api.start().apply_crds()
                site = Path(folder) / f"fleet-{servers}"
                costs.append(measure(site, api, servers, given))
            finally:
                api.stop()
            print(json.dumps(asdict(costs[-1])), file=sys.stderr, flush=True)
    out = given.out or PROJECT / "out" / f"bench-growth-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    made = page(costs, given)
    made.write(out, "growth")
    print(made.tables[0].markdown())
    print(f"The page and its picture: {out}", file=sys.stderr)
    if given.json:
        given.json.write_text(json.dumps([asdict(cost) for cost in costs], indent=1) + "\n")


if __name__ == "__main__":
    main()
