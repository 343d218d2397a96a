"""The profiler against perf_analyzer and against itself, on one real Triton: agreement and repeatability.

Run it with `make bench-profiler`, or `.venv/bin/python bench/bench_profiler.py --rounds 5 --json`. It starts its own
Triton on loopback. In each round the same loaded model is measured by the profiler and then by perf_analyzer, both for
the highest open-loop Poisson rate whose 99th percentile keeps the service level, so that a slow drift of the machine
touches both. What neighbours used meanwhile stands beside each number: on a busy machine no two runs agree.
Ends with status 1 when the medians differ by more than --within, 2 when perf_analyzer can't be had.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "cluster"))

from rung.adapters.triton import TritonClient
from rung_porting.profiler import client_share
from rung_porting.profiler.conditions import Bench, Conditions
from rung_porting.profiler.errors import ProfileError
from rung_porting.profiler.gauges import ProcessGauge
from rung_porting.profiler.loop import run
from rung_porting.profiler.search import QUICK, THOROUGH
from rung_porting.profiler.served import profile_served
from servers.models import write_task
from servers.perf_analyzer import PerfAnalyzer, ensure_perf_analyzer, highest_rate
from servers.triton import TritonServer, running_triton
from servers.wheels import NotHere

MODEL = "digits"
LAYERS = {"small": 60, "large": 200}
WIDTH = 384
EFFORTS = {
    "quick": QUICK,
    "medium": replace(QUICK, saturation_seconds=3, probe_seconds=4, tolerance=0.03, max_probes=10),
    "thorough": replace(THOROUGH, loads=()),
}


@dataclass(frozen=True)
class Round:
    """One model measured by both, in inferences a second; neighbours in cores, while each was at work."""

    model: str
    profiler_rps: float
    low_rps: float
    high_rps: float
    profiler_neighbours: float
    perf_analyzer_rps: float | None
    perf_analyzer_neighbours: float
    load_average: float

    @property
    def difference(self) -> float | None:
        return None if self.perf_analyzer_rps is None else self.profiler_rps / self.perf_analyzer_rps - 1


class Neighbours:
    """Cores that neither the server, nor this process, nor its children used in the length of an `async with`."""

    def __init__(self, gauge: ProcessGauge) -> None:
        self.gauge = gauge
        self.cores = 0.0

    async def __aenter__(self) -> Neighbours:
        self.before = (client_share.look(), await self.gauge.cpu_seconds(), _children_seconds())
        return self

    async def __aexit__(self, *_: object) -> None:
        look, server, children = self.before
        ours = await self.gauge.cpu_seconds() - server + _children_seconds() - children
        seen = client_share.shares(look, client_share.look(), ours)
        self.cores = seen.neighbour_cores or 0.0 if seen is not None else 0.0


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


async def one_round(
    server: TritonServer, model: str, tool: PerfAnalyzer, conditions: Conditions, window_seconds: float
) -> Round:
    assert server.process is not None
    gauge = ProcessGauge(server.process.pid)
    async with Neighbours(gauge) as first:
        profile, measured = await profile_served(Bench(server.address, gauge), MODEL, conditions)
    async with Neighbours(gauge) as second:
        theirs: float | None
        try:
            theirs = await asyncio.to_thread(
                highest_rate,
                tool,
                server.address,
                MODEL,
                conditions.slo_seconds,
                profile.max_throughput,
                window_seconds=window_seconds,
            )
        except RuntimeError as error:
            print(f"perf_analyzer: {error}", file=sys.stderr)
            theirs = None
    found = measured.found
    return Round(
        model, found.rate_rps, found.low_rps, found.high_rps, first.cores, theirs, second.cores, os.getloadavg()[0]
    )


async def rounds(
    server: TritonServer, arguments: argparse.Namespace, tool: PerfAnalyzer, conditions: Conditions
) -> list[Round]:
    done: list[Round] = []
    numbers = {model: number for number, model in enumerate(arguments.models, start=1)}
    text = write_task(server.repository, MODEL, {n: LAYERS[model] for model, n in numbers.items()}, width=WIDTH)
    async with TritonClient(server.address) as client:
        for model, number in numbers.items():
            await client.load(MODEL, frozenset({number}), text, 60)
            for _ in range(arguments.rounds):
                try:
                    done.append(await one_round(server, model, tool, conditions, arguments.window))
                except ProfileError as error:
                    print(f"no number: {error}", file=sys.stderr)
                    continue
                print_round(done[-1])
    return done


def print_round(one: Round) -> None:
    theirs = "-" if one.perf_analyzer_rps is None else f"{one.perf_analyzer_rps:.1f}"
    difference = "-" if one.difference is None else f"{one.difference:+.1%}"
    interval = f"{one.low_rps:.1f} to {one.high_rps:.1f}"
    print(
        f"{one.model:>8} {one.profiler_rps:>10.1f} {interval:>20} {one.profiler_neighbours:>10.2f} {theirs:>13} "
        f"{one.perf_analyzer_neighbours:>10.2f} {difference:>10} {one.load_average:>6.2f}",
        file=sys.stderr,
    )


@dataclass(frozen=True)
class Summary:
    """All rounds of one model: the medians and how far apart the profiler's own runs were, relative."""

    model: str
    rounds: int
    profiler_rps: float
    perf_analyzer_rps: float | None
    agreement: float | None
    """Median of the profiler by median of perf_analyzer, minus 1."""
    repeatability: float
    """Median over two runs in a row of how far apart they were, by the larger."""
    widest: float
    """The same, between the smallest and the largest of all."""


def summarise(model: str, done: Sequence[Round]) -> Summary:
    ours = [one.profiler_rps for one in done]
    theirs = [one.perf_analyzer_rps for one in done if one.perf_analyzer_rps is not None]
    steps = [abs(a - b) / max(a, b) for a, b in pairwise(ours)]
    return Summary(
        model,
        len(done),
        median(ours),
        median(theirs) if theirs else None,
        median(ours) / median(theirs) - 1 if theirs else None,
        median(steps) if steps else 0.0,
        1 - min(ours) / max(ours),
    )


def print_summary(one: Summary) -> None:
    agreement = "-" if one.agreement is None else f"{one.agreement:+.1%}"
    print(
        f"{one.model:>8}: {one.rounds} rounds, profiler {one.profiler_rps:.1f}, perf_analyzer "
        f"{one.perf_analyzer_rps or 0:.1f} inferences/s: agreement {agreement}; two runs in a row "
        f"{one.repeatability:.1%} apart, all within {one.widest:.1%}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", nargs="+", choices=sorted(LAYERS), default=sorted(LAYERS))
    parser.add_argument("--slo", type=float, default=0.4, metavar="SECONDS")
    parser.add_argument("--effort", choices=sorted(EFFORTS), default="medium")
    parser.add_argument("--window", type=float, default=2.0, metavar="SECONDS", help="of perf_analyzer, three a rate")
    parser.add_argument("--within", type=float, default=0.05, metavar="SHARE")
    parser.add_argument("--json", action="store_true", help="every round, and the sums, as JSON on stdout")
    arguments = parser.parse_args()
    try:
        tool = ensure_perf_analyzer()
    except NotHere as reason:
        print(f"nothing to compare the profiler with: {reason}", file=sys.stderr)
        return 2
    conditions = Conditions("bench", arguments.slo, effort=EFFORTS[arguments.effort])
    print(
        f"{'model':>8} {'profiler':>10} {'90 % interval':>20} {'neighbours':>10} {'perf_analyzer':>13} "
        f"{'neighbours':>10} {'difference':>10} {'load':>6}",
        file=sys.stderr,
    )
    with tempfile.TemporaryDirectory() as folder, running_triton(Path(folder)) as server:
        done = run(rounds(server, arguments, tool, conditions))
    by_model = {model: [one for one in done if one.model == model] for model in arguments.models}
    summaries = [summarise(model, its) for model, its in by_model.items() if its]
    if arguments.json:
        print(json.dumps({"rounds": [asdict(each) for each in done], "sums": [asdict(each) for each in summaries]}))
    else:
        for each in summaries:
            print_summary(each)
    agreed = [each.agreement is not None and abs(each.agreement) <= arguments.within for each in summaries]
    return 0 if agreed and all(agreed) else 1


if __name__ == "__main__":
    sys.exit(main())
