"""Swaps on a real Triton under steady open-loop load: failed requests, swap times, latency during swaps and without.

Run it with `make bench-swap`, or `.venv/bin/python bench/bench_swap.py --swaps 40 --json`. It starts its own Triton on
loopback, and the load is a process of its own. A version above the active one would answer instead of it, so a step up
is always cold: the swaps are warm down, cold down and cold up.
Ends with status 1 when a request failed or was answered by a version that was neither old nor new.
"""

from __future__ import annotations

import argparse
import asyncio
import bisect
import json
import math
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "cluster"))

from rung.adapters.triton import State, TritonClient
from rung.control.swap import apply, load_standbys
from rung.core.plan import Target
from servers.models import write_task
from servers.open_loop import Answer, open_loop
from servers.triton import TritonServer, running_triton

TASK = "digits"
LADDER = {1: 15, 2: 30, 3: 60, 4: 120}
"""Layers by version: the best costs eight times the cheapest."""
WIDTH = 512
SETTLE_SECONDS = 0.4
QUIET_SECONDS = 10.0
SHARE_OF_A_CORE = 0.6


@dataclass(frozen=True)
class Swap:
    """One swap as it happened; times are monotonic seconds."""

    kind: str
    direction: str
    from_version: int
    to_version: int
    decided: float
    returned: float
    settled: float
    executor_seconds: float
    ok: bool
    sentence: str


def run_client(address: str, rate_rps: float, pipe: Connection) -> None:
    """The load, in a process of its own: until the pipe says stop; then every answer goes back through it."""

    async def run() -> list[Answer]:
        async with open_loop(address, TASK, rate_rps) as load:
            pipe.send("started")
            await asyncio.to_thread(pipe.recv)
        return load.answers

    pipe.send(asyncio.run(run()))


class Client:
    """The process that sends the load."""

    def __init__(self, address: str, rate_rps: float) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=run_client, args=(address, rate_rps, theirs), daemon=True)
        self.process.start()
        self.pipe.recv()

    def stop(self) -> list[Answer]:
        self.pipe.send("stop")
        if not self.pipe.poll(60):
            raise RuntimeError("the load did not end within 60 s")
        answers: list[Answer] = self.pipe.recv()
        self.process.join(10)
        return answers


async def wait_until_unloaded(client: TritonClient, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while any(entry.state is State.UNLOADING for entry in await client.index(5)):
        if time.monotonic() > deadline:
            raise RuntimeError(f"versions were still unloading after {seconds} s")
        await asyncio.sleep(0.02)


async def calibrate(server: TritonServer, seconds: float = 5.0) -> float:
    """Return the rate that takes the given share of one core while the best version answers."""
    async with open_loop(server.address, TASK, 30.0) as load:
        await load.wait_for(max(LADDER), after=0)
        begin, sent = server.cpu_seconds(), load.sent
        await asyncio.sleep(seconds)
        used, count = server.cpu_seconds() - begin, load.sent - sent
    return SHARE_OF_A_CORE * count / used


class Bench:
    """The swaps of one run, one after the other."""

    def __init__(self, client: TritonClient, config_text: str, total: int, progress: bool) -> None:
        self.client = client
        self.config_text = config_text
        self.total = total
        self.progress = progress
        self.swaps: list[Swap] = []

    async def swap(self, target: Target, loaded: Iterable[int]) -> None:
        before = frozenset(loaded)
        decided = time.monotonic()
        outcome = await apply(self.client, TASK, target, config_text=self.config_text, loaded=before)
        returned = time.monotonic()
        await wait_until_unloaded(self.client)
        self.swaps.append(
            Swap(
                kind=outcome.kind.value,
                direction="down" if target.active < max(before) else "up",
                from_version=max(before),
                to_version=target.active,
                decided=decided,
                returned=returned,
                settled=time.monotonic(),
                executor_seconds=outcome.duration_seconds,
                ok=outcome.ok,
                sentence=outcome.sentence,
            )
        )
        if self.progress:
            print(f"\r{len(self.swaps)} of {self.total} swaps", end="", file=sys.stderr, flush=True)
        await asyncio.sleep(SETTLE_SECONDS)

    async def warm_cycle(self) -> None:
        """From all four loaded: three warm steps down, one cold step up, the standbys again."""
        await self.swap(Target(3, (2, 1)), {1, 2, 3, 4})
        await self.swap(Target(2, (1,)), {1, 2, 3})
        await self.swap(Target(1), {1, 2})
        await self.swap(Target(4, (1,)), {1})
        await load_standbys(self.client, TASK, Target(4, (3, 2, 1)), config_text=self.config_text)
        await asyncio.sleep(SETTLE_SECONDS)

    async def cold_cycle(self) -> None:
        """From the best alone: a cold step down, a cold step up."""
        await self.swap(Target(1), {4})
        await self.swap(Target(4), {1})


def quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "count": len(values),
        "p50_ms": round(quantile(values, 0.5) * 1000, 2),
        "p99_ms": round(quantile(values, 0.99) * 1000, 2),
        "max_ms": round(max(values, default=math.nan) * 1000, 2),
    }


def foreign_answers(answers: list[Answer], swaps: list[Swap]) -> int:
    """Count answers by a version that was not the server's choice at any moment between sending and answer.

    That is: neither the old nor the new one where one swap fell into that time, and not the active one where none did.
    """
    returned = [swap.returned for swap in swaps]
    count = 0
    for answer in answers:
        if answer.error:
            continue
        first = bisect.bisect_left(returned, answer.sent)  # the first swap that wasn't over when it was sent
        allowed = {swaps[first - 1].to_version if first else max(LADDER)}
        for swap in swaps[first:]:
            if swap.decided > answer.done:
                break
            allowed.add(swap.to_version)
        count += answer.said not in allowed or answer.said != answer.number
    return count


def seen_by_requests(answers: list[Answer], swap: Swap) -> tuple[float, float] | None:
    """Seconds from the decision to the first answer of the new version, and to the last request the old one took."""
    window = [a for a in answers if swap.decided <= a.sent <= swap.settled + SETTLE_SECONDS]
    new = [a.done for a in window if a.said == swap.to_version]
    old = [a.sent for a in window if a.said == swap.from_version]
    if not new:
        return None
    return min(new) - swap.decided, max(0.0, max(old, default=swap.decided) - swap.decided)


def summarise(
    answers: list[Answer], swaps: list[Swap], rate_rps: float, quiet: tuple[float, float]
) -> dict[str, object]:
    groups: dict[str, dict[str, object]] = {}
    for kind, direction in (("warm", "down"), ("cold", "down"), ("cold", "up")):
        chosen = [swap for swap in swaps if (swap.kind, swap.direction) == (kind, direction)]
        seen = [pair for swap in chosen if (pair := seen_by_requests(answers, swap))]
        latencies = [
            a.latency_seconds
            for a in answers
            for swap in chosen
            if swap.decided <= a.due <= swap.settled and not a.error
        ]
        groups[f"{kind} {direction}"] = {
            "executor": spread([swap.executor_seconds for swap in chosen]),
            "first answer of the new version": spread([first for first, _ in seen]),
            "last request taken by the old version": spread([last for _, last in seen]),
            "latency of requests meanwhile": spread(latencies),
        }
    calm = [a.latency_seconds for a in answers if quiet[0] <= a.due <= quiet[1] and not a.error]
    return {
        "swaps": len(swaps),
        "swaps_not_ok": [asdict(swap) for swap in swaps if not swap.ok],
        "rate_rps": round(rate_rps, 1),
        "requests": len(answers),
        "failed_requests": sum(bool(a.error) for a in answers),
        "answers_neither_old_nor_new": foreign_answers(answers, swaps),
        "groups": groups,
        "latency without swaps, best version": spread(calm),
        "load_average": [round(value, 1) for value in os.getloadavg()],
        "cores": os.cpu_count(),
    }


def report(result: dict[str, object]) -> str:
    lines = [
        f"{result['swaps']} swaps, {len(result['swaps_not_ok'])} not ok, at {result['rate_rps']} requests/s "  # type: ignore[arg-type]
        f"({SHARE_OF_A_CORE:.0%} of one core on the best version)",
        f"requests {result['requests']}, failed {result['failed_requests']}, "
        f"answered by a version neither old nor new {result['answers_neither_old_nor_new']}",
        f"load average at the end {result['load_average']} on {result['cores']} cores: what else ran on them "
        f"{'counts less, with realtime priority' if result['realtime'] else 'counts'}",
        "",
        f"{'milliseconds':<58}{'count':>7}{'p50':>9}{'p99':>9}{'max':>9}",
    ]

    def row(name: str, numbers: dict[str, float]) -> str:
        times = "".join(f"{numbers[key]:>9.1f}" for key in ("p50_ms", "p99_ms", "max_ms"))
        return f"{name:<58}{numbers['count']:>7.0f}{times}"

    groups: dict[str, dict[str, dict[str, float]]] = result["groups"]  # type: ignore[assignment]
    for group, rows in groups.items():
        lines += [row(f"{group}: {name}", numbers) for name, numbers in rows.items()]
    lines.append(row("latency without swaps, best version", result["latency without swaps, best version"]))  # type: ignore[arg-type]
    p99 = groups["warm down"]["executor"]["p99_ms"]
    lines += ["", f"goal, warm step down p99 <= 10 ms: {'met' if p99 <= 10 else 'missed'} ({p99:.1f} ms)"]
    return "\n".join(lines)


async def run(folder: Path, swaps: int, progress: bool) -> dict[str, object]:
    """Start Triton, load it, swap, and return the numbers."""
    warm_cycles, cold_cycles = max(1, round(swaps * 0.8 / 4)), max(1, round(swaps * 0.2 / 2))
    with running_triton(folder) as server:
        config_text = write_task(server.repository, TASK, LADDER, width=WIDTH, one_matrix=True)
        async with TritonClient(server.address) as client:
            await client.load(TASK, frozenset({max(LADDER)}), config_text, 30)
            rate_rps = await calibrate(server)
            await client.load(TASK, frozenset(LADDER), config_text, 60)
            load = Client(server.address, rate_rps)
            bench = Bench(client, config_text, 4 * warm_cycles + 2 * cold_cycles, progress)
            try:
                begin = time.monotonic() + 1
                await asyncio.sleep(1 + QUIET_SECONDS)
                quiet = (begin, time.monotonic())
                for _ in range(warm_cycles):
                    await bench.warm_cycle()
                await client.load(TASK, frozenset({max(LADDER)}), config_text, 60)
                await wait_until_unloaded(client)
                for _ in range(cold_cycles):
                    await bench.cold_cycle()
            finally:
                answers = await asyncio.to_thread(load.stop)
    return summarise(answers, bench.swaps, rate_rps, quiet)


def main() -> int:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--swaps", type=int, default=200, help="how many swaps, about (200 take about eight minutes)")
    parser.add_argument(
        "--realtime",
        action="store_true",
        help="put the server, the load and the executor before everything else on the machine (SCHED_RR, needs root)",
    )
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    arguments = parser.parse_args()
    if arguments.swaps < 1:
        parser.error("--swaps must be at least 1")
    if arguments.realtime:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))  # inherited by what is started from here
    with tempfile.TemporaryDirectory(prefix="bench-swap-") as folder:
        result = asyncio.run(run(Path(folder), arguments.swaps, progress=sys.stderr.isatty()))
    result["realtime"] = arguments.realtime
    print(json.dumps(result, indent=2) if arguments.json else report(result))
    bad = result["failed_requests"] or result["answers_neither_old_nor_new"] or result["swaps_not_ok"]
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
