"""`make demo`: brings everything up from nothing, replays a trace, shows it, reports it, and cleans up."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Literal

import click
from rich.text import Text

from rung.adapters.kubernetes import KubernetesError
from rung_demo.environment import POOL, PROJECT, TASKS, Options, environment, image, removal, wait_until_serving
from rung_demo.ladders import ladder_headers, task_capacities
from rung_demo.live import LiveView
from rung_demo.outcome import outcome_of
from rung_demo.programs import DemoError, Kubernetes
from rung_demo.record import RunHeader, read_run
from rung_demo.replay import Replay, record_run
from rung_demo.report import write_report
from rung_demo.stages import Stages
from rung_demo.trace import DEFAULT_SECONDS, demo_traces, read_start, scaled_traces
from rung_loadgen.trace import Trace, TraceError

REFLEX = "Frontier+reflex"
POLICIES: dict[str, dict[str, object]] = {
    "Frontier": {"name": "Frontier"},
    "Stepwise": {"name": "Stepwise"},
    "Static Best": {"name": "Static", "static": {"choice": "Best"}},
    "Static Cheapest": {"name": "Static", "static": {"choice": "Cheapest"}},
}
WITH_GATE = {REFLEX: POLICIES["Frontier"]}
"""What takes a gate in front of the server."""
BEGINS: dict[str, Literal["best", "cheapest"]] = {
    "Stepwise": "best",
    "Static Best": "best",
    "Static Cheapest": "cheapest",
}
"""Where a policy begins that has nothing to do, whatever answered before it."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--trace", type=click.Path(path_type=Path), help="Requests per second, one number for each second, instead of ours."
)
@click.option(
    "--seconds", default=DEFAULT_SECONDS, show_default=True, type=click.IntRange(60, 3600),
    help="How long. Ours is stretched to it; of a longer file the start is taken.",
)  # fmt: skip
@click.option("--seed", default=7, show_default=True, help="Of the arrivals and of our trace.")
@click.option(
    "--compare", is_flag=True,
    help="Replay the same without the reflex, with Stepwise, and with the best and the cheapest versions fixed.",
)  # fmt: skip
@click.option(
    "--reflex/--no-reflex", default=True, show_default=True,
    help="The reflex: a request that would be late is answered by a loaded version below the decided one.",
)  # fmt: skip
@click.option("--keep", is_flag=True, help="Leave the cluster up, and say what to try next.")
@click.option(
    "--versions",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Ladders of the tasks digits and parity that are made already (rung-port run --output), instead of ours.",
)
@click.option("--out", default=None, type=click.Path(path_type=Path), help="Folder of the report; out/demo-TIME.")
def main(
    trace: Path | None,
    seconds: int,
    seed: int,
    versions: Path | None,
    out: Path | None,
    *,
    compare: bool,
    reflex: bool,
    keep: bool,
) -> None:
    """The main job on one machine: a trace climbs, versions step down before the queue explodes, and back up.

    Needs root for a cluster of its own; with KUBECONFIG set it uses that cluster instead, which must have the images.
    Exit status 0 only if versions stepped both down and up and no request failed.
    """
    _end_on_signals()
    stages = Stages()
    kubeconfig = Path(os.environ["KUBECONFIG"]) if os.environ.get("KUBECONFIG") else None
    options = Options(kubeconfig, versions, keep=keep, reflex=reflex)
    folder = out or PROJECT / "out" / f"demo-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    status = 1
    try:
        # What can be wrong with the arguments is told now, not when everything else is up.
        plan = _Plan(read_start(trace, seconds) if trace else None, seconds, seed, compare=compare, reflex=reflex)
        folder.mkdir(parents=True, exist_ok=True)
        with environment(options, stages) as kubernetes:
            status = _runs(kubernetes, folder, plan, stages)
            if keep:
                _what_next(kubernetes, stages, removal(options))
    except (DemoError, TraceError, KubernetesError, OSError) as error:
        stages.console.print("\n[red]The demo failed:[/red]", Text(str(error)), soft_wrap=True)
        if keep and kubeconfig is None:
            stages.console.print("Look at the cluster: python -m rung_devcluster kubectl --name rung-demo get pods -A")
    except KeyboardInterrupt:
        stages.console.print("\nStopped.")
        status = 130
    sys.exit(status)


def _end_on_signals() -> None:
    """Be told to end, or lose the terminal, as by Ctrl-C: what was brought up is removed."""

    def hung_up(number: int, frame: FrameType | None) -> None:
        # Whoever writes to a terminal that is gone fails, and there is much to do yet.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(nowhere, stream)
        signal.default_int_handler(number, frame)

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # ignored: it was started with nohup
        signal.signal(signal.SIGHUP, hung_up)


class _Plan:
    """What is to be run."""

    def __init__(self, trace: Trace | None, seconds: int, seed: int, *, compare: bool, reflex: bool) -> None:
        self.trace, self.seed = trace, seed
        self.seconds = trace.seconds if trace else seconds
        first = [REFLEX] if reflex else []
        self.policies = first + list(POLICIES) if compare else first or ["Frontier"]


def _runs(kubernetes: Kubernetes, folder: Path, plan: _Plan, stages: Stages) -> int:
    headers = ladder_headers(kubernetes)
    capacities = task_capacities(headers)
    if plan.trace is not None:
        traces, words = scaled_traces(plan.trace, capacities), plan.trace.name
    else:
        traces = demo_traces(capacities, seconds=plan.seconds, seed=plan.seed)
        words = "our own trace: two climbs, a daily wave, bursts"
    replay = Replay(
        traces=traces,
        slo_milliseconds={header.task: header.slo_milliseconds for header in headers},
        target="dns:///rung-triton:8001",
        image=image("rung-loadgen"),
        seed=plan.seed,
        seconds=plan.seconds,
    )
    recordings: list[Path] = []
    report = folder / "report.html"
    for name in plan.policies:
        if recordings:  # the first is what the chart installed
            use_policy(kubernetes, name, stages)
        header = RunHeader(time.time(), name, tuple(headers), capacity_cores=1.0, trace=words)
        path = folder / f"{name.lower().replace(' ', '-')}.jsonl"
        with stages.stage(f"Replay, {name}"), LiveView(header, stages.console) as view:
            record_run(kubernetes, replay, header=header, path=path, show=view.show)
        recordings.append(path)
        # After each run: one that breaks off takes nothing from those before it.
        write_report(recordings, report)
    outcomes = [outcome_of(read_run(path)) for path in recordings]
    stages.say(f"The report: {report}")
    for outcome in outcomes:
        stages.say(outcome.sentence())
    if missing := outcomes[0].shortcomings():
        stages.say(f"[red]Not as it should be:[/red] {'; '.join(missing)}")
        return 1
    return 0


def use_policy(kubernetes: Kubernetes, name: str, stages: Stages, tasks: int = len(TASKS)) -> None:
    """Have the pool follow another policy, and wait until its tasks are where that begins."""
    policy: dict[str, object] = {"static": None, **(POLICIES | WITH_GATE)[name]}
    spec = {"policy": policy, "reflex": "On" if name in WITH_GATE else "Off"}
    kubernetes.kubectl("patch", "spool", POOL, "--type=merge", "--patch", json.dumps({"spec": spec}))
    wait_until_serving(kubernetes, stages, BEGINS.get(name, "wanted"), tasks)


def _what_next(kubernetes: Kubernetes, stages: Stages, removal: str) -> None:
    kubectl = f"kubectl -n {kubernetes.namespace}"
    on_path = "" if shutil.which("kubectl") else f"\n  export PATH=$PATH:{kubernetes.kubectl_path.parent}"
    stages.console.print(
        f"""
The cluster is up. Try:
  export KUBECONFIG={kubernetes.kubeconfig}{on_path}
  {kubectl} get spool,itask,mver
  {kubectl} exec deploy/rung-operator -- rung explain digits
  {kubectl} patch itask digits --type=merge -p '{{"spec": {{"mode": "Recommend"}}}}'
  {kubectl} get events --field-selector involvedObject.kind=InferenceTask
Take it down: {removal}
""",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    main()
