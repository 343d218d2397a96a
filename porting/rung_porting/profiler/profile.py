"""`rung-port profile`: measures what each version of a task does on the server that will serve it.

Each version is loaded alone, so what else the server has of that task is unloaded: profile before the task is served.
One file of results is written for each version, next to it in the model repository. No torch here: this runs as a Job
in the cluster, from the image of the load generator.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version as distribution_version
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import click
import numpy as np
import yaml
from prometheus_client.parser import text_string_to_metric_families

from rung.adapters.agent import AgentClient, AgentError
from rung.adapters.repository_errors import RepositoryError
from rung.adapters.triton import State, TritonClient, TritonError, parse_config
from rung.api.quantity import Cpu, Duration
from rung.api.version import LatencyPercentiles, Profile
from rung.core.repository_layout import profile_key
from rung_loadgen.kserve import Channel, ServerError
from rung_loadgen.payloads import random_requests, requests_from_file
from rung_loadgen.units import duration_option
from rung_porting.profiler.repositories import Repository, open_repository
from rung_porting.profiler.search import QUICK, THOROUGH, Effort, Measured, ProfileError, VersionMeasurement

CPU_METRIC = "rung_agent_triton_cpu_seconds"
MEMORY_SETTLES_SECONDS = 3.5
"""The agent reads memory every two seconds or so: after this long its number is of now."""


class AgentGauge:
    """CPU and memory of one server, from its agent."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url if "://" in url else f"http://{url}")
        if address.scheme != "http" or not address.netloc:
            raise ValueError(f"{url!r} is no address of an agent; write http://HOST:8090")
        self.agent = AgentClient(address.netloc, deadline_seconds=5)
        self._memory_of_nothing: int | None = None
        self._metrics_url = f"http://{address.netloc}/metrics"

    async def cpu_seconds(self) -> float:
        """Return the CPU seconds that the server used so far: the agent looks while it is asked."""
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session,
            session.get(self._metrics_url) as answer,
        ):
            answer.raise_for_status()
            for family in text_string_to_metric_families(await answer.text()):
                if family.name == CPU_METRIC and family.samples:
                    return sum(sample.value for sample in family.samples if sample.name == f"{CPU_METRIC}_total")
        raise ProfileError(
            f"{self._metrics_url} has no {CPU_METRIC}_total; is it an agent that sees Triton's processes?"
        )

    async def memory_bytes(self) -> int:
        """Return the memory that the server's processes use, a few seconds ago."""
        return (await self.agent.inventory()).memory.used_bytes

    async def memory_of_nothing_bytes(self) -> int:
        """Return the memory of the server before its first version was measured; called while none is loaded."""
        if self._memory_of_nothing is None:
            await asyncio.sleep(MEMORY_SETTLES_SECONDS)
            self._memory_of_nothing = await self.memory_bytes()
        return self._memory_of_nothing

    async def wait_for_files(self, task: str, number: int, deadline_seconds: float) -> None:
        """Ask the agent for a version's files and wait until they are there. Raises ProfileError."""
        await self.agent.put_wanted({task: [number]})
        deadline = time.monotonic() + deadline_seconds
        state = "unknown to it"
        while time.monotonic() < deadline:
            inventory = await self.agent.inventory()
            known = inventory.tasks[task].versions.get(number) if task in inventory.tasks else None
            if known is not None and number in inventory.tasks[task].available():
                return
            state = f"{known.state}: {known.message}" if known is not None else state
            await asyncio.sleep(0.2)
        raise ProfileError(f"the agent doesn't have the files after {deadline_seconds:.0f} s ({state})")


@dataclass(frozen=True, slots=True)
class Bench:
    """The server that is measured: the gRPC address of its Triton (HOST:PORT) and, if there is one, its agent."""

    triton: str
    gauge: AgentGauge | None = None


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a profile holds for."""

    hardware_class: str
    slo_seconds: float
    cpu_cores: float | None = None
    effort: Effort = QUICK
    load_deadline_seconds: float = 60.0
    data: Path | None = None


@dataclass(frozen=True, slots=True)
class ProfiledVersion:
    """The result for one version: the profile, and what was seen on the way."""

    task: str
    number: int
    profile: Profile
    measured: Measured
    seconds: float
    """How long the whole measurement of this version took."""


async def profile_version(
    bench: Bench, task: str, number: int, config_text: str, conditions: Conditions
) -> ProfiledVersion:
    """Load one version alone, measure it, unload it.

    Raises ProfileError naming the version when it can't be loaded or measured, or when the client was the limit.
    """
    started = time.monotonic()
    try:
        async with TritonClient(bench.triton) as server:
            if bench.gauge is not None:
                await bench.gauge.wait_for_files(task, number, conditions.load_deadline_seconds)
            await _unload(server, task, conditions.load_deadline_seconds)
            measured, result = await _load_and_measure(server, bench.gauge, (task, number), config_text, conditions)
            await _unload(server, task, conditions.load_deadline_seconds)
            return ProfiledVersion(task, number, result, measured, time.monotonic() - started)
    except (ProfileError, ServerError, TritonError, AgentError, aiohttp.ClientError, TimeoutError) as error:
        raise ProfileError(f"{task} version {number}: {error or type(error).__name__}") from None


async def _load_and_measure(
    server: TritonClient, gauge: AgentGauge | None, which: tuple[str, int], config_text: str, conditions: Conditions
) -> tuple[Measured, Profile]:
    task, number = which
    deadline = conditions.load_deadline_seconds
    memory_before = await gauge.memory_of_nothing_bytes() if gauge is not None else 0
    load_started = time.monotonic()
    await server.load(task, frozenset({number}), config_text, deadline)
    answered = await server.answering_version(task, deadline, config_text=config_text)
    load_seconds = time.monotonic() - load_started
    if answered != number:
        raise ProfileError(f"version {answered} answered after the load; something else changes this server")
    channel = Channel(server.address)
    try:
        specs = await channel.inputs(task, 5.0)
        payloads = (
            random_requests(task, specs, np.random.default_rng(1))
            if conditions.data is None
            else requests_from_file(task, specs, conditions.data)
        )
        measurement = VersionMeasurement(
            channel, payloads, version=number, slo_seconds=conditions.slo_seconds, effort=conditions.effort
        )
        await measurement.warm_up()
        cpu_before = await gauge.cpu_seconds() if gauge is not None else 0.0
        measured = await measurement.measure()
        memory_after = await gauge.memory_bytes() if gauge is not None else 0
        cpu_after = await gauge.cpu_seconds() if gauge is not None else 0.0
    finally:
        await channel.close()
    profile = _profile(
        conditions,
        measured,
        load_seconds,
        config_text,
        cpu_seconds=(cpu_after - cpu_before) / measured.inferences if gauge is not None else None,
        memory_bytes=memory_after - memory_before if gauge is not None else None,
    )
    return measured, profile


async def _unload(server: TritonClient, task: str, deadline_seconds: float) -> None:
    """Unload every version of a task and wait until their memory is free: Triton answers before it is."""
    await server.unload(task, deadline_seconds)
    deadline = time.monotonic() + deadline_seconds
    gone = (State.UNAVAILABLE, State.UNKNOWN)
    while any(entry.model == task and entry.state not in gone for entry in await server.index()):
        if time.monotonic() > deadline:
            raise ProfileError(f"the versions before it were not unloaded within {deadline_seconds:.0f} s")
        await asyncio.sleep(0.05)


def _profile(
    conditions: Conditions,
    measured: Measured,
    load_seconds: float,
    config_text: str,
    *,
    cpu_seconds: float | None,
    memory_bytes: int | None,
) -> Profile:
    config = parse_config(config_text)
    return Profile(
        hardware_class=conditions.hardware_class,
        cpu=Cpu.from_cores(conditions.cpu_cores) if conditions.cpu_cores is not None else None,
        slo_latency=Duration.from_seconds(conditions.slo_seconds),
        max_throughput=round(measured.max_throughput_rps, 3),
        latency=LatencyPercentiles(
            p50=Duration.from_seconds(measured.latency_p50_seconds),
            p95=Duration.from_seconds(measured.latency_p95_seconds),
            p99=Duration.from_seconds(measured.latency_p99_seconds),
        ),
        cpu_seconds_per_inference=round(cpu_seconds, 7) if cpu_seconds else None,
        memory_bytes=memory_bytes if memory_bytes is not None and memory_bytes > 0 else None,
        load_time=Duration.from_seconds(round(load_seconds, 3)),
        # Requests carry one inference each; the server may gather them.
        batch_size=max(1, config.max_batch_size) if config.HasField("dynamic_batching") else 1,
        profiled_at=datetime.now(UTC).replace(microsecond=0),
        tool=f"rung-port profile {distribution_version('rung')}",
    )


async def profile_tasks(
    bench: Bench,
    repository: Repository,
    tasks: Sequence[str],
    conditions: Conditions,
    *,
    skip_existing: bool = False,
) -> list[str]:
    """Profile every version of some tasks and write each profile as soon as it is measured.

    Prints a line of JSON for each version on stdout and a readable one on stderr. A version that can't be profiled
    doesn't stop the others. Returns what went wrong, one sentence each.
    """
    problems: list[str] = []
    for task in tasks:
        numbers = await repository.versions(task)
        if not numbers:
            problems.append(f"{task}: no version in the repository")
            continue
        config_text = await repository.config_text(task)
        for position, number in enumerate(numbers, start=1):
            if skip_existing and conditions.hardware_class in await repository.profiled_classes(task, number):
                click.echo(f"{task} {number}: has a profile for {conditions.hardware_class}", err=True)
                continue
            try:
                done = await profile_version(bench, task, number, config_text, conditions)
            except ProfileError as error:
                problems.append(str(error))
                click.echo(f"profile: {error}", err=True)
                continue
            await _write(repository, done, conditions.hardware_class)
            _tell(done, f"{position}/{len(numbers)}")
    return problems


async def _write(repository: Repository, done: ProfiledVersion, hardware_class: str) -> None:
    assert done.profile.profiled_at is not None
    key = profile_key(done.task, done.number, hardware_class, done.profile.profiled_at)
    await repository.write(key, yaml.safe_dump(done.profile.to_json(), sort_keys=False))


def _tell(done: ProfiledVersion, position: str) -> None:
    profile, measured = done.profile, done.measured
    line = {
        "kind": "profile",
        "task": done.task,
        "version": done.number,
        "seconds": round(done.seconds, 2),
        "saturation_rps": round(measured.saturation_rps, 2),
        "client_cpu_share": round(measured.client_cpu_share, 3),
        "client_lateness_p99_milliseconds": round(measured.client_lateness_p99_seconds * 1e3, 2),
        "probes": [[round(rate, 2), kept] for rate, kept in measured.probes],
        "profile": profile.to_json(),
    }
    click.echo(json.dumps(line, separators=(",", ":")))
    cost = profile.cpu_seconds_per_inference
    click.echo(
        f"{done.task} {done.number} ({position}): {profile.max_throughput:.1f} inferences/s, "
        f"p95 {measured.latency_p95_seconds * 1e3:.1f} ms at {QUICK.moderate_share:.0%} of it, "
        + (f"{cost * 1e3:.2f} ms CPU each, " if cost else "")
        + f"loaded in {profile.load_time}, took {done.seconds:.1f} s",
        err=True,
    )


@click.command()
@click.option("--triton", required=True, help="The server's gRPC address, HOST:PORT.")
@click.option("--agent", help="Its agent, http://HOST:8090: for files, CPU seconds and memory.")
@click.option("--repository", required=True, help="s3://BUCKET/PREFIX, or a folder of the same layout.")
@click.option("--endpoint", help="http(s)://HOST:PORT of an S3 that is not AWS.")
@click.option("--hardware-class", required=True, help="What the profiles hold for, for example rpi5.")
@click.option("--cpu", type=float, help="CPU limit of the server in cores; part of what the profile holds for.")
@click.option("--slo", default="400ms", show_default=True, type=duration_option, help="Answers have to keep this.")
@click.option("--tasks", required=True, help="Names of the tasks, separated by commas.")
@click.option("--data", type=click.Path(path_type=Path, exists=True), help=".npz of inputs; random ones by default.")
@click.option("--thorough", is_flag=True, help="Longer probes: about 90 s a version instead of about 13.")
@click.option("--skip-existing", is_flag=True, help="Leave versions alone that have a profile of this class.")
def profile(
    *,
    triton: str,
    agent: str | None,
    repository: str,
    endpoint: str | None,
    hardware_class: str,
    cpu: float | None,
    slo: float,
    tasks: str,
    data: Path | None,
    thorough: bool,
    skip_existing: bool,
) -> None:
    """Measure every version of some tasks on a running Triton and write the profiles beside them.

    The tasks' versions are unloaded and loaded one by one: don't run it on a server that serves them. Exit status 1
    when a version could not be profiled; no number is written for it.
    """
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    conditions = Conditions(hardware_class, slo, cpu, THOROUGH if thorough else QUICK, data=data)

    async def run() -> list[str]:
        bench = Bench(triton, AgentGauge(agent) if agent else None)
        try:
            opened = open_repository(repository, endpoint)
            return await profile_tasks(bench, opened, names, conditions, skip_existing=skip_existing)
        finally:
            if bench.gauge is not None:
                await bench.gauge.agent.close()

    try:
        problems = asyncio.run(run())
    except (ValueError, OSError, RepositoryError, ProfileError) as error:
        raise click.ClickException(str(error)) from None
    for problem in problems:
        click.echo(f"profile: not profiled: {problem}", err=True)
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    profile()
