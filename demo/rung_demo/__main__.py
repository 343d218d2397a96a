"""`make demo`: brings everything up from nothing, replays a trace, shows it, reports it, and cleans up."""

from __future__ import annotations

import json
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import click

from rung_demo.environment import POOL, PROJECT, Options, image, prepare, tear_down, wait_until_serving
from rung_demo.ladders import ladder_headers, task_capacities
from rung_demo.live import LiveView
from rung_demo.outcome import outcome_of
from rung_demo.programs import DemoError, Kubernetes
from rung_demo.record import RunHeader, read_run
from rung_demo.replay import Replay, record_run
from rung_demo.report import write_report
from rung_demo.stages import Stages
from rung_demo.trace import DEFAULT_SECONDS, demo_traces, traces_from_file
from rung_loadgen.trace import TraceError

POLICIES: dict[str, dict[str, object]] = {
    "Stepwise": {"name": "Stepwise"},
    "Static Best": {"name": "Static", "static": {"choice": "Best"}},
    "Static Cheapest": {"name": "Static", "static": {"choice": "Cheapest"}},
}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--trace", type=click.Path(path_type=Path), help="Requests per second, one number a line, instead of ours."
)
@click.option("--seconds", default=DEFAULT_SECONDS, show_default=True, type=click.IntRange(60, 3600), help="How long.")
@click.option("--seed", default=7, show_default=True, help="Of the arrivals and of our trace.")
@click.option("--compare", is_flag=True, help="Replay the same with the best and the cheapest versions fixed.")
@click.option("--keep", is_flag=True, help="Leave the cluster up, and say what to try next.")
@click.option("--profile-again", is_flag=True, help="Measure the versions again even if that was done.")
@click.option("--out", default=None, type=click.Path(path_type=Path), help="Folder of the report; out/demo-TIME.")
def main(
    trace: Path | None, seconds: int, seed: int, compare: bool, keep: bool, profile_again: bool, out: Path | None
) -> None:
    """The main job on one machine: a trace climbs, versions step down before the queue explodes, and back up.

    Needs root for a cluster of its own; with KUBECONFIG set it uses that cluster instead, which must have the images.
    Exit status 0 only if versions stepped both down and up and no request failed.
    """
    stages = Stages()
    kubeconfig = Path(os.environ["KUBECONFIG"]) if os.environ.get("KUBECONFIG") else None
    options = Options(kubeconfig, profile_again)
    folder = out or PROJECT / "out" / f"demo-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    kubernetes: Kubernetes | None = None
    status = 1
    try:
        kubernetes = prepare(options, stages)
        status = _runs(kubernetes, folder, _Plan(trace, seconds, seed, compare), stages)
    except (DemoError, TraceError) as error:
        stages.console.print(f"\n[red]The demo failed:[/red] {error}", markup=True)
        if kubernetes is None and keep:
            stages.console.print("Look at the cluster: python -m rung_devcluster kubectl --name rung-demo get pods -A")
    except KeyboardInterrupt:
        stages.console.print("\nStopped.")
        status = 130
    finally:
        if keep:
            if kubernetes is not None:
                _what_next(kubernetes, stages)
        else:
            tear_down(options, kubernetes, stages)
    sys.exit(status)


class _Plan:
    """What is to be run."""

    def __init__(self, trace: Path | None, seconds: int, seed: int, compare: bool) -> None:
        self.trace, self.seconds, self.seed = trace, seconds, seed
        self.policies = list(POLICIES) if compare else ["Stepwise"]


def _runs(kubernetes: Kubernetes, folder: Path, plan: _Plan, stages: Stages) -> int:
    headers = ladder_headers(kubernetes)
    capacities = task_capacities(headers)
    if plan.trace is not None:
        traces = traces_from_file(plan.trace, capacities, seconds=plan.seconds)
        words = plan.trace.name
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
    recordings = []
    verdict = 1
    for name in plan.policies:
        _use_policy(kubernetes, name, stages)
        header = RunHeader(time.time(), name, tuple(headers), capacity_cores=1.0, trace=words)
        path = folder / f"{name.lower().replace(' ', '-')}.jsonl"
        with (
            stages.stage(f"Replay, {name}"),
            kubernetes.forwarded("service/rung-operator", 8080) as metrics,
            LiveView(header, stages.console) as view,
        ):
            record_run(kubernetes, replay, header=header, path=path, operator_metrics=metrics, show=view.show)
        recordings.append(path)
        if name == "Stepwise":
            verdict = _verdict(path, stages)
    report = folder / "report.html"
    write_report(recordings, report)
    stages.say(f"The report: {report}")
    return verdict


def _use_policy(kubernetes: Kubernetes, name: str, stages: Stages) -> None:
    policy: dict[str, object] = {"static": None, "stepwise": None, **POLICIES[name]}
    kubernetes.kubectl("patch", "spool", POOL, "--type=merge", "--patch", json.dumps({"spec": {"policy": policy}}))
    wait_until_serving(kubernetes, stages)


def _verdict(recording: Path, stages: Stages) -> int:
    outcome = outcome_of(read_run(recording))
    stages.say(outcome.sentence())
    if missing := outcome.shortcomings():
        stages.say(f"[red]Not as it should be:[/red] {'; '.join(missing)}")
        return 1
    return 0


def _what_next(kubernetes: Kubernetes, stages: Stages) -> None:
    kubectl = f"kubectl -n {kubernetes.namespace}"
    stages.console.print(
        f"""
The cluster is up. Try:
  export KUBECONFIG={kubernetes.kubeconfig}
  {kubectl} get spool,itask,mver
  {kubectl} exec deploy/rung-operator -- rung explain digits
  {kubectl} patch itask digits --type=merge -p '{{"spec": {{"mode": "Recommend"}}}}'
  {kubectl} get events --field-selector involvedObject.kind=InferenceTask
Take it down: make cluster-down ARGS="--name rung-demo"
""",
        markup=False,
        highlight=False,
    )


if __name__ == "__main__":
    main()
