"""Co-location of versions of a repository, or of models that are served: which two, loaded how, written where."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations

from rung.adapters.triton import TritonClient
from rung.core.repository_layout import profile_key
from rung_loadgen.kserve import Channel
from rung_porting.profiler.colocation import SECONDS_A_LOAD, SHARES, Tenant, co_locate, with_co_location
from rung_porting.profiler.conditions import Bench, Conditions
from rung_porting.profiler.document import CoLocation, ProfileDocument, read_document, write_document
from rung_porting.profiler.errors import ProfileError
from rung_porting.profiler.gauges import AgentGauge
from rung_porting.profiler.measure import Subject
from rung_porting.profiler.repositories import Repository
from rung_porting.profiler.served import served_subject
from rung_porting.profiler.versions import EXPECTED, load, unload

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Grid:
    """At which loads two tasks are measured beside each other, and for how long each."""

    shares: tuple[float, ...] = SHARES
    seconds: float = SECONDS_A_LOAD


@dataclass(frozen=True, slots=True)
class _Profiled:
    """A version of the repository with its newest profile."""

    task: str
    number: int
    config_text: str
    profile: ProfileDocument


async def co_locate_tasks(
    bench: Bench, repository: Repository, tasks: Sequence[str], conditions: Conditions, grid: Grid, say: Say
) -> list[str]:
    """Measure every two of some tasks (`TASK` for its best profiled version, or `TASK:VERSION`) beside each other.

    Their newest profiles of the class are written again, with what was seen. Returns what went wrong.
    """
    problems: list[str] = []
    chosen = []
    for asked in tasks:
        try:
            chosen.append(await _profiled(repository, asked, conditions.hardware_class))
        except ProfileError as error:
            problems.append(str(error))
    for first, second in combinations(chosen, 2):
        try:
            seen = await _measure(bench, (first, second), conditions, grid)
        except EXPECTED as error:
            problems.append(f"{first.task} beside {second.task}: {error or type(error).__name__}")
            continue
        for version, view in zip((first, second), seen, strict=True):
            await _write_again(repository, version, view, conditions.hardware_class)
            say(told(version.task, view))
    return problems


async def _profiled(repository: Repository, asked: str, hardware_class: str) -> _Profiled:
    task, _, wanted = asked.partition(":")
    numbers = [n for n in await repository.versions(task) if not wanted or str(n) == wanted]
    for number in reversed(numbers):
        text = await repository.newest_profile(task, number, hardware_class)
        if text is not None:
            profile = _read(f"the profile of {task} {number}", text)
            return _Profiled(task, number, await repository.config_text(task), profile)
    what = f"version {wanted} of it" if wanted else "none of its versions"
    raise ProfileError(
        f"{task}: {what} has a profile for {hardware_class}, and loads are shares of what was measured alone; "
        "run the same without --co-locate first"
    )


def _read(where: str, text: str) -> ProfileDocument:
    try:
        return read_document(where, text)
    except ValueError as error:
        raise ProfileError(str(error)) from None


async def _measure(
    bench: Bench, both: tuple[_Profiled, _Profiled], conditions: Conditions, grid: Grid
) -> tuple[CoLocation, CoLocation]:
    deadline = conditions.load_deadline_seconds
    channel = Channel(bench.triton)
    try:
        async with TritonClient(bench.triton) as server:
            try:
                for each in both:
                    if isinstance(bench.gauge, AgentGauge):
                        await bench.gauge.wait_for_files(each.task, each.number, deadline)
                    await unload(server, each.task, deadline)
                    await load(server, each.task, each.number, each.config_text, deadline)
                first, second = [await _tenant(channel, bench, each, conditions) for each in both]
                return await co_locate((first, second), grid.shares, grid.seconds)
            finally:
                for each in both:
                    await unload(server, each.task, deadline)
    finally:
        await channel.close()


async def _tenant(channel: Channel, bench: Bench, version: _Profiled, conditions: Conditions) -> Tenant:
    specs = await channel.inputs(version.task, 5.0)
    slo = version.profile.slo_latency.seconds
    payloads = conditions.payloads(version.task, specs)
    subject = Subject(channel, version.task, payloads, slo, version=version.number, gauge=bench.gauge)
    return Tenant(subject, version.profile.max_throughput)


async def _write_again(repository: Repository, version: _Profiled, seen: CoLocation, hardware_class: str) -> None:
    # Read again: a pair before this one may have written. A new file, since nothing is ever overwritten.
    text = await repository.newest_profile(version.task, version.number, hardware_class)
    profile = version.profile if text is None else _read(f"the profile of {version.task} {version.number}", text)
    key = profile_key(version.task, version.number, hardware_class, datetime.now(UTC))
    await repository.write(key, write_document(with_co_location(profile, seen)))


async def co_locate_served(
    bench: Bench, profiles: Sequence[ProfileDocument], conditions: Conditions, grid: Grid, say: Say
) -> tuple[list[ProfileDocument], list[str]]:
    """Measure every two of some served models, just profiled, beside each other; returns the profiles with it."""
    done = list(profiles)
    problems: list[str] = []
    channel = Channel(bench.triton)
    try:
        for a, b in combinations(range(len(done)), 2):
            names = [str(done[index].model) for index in (a, b)]
            try:
                tenants = []
                for index in (a, b):
                    subject, _ = await served_subject(bench, channel, str(done[index].model), conditions)
                    tenants.append(
                        Tenant(
                            Subject(
                                channel,
                                subject.model,
                                subject.payloads,
                                subject.slo_seconds,
                                version=done[index].version,
                                gauge=bench.gauge,
                            ),
                            done[index].max_throughput,
                        )
                    )
                seen = await co_locate((tenants[0], tenants[1]), grid.shares, grid.seconds)
            except EXPECTED as error:
                problems.append(f"{names[0]} beside {names[1]}: {error or type(error).__name__}")
                continue
            for index, view in zip((a, b), seen, strict=True):
                done[index] = with_co_location(done[index], view)
                say(told(str(done[index].model), view))
    finally:
        await channel.close()
    return done, problems


def told(name: str, view: CoLocation) -> str:
    """Return one view as a line for a person."""
    worst = max(view.loads, key=lambda load: load.p95_factor)
    line = (
        f"{name} beside {view.task} {view.version}: p95 up to {worst.p95_factor:.2f} times as long "
        f"(at {worst.own:.0%} and {worst.other:.0%} of what each does alone)"
    )
    return line if view.cpu_factor is None else f"{line}, CPU {view.cpu_factor:.3f} times the sum of both alone"
