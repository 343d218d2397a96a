"""What the operator costs: its CPU and memory over a quiet minute, with 2 tasks and with 200.

    python bench/bench_operator.py [--tasks 2 --tasks 200] [--seconds 60] [--json FILE]

On a real site (API server, Triton, agent, S3, Prometheus; `tests/cluster/servers/site.py`): two tasks are really
served, under a little load. The others are registered with ten versions each, and their files are nowhere, as on a
server whose mirror is not filled yet. Measured is the operator's process alone, from /proc.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "cluster"))

from servers.apiserver import ApiServer
from servers.site import POOL, Site, running_site

VERSIONS = 10
SERVED = ("alpha", "beta")
RUNGS = ((1, 1), (2, 4), (3, 16))
STEADY_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Cost:
    """The operator's cost with so many tasks registered."""

    tasks: int
    versions: int
    start_cpu_seconds: float
    """From the start of the process until the first pass had ended and every status was written."""
    settle_seconds: float
    cpu_share: float
    """Of one core, over the measured time."""
    rss_megabytes: float
    pass_milliseconds: float
    writes_per_second: float


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_bytes(pid: int) -> int:
    """Return the memory that a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def metrics_page(url: str) -> dict[str, float]:
    """Read a page of metrics: values by name and labels."""
    with urllib.request.urlopen(url, timeout=30) as page:
        lines = [line for line in page.read().decode().splitlines() if line and not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def _register_unserved(site: Site, count: int) -> None:
    """Register tasks that nothing serves, in a few large requests."""
    objects: list[dict[str, Any]] = []
    for index in range(count):
        name = f"task-{index:03}"
        spec = {"poolRef": {"name": POOL}, "slo": {"latency": "400ms"}}
        objects.append(
            {"apiVersion": "rung.dev/v1alpha1", "kind": "InferenceTask", "metadata": {"name": name}, "spec": spec}
        )
        objects += [site.version_manifest(name, n, throughput=1000.0 / n) for n in range(1, VERSIONS + 1)]
    for start in range(0, len(objects), 500):
        site.create(
            [
                {**body, "metadata": {**body["metadata"], "namespace": site.namespace}}
                for body in objects[start : start + 500]
            ]
        )


def _settled(site: Site, tasks: int) -> bool:
    listed = site.listed("itask")
    return len(listed) == tasks and all(item.get("status", {}).get("conditions") for item in listed)


def measure(folder: Path, api: ApiServer, tasks: int, seconds: float) -> Cost:
    """Run a site with so many tasks and measure its operator."""
    with running_site(folder, api, api.make_namespace("bench")) as site, contextlib.ExitStack() as stack:
        for name in SERVED:
            for number, layers in RUNGS:
                site.publish(name, number, layers=layers)
        site.make_pool(policy={"name": "Stepwise"})
        for name in SERVED:
            site.make_task(name)
        _register_unserved(site, tasks - len(SERVED))
        site.operator.start()
        assert site.operator.process is not None
        pid = site.operator.process.pid
        settle = site.wait(lambda: _settled(site, tasks), "every task has a status", STEADY_SECONDS)
        for name in SERVED:
            stack.enter_context(site.load(name, 5.0))
        site.wait(lambda: len(site.status("itask", SERVED[0])["servers"][0].get("standby", [])) == 1, "it is settled")
        _wait_until_quiet(pid)
        start_cpu = cpu_seconds(pid)
        url = f"http://127.0.0.1:{site.operator_port}/metrics"
        before, began = metrics_page(url), time.monotonic()
        time.sleep(seconds)
        after, passed = metrics_page(url), time.monotonic() - began
        cpu = cpu_seconds(pid) - start_cpu
        pool = f'{{pool="{site.namespace}/{POOL}"}}'

        def grew(name: str) -> float:
            return after[name] - before.get(name, 0.0)

        return Cost(
            tasks=tasks,
            versions=(tasks - len(SERVED)) * VERSIONS + len(SERVED) * len(RUNGS),
            start_cpu_seconds=round(start_cpu, 1),
            settle_seconds=round(settle, 1),
            cpu_share=round(cpu / passed, 4),
            rss_megabytes=round(rss_bytes(pid) / 1e6, 1),
            pass_milliseconds=round(
                1000 * grew(f"rung_loop_duration_seconds_sum{pool}") / grew(f"rung_loop_duration_seconds_count{pool}"),
                1,
            ),
            writes_per_second=round(grew("rung_status_writes_total") / passed, 2),
        )


def _wait_until_quiet(pid: int) -> None:
    """Wait until the start is over: two stretches of five seconds that cost about the same."""
    deadline = time.monotonic() + STEADY_SECONDS
    last = float("inf")
    while time.monotonic() < deadline:
        began = cpu_seconds(pid)
        time.sleep(5)
        used = cpu_seconds(pid) - began
        if used <= last * 1.1 and last <= used * 1.5 + 0.1:
            return
        last = used
    raise TimeoutError("the operator did not come to rest")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--tasks", type=int, action="append", help="how many; may be repeated (default: 2 and 200)")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to measure (default: 60)")
    parser.add_argument("--json", type=Path, help="write the numbers there too")
    given = parser.parse_args()
    costs: list[Cost] = []
    with tempfile.TemporaryDirectory(prefix="rung-bench-") as folder:
        api = ApiServer(Path(folder) / "apiserver")
        try:
            api.start().apply_crds()
            for tasks in given.tasks or [2, 200]:
                costs.append(measure(Path(folder) / f"site-{tasks}", api, max(tasks, len(SERVED)), given.seconds))
                print(f"{tasks} tasks: measured", file=sys.stderr)
        finally:
            api.stop()
    first = costs[0]
    titles = ("tasks", 6), ("versions", 9), ("CPU of a core", 14), ("memory", 10), ("a pass", 10), ("writes", 9)
    print(" ".join(f"{title:>{width}}" for title, width in (*titles, ("start", 8), ("told", 8))))
    for cost in costs:
        print(
            f"{cost.tasks:>6} {cost.versions:>9} {cost.cpu_share:>13.1%} {cost.rss_megabytes:>7.0f} MB "
            f"{cost.pass_milliseconds:>7.1f} ms {cost.writes_per_second:>6.2f}/s {cost.start_cpu_seconds:>6.1f} s "
            f"{cost.settle_seconds:>6.1f} s"
        )
    for cost in costs[1:]:
        tasks, cpu = cost.tasks / first.tasks, cost.cpu_share / first.cpu_share
        memory = cost.rss_megabytes / first.rss_megabytes
        print(f"{tasks:.0f} times the tasks cost {cpu:.1f} times the CPU and {memory:.2f} times the memory")
    if given.json:
        given.json.write_text(json.dumps([asdict(cost) for cost in costs], indent=1) + "\n")


if __name__ == "__main__":
    main()
