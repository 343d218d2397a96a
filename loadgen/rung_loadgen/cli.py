"""The `rung-load` command."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import click
import numpy as np

from rung_loadgen.arrivals import poisson_arrivals
from rung_loadgen.kserve import Channel, ServerError
from rung_loadgen.lines import LoadLine, LoadSummary, summarise, to_json
from rung_loadgen.openloop import Limits, LoadError, OpenLoop, Stream
from rung_loadgen.payloads import random_requests, requests_from_file
from rung_loadgen.trace import Trace, TraceError, read_trace
from rung_loadgen.units import duration_option, parse_duration_seconds


@dataclass(frozen=True, slots=True)
class TaskOption:
    """One `--task`: its name, its trace and what is particular to it."""

    name: str
    trace: Path
    model: str
    slo_seconds: float | None = None
    scale: float = 1.0
    data: Path | None = None


@dataclass(frozen=True, slots=True)
class Replay:
    """What one `replay` sends, and where to."""

    target: str
    tasks: tuple[TaskOption, ...]
    traces: tuple[Trace, ...]
    slo_seconds: float
    seed: int
    channels: int
    round_robin: bool
    wait_seconds: float


def parse_task_option(text: str) -> TaskOption:
    """Read `NAME:TRACEFILE[:KEY=VALUE,...]`; keys are model, slo, scale and data."""
    name, _, rest = text.partition(":")
    path, _, settings = rest.partition(":")
    if not name or not path:
        raise click.BadParameter(f"{text!r} is not NAME:TRACEFILE[:KEY=VALUE,...]")
    values: dict[str, str] = {}
    for setting in filter(None, settings.split(",")):
        key, equals, value = setting.partition("=")
        if key not in ("model", "slo", "scale", "data") or not equals or not value:
            raise click.BadParameter(f"{setting!r} in {text!r}: one of model=, slo=, scale=, data= is expected")
        values[key] = value
    try:
        return TaskOption(
            name=name,
            trace=Path(path),
            model=values.get("model", name),
            slo_seconds=parse_duration_seconds(values["slo"]) if "slo" in values else None,
            scale=float(values.get("scale", "1")),
            data=Path(values["data"]) if "data" in values else None,
        )
    except ValueError as error:
        raise click.BadParameter(f"{text!r}: {error}") from None


@click.group()
def main() -> None:
    """Open-loop load over the KServe v2 gRPC protocol."""


@main.command()
@click.option("--target", required=True, help="The server's gRPC address: HOST:PORT, or dns:///NAME:PORT.")
@click.option(
    "--task",
    "tasks",
    required=True,
    multiple=True,
    type=parse_task_option,
    metavar="NAME:FILE[:KEY=VALUE,...]",
    help="A task and its trace (requests a second, one number for each second). Keys: model, slo, scale, data (.npz).",
)
@click.option(
    "--slo", default="400ms", show_default=True, type=duration_option, help="Answers slower than this are late."
)
@click.option("--duration", type=duration_option, help="Replay this much of the traces; all of them by default.")
@click.option("--seed", default=1, show_default=True, help="Seed of the arrivals and of random inputs.")
@click.option("--scale", default=1.0, show_default=True, help="Multiply every rate of every trace.")
@click.option("--max-rate", type=float, help="Cap each task's rate, in requests a second.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the lines here too (JSONL).")
@click.option("--deadline", default="10s", show_default=True, type=duration_option, help="Each request's deadline.")
@click.option(
    "--max-in-flight", default=4096, show_default=True, type=click.IntRange(1), help="Past this, requests fail."
)
@click.option("--channels", default=1, show_default=True, type=click.IntRange(1, 64), help="Connections of their own.")
@click.option("--round-robin", is_flag=True, help="Spread each channel over every address of the name.")
@click.option("--wait", default="60s", show_default=True, type=duration_option, help="Wait this long for the models.")
@click.option("--quiet", is_flag=True, help="Print the summary only; --out still gets every line.")
def replay(
    *,
    target: str,
    tasks: tuple[TaskOption, ...],
    slo: float,
    duration: float | None,
    seed: int,
    scale: float,
    max_rate: float | None,
    out: Path | None,
    deadline: float,
    max_in_flight: int,
    channels: int,
    round_robin: bool,
    wait: float,
    quiet: bool,
) -> None:
    """Replay traces as Poisson arrivals and print one line of JSON a second and task, then a summary.

    Exit status: 0 when the whole trace was sent (failed requests are counted, not fatal), 1 for bad input or a server
    that never came, 3 when the client itself was too slow for its numbers to mean anything.
    """
    try:
        traces = [_trace(task, scale, max_rate, duration) for task in tasks]
        with ExitStack() as stack:
            outputs = [] if quiet else [sys.stdout]
            if out is not None:
                outputs.append(stack.enter_context(out.open("w", encoding="utf-8")))
            summary = asyncio.run(
                _replay(
                    Replay(target, tasks, tuple(traces), slo, seed, channels, round_robin, wait),
                    Limits(deadline, max_in_flight),
                    outputs,
                )
            )
            for output in {sys.stdout, *outputs}:
                _write(output, to_json(summary))
    except (TraceError, LoadError, ServerError) as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"{error.filename or out}: {error.strerror or error}") from None
    if summary.client_bound is not None:
        click.echo(f"rung-load: {summary.client_bound}", err=True)
        sys.exit(3)


def _trace(task: TaskOption, scale: float, max_rate: float | None, duration_seconds: float | None) -> Trace:
    trace = read_trace(task.trace).scaled(scale).scaled(task.scale).capped(max_rate)
    return trace.truncated(None if duration_seconds is None else max(1, round(duration_seconds)))


async def _replay(asked: Replay, limits: Limits, outputs: Sequence[TextIO]) -> LoadSummary:
    _check_size(asked.traces, limits)
    channels = [Channel(asked.target, round_robin=asked.round_robin) for _ in range(asked.channels)]
    try:
        streams = []
        for number, (task, trace) in enumerate(zip(asked.tasks, asked.traces, strict=True)):
            rng = np.random.default_rng((asked.seed, number))
            specs = await channels[0].wait_for_model(task.model, asked.wait_seconds)
            payloads = (
                random_requests(task.model, specs, rng)
                if task.data is None
                else requests_from_file(task.model, specs, task.data)
            )
            streams.append(
                Stream(
                    task.name, poisson_arrivals(trace.rates_rps, rng), payloads, task.slo_seconds or asked.slo_seconds
                )
            )
        loop = OpenLoop(channels, streams, limits)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, loop.stop)

        def print_lines(lines: Sequence[LoadLine]) -> None:
            for line in lines:
                for output in outputs:
                    _write(output, to_json(line))

        result = await loop.run(print_lines)
        smallest_slo = min(stream.slo_seconds for stream in streams)
        return summarise(
            result, time.time(), complete=not loop.stopped, max_lateness_seconds=max(0.02, 0.1 * smallest_slo)
        )
    finally:
        await asyncio.gather(*(channel.close() for channel in channels))


def _check_size(traces: Sequence[Trace], limits: Limits) -> None:
    expected = sum(trace.expected_requests for trace in traces)
    if expected > limits.max_requests:
        raise LoadError(
            f"the traces ask for about {expected:.0f} requests, more than the bound of {limits.max_requests}; "
            "use --scale, --max-rate or --duration"
        )


def _write(output: TextIO, line: str) -> None:
    output.write(line + "\n")
    output.flush()


if __name__ == "__main__":
    main()
