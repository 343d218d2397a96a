"""Profiles versions of a repository: each is loaded alone, measured in every configuration asked for, and unloaded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import aiohttp

from rung.adapters.agent import AgentError
from rung.adapters.triton import State, TritonClient, TritonError
from rung.core.repository_layout import profile_key
from rung_loadgen.kserve import Channel, ServerError
from rung_porting.profiler.conditions import Bench, Conditions
from rung_porting.profiler.document import Configuration, ProfileDocument, read_document, write_document
from rung_porting.profiler.errors import ProfileError
from rung_porting.profiler.gauges import AgentGauge, Gauge, PeakMemory
from rung_porting.profiler.measure import Measured, Subject, VersionMeasurement
from rung_porting.profiler.repositories import Repository
from rung_porting.profiler.result import configuration, document
from rung_porting.profiler.variants import Variant, as_configured, variants

EXPECTED = (ProfileError, ServerError, TritonError, AgentError, aiohttp.ClientError, TimeoutError)
"""What a server may do to a measurement; told as a sentence."""


@dataclass(frozen=True, slots=True)
class ProfiledVersion:
    """The result for one version: the file, and what was seen of its best configuration."""

    task: str
    number: int
    profile: ProfileDocument
    measured: Measured
    seconds: float
    """How long the whole measurement of this version took."""
    note: str = ""
    """What the owner should know: the best configuration isn't the published one, say."""


async def profile_version(
    bench: Bench, task: str, number: int, config_text: str, conditions: Conditions
) -> ProfiledVersion:
    """Load one version alone, measure it in every configuration, unload it.

    Raises ProfileError naming the version when it can't be loaded or measured, or when the client was the limit.
    """
    started = time.monotonic()
    try:
        async with TritonClient(bench.triton) as server:
            if isinstance(bench.gauge, AgentGauge):
                await bench.gauge.wait_for_files(task, number, conditions.load_deadline_seconds)
            chosen = variants(config_text, conditions.batch_sizes, conditions.instances)
            done: list[tuple[Configuration, Measured]] = []
            failed: list[str] = []
            for variant in chosen:
                try:
                    done.append(await _Loaded(server, bench.gauge, task, number, variant, conditions).measure())
                except EXPECTED as error:
                    if len(chosen) == 1:
                        raise
                    failed.append(f"{variant}: {error or type(error).__name__}")
            if not done:
                raise ProfileError("no configuration could be measured: " + "; ".join(failed))
            best = max(done, key=lambda each: each[0].max_throughput)
            profile = document(conditions, [each for each, _ in done], failed)
            return ProfiledVersion(
                task, number, profile, best[1], time.monotonic() - started, _note(config_text, profile)
            )
    except EXPECTED as error:
        raise ProfileError(f"{task} version {number}: {error or type(error).__name__}") from None


@dataclass(frozen=True, slots=True)
class _Loaded:
    """One version in one configuration, from its load to its end."""

    server: TritonClient
    gauge: Gauge | None
    task: str
    number: int
    variant: Variant
    conditions: Conditions

    async def measure(self) -> tuple[Configuration, Measured]:
        deadline = self.conditions.load_deadline_seconds
        await unload(self.server, self.task, deadline)
        memory_before = await self.gauge.memory_of_nothing_bytes() if self.gauge is not None else 0
        cpu_before = await self.gauge.cpu_seconds() if self.gauge is not None else 0.0
        load_seconds = await load(self.server, self.task, self.number, self.variant.config_text, deadline)
        load_cpu = await self.gauge.cpu_seconds() - cpu_before if self.gauge is not None else None
        standby = await self.gauge.memory_bytes_now() - memory_before if self.gauge is not None else None
        channel = Channel(self.server.address)
        try:
            measured, peak = await self._under_load(channel, memory_before)
        finally:
            await channel.close()
            await unload(self.server, self.task, deadline)
        result = configuration(
            measured,
            self.variant.batch_size,
            self.variant.instances,
            memory_bytes=peak if standby is None or peak is None else max(peak, standby),
            standby_memory_bytes=standby,
            load_seconds=load_seconds,
            load_cpu_seconds=load_cpu,
        )
        return result, measured

    async def _under_load(self, channel: Channel, memory_before: int) -> tuple[Measured, int | None]:
        conditions = self.conditions
        specs = await channel.inputs(self.task, 5.0)
        subject = Subject(
            channel,
            self.task,
            conditions.payloads(self.task, specs),
            conditions.slo_seconds,
            version=self.number,
            gauge=self.gauge,
            parallel=self.variant.batch_size * self.variant.instances,
            cpu_limit_cores=conditions.cpu_cores,
        )
        measurement = VersionMeasurement(subject, conditions.effort)
        if self.gauge is None:
            await measurement.warm_up()
            return await measurement.measure(), None
        async with PeakMemory(self.gauge) as peak:
            await measurement.warm_up()
            measured = await measurement.measure()
        return measured, peak.bytes - memory_before


async def load(server: TritonClient, task: str, number: int, config_text: str, deadline_seconds: float) -> float:
    """Load one version; returns the seconds until it answered. Raises ProfileError when another one does."""
    started = time.monotonic()
    await server.load(task, frozenset({number}), config_text, deadline_seconds)
    answered = await server.answering_version(task, deadline_seconds, config_text=config_text)
    if answered != number:
        raise ProfileError(f"version {answered} answered after the load; something else changes this server")
    return time.monotonic() - started


async def unload(server: TritonClient, task: str, deadline_seconds: float) -> None:
    """Unload every version of a task and wait until their memory is free: Triton answers before it is."""
    await server.unload(task, deadline_seconds)
    deadline = time.monotonic() + deadline_seconds
    gone = (State.UNAVAILABLE, State.UNKNOWN)
    while any(entry.model == task and entry.state not in gone for entry in await server.index()):
        if time.monotonic() > deadline:
            raise ProfileError(f"the versions before it were not unloaded within {deadline_seconds:.0f} s")
        await asyncio.sleep(0.05)


def _note(config_text: str, profile: ProfileDocument) -> str:
    published = as_configured(config_text)
    if (profile.batch_size, profile.instances) == (published.batch_size, published.instances):
        return ""
    return (
        f"best with batch size {profile.batch_size} and {profile.instances} instance(s), but config.pbtxt says "
        f"{published}: the profile holds only once the task is published with that configuration"
    )


async def profile_tasks(
    bench: Bench,
    repository: Repository,
    tasks: Sequence[str],
    conditions: Conditions,
    tell: Callable[[ProfiledVersion, str], None],
    say: Callable[[str], None],
    *,
    skip_existing: bool = False,
) -> list[str]:
    """Profile versions of some tasks (`TASK`, or `TASK:VERSION` for one) and write each as soon as it is measured.

    A version that can't be profiled doesn't stop the others. Returns what went wrong, one sentence each.
    """
    problems: list[str] = []
    for asked in tasks:
        task, _, wanted = asked.partition(":")
        numbers = [n for n in await repository.versions(task) if not wanted or str(n) == wanted]
        if not numbers:
            problems.append(f"{asked}: no {'such ' if wanted else ''}version in the repository")
            continue
        config_text = await repository.config_text(task)
        for position, number in enumerate(numbers, start=1):
            if skip_existing and await _was_measured(repository, task, number, conditions):
                say(f"{task} {number}: has a profile for {conditions.hardware_class}")
                continue
            try:
                done = await profile_version(bench, task, number, config_text, conditions)
            except ProfileError as error:
                problems.append(str(error))
                say(f"profile: {error}")
                continue
            await _write(repository, done, conditions.hardware_class)
            tell(done, f"{position}/{len(numbers)}")
    return problems


async def _was_measured(repository: Repository, task: str, number: int, conditions: Conditions) -> bool:
    """Whether the newest profile of the class is of this CPU limit and this service level."""
    text = await repository.newest_profile(task, number, conditions.hardware_class)
    if text is None:
        return False
    try:
        profile = read_document(f"{task}/{number}", text)
    except ValueError:
        return False
    cores = None if profile.cpu is None else profile.cpu.cores
    return cores == conditions.cpu_cores and profile.slo_latency.seconds == conditions.slo_seconds


async def _write(repository: Repository, done: ProfiledVersion, hardware_class: str) -> None:
    assert done.profile.profiled_at is not None
    key = profile_key(done.task, done.number, hardware_class, done.profile.profiled_at)
    await repository.write(key, write_document(done.profile))
