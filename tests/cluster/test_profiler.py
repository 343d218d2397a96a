"""The profiler on a real Triton: what it finds is bounded by what a closed loop reaches, and ordered as the cost is."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rung.adapters.triton import State, TritonClient
from rung.api.version import Profile
from rung.core.repository_layout import parse_key
from rung_loadgen.closedloop import Saturation, saturate
from rung_loadgen.kserve import Channel
from rung_loadgen.payloads import random_requests
from rung_porting.profiler.conditions import Bench, Conditions
from rung_porting.profiler.document import ProfileDocument, read_document
from rung_porting.profiler.errors import ProfileError
from rung_porting.profiler.gauges import AgentGauge, ProcessGauge
from rung_porting.profiler.repositories import FolderRepository, Repository, open_repository
from rung_porting.profiler.search import QUICK, THOROUGH, Effort
from rung_porting.profiler.tell import say, tell_version
from rung_porting.profiler.versions import profile_tasks, profile_version
from servers.agents import agent_settings, running_agent
from servers.models import config_text as config
from servers.models import version_model, write_task
from servers.s3 import running_s3
from servers.triton import TritonServer

pytestmark = [pytest.mark.cluster, pytest.mark.quiet]

TASK = "digit"
SHORT = Effort(
    warm_up_seconds=0.3, saturation_seconds=1, probe_seconds=1, moderate_seconds=1, tolerance=0.2, load_seconds=1
)  # fmt: skip
CONDITIONS = Conditions("test-class", slo_seconds=5.0, cpu_cores=1.0, effort=SHORT)


def gauge_of(triton: TritonServer) -> ProcessGauge:
    assert triton.process is not None
    return ProcessGauge(triton.process.pid)


async def profile_all(
    bench: Bench, repository: Repository, tasks: list[str], conditions: Conditions, *, skip_existing: bool = False
) -> list[str]:
    return await profile_tasks(
        bench, repository, tasks, conditions, tell_version, say, skip_existing=skip_existing
    )  # fmt: skip


def documents(repository: Path, task: str = TASK) -> dict[int, list[ProfileDocument]]:
    """The profile files by version, oldest first."""
    found: dict[int, list[ProfileDocument]] = {}
    for path in sorted(repository.glob(f"{task}/*/profiles/*.yaml")):
        key = parse_key(str(path.relative_to(repository)))
        assert key is not None
        assert key.number is not None
        assert key.hardware_class == "test-class"
        found.setdefault(key.number, []).append(read_document(str(path), path.read_text()))
    return found


@pytest.fixture
def config_text(triton: TritonServer) -> str:
    # Version 2 multiplies matrices five times as often as version 1; both slow enough that the client is not the limit.
    return write_task(triton.repository, TASK, {1: 30, 2: 160}, width=384)


async def test_each_version_gets_a_profile_and_a_broken_one_a_sentence(
    triton: TritonServer, config_text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = triton.repository / TASK / "3"
    broken.mkdir()
    (broken / "model.onnx").write_bytes(b"this is no network")

    problems = await profile_all(Bench(triton.address), FolderRepository(triton.repository), [TASK], CONDITIONS)

    assert len(problems) == 1
    assert problems[0].startswith(f"{TASK} version 3: ")
    profiles = {number: profile for number, [profile] in documents(triton.repository).items()}
    assert set(profiles) == {1, 2}
    assert profiles[1].max_throughput > profiles[2].max_throughput
    for profile in profiles.values():
        assert profile.latency is not None
        assert profile.latency.p99.seconds <= 5.0
        assert profile.load_time is not None
        assert profile.cpu == "1"
        assert (profile.batch_size, profile.instances) == (8, 1), "what the configuration lets the server gather"
        assert profile.throughput_interval is not None
        assert profile.throughput_interval.low <= profile.max_throughput <= profile.throughput_interval.high
        assert [point.rate for point in profile.curve] == sorted(point.rate for point in profile.curve)
        assert len(profile.curve) >= 2, "every probe is a point"
    assert capsys.readouterr().out.count('"kind":"profile"') == 2
    async with TritonClient(triton.address) as client:
        assert not [entry for entry in await client.index() if entry.state is State.READY]

    again = await profile_all(
        Bench(triton.address), FolderRepository(triton.repository), [TASK], CONDITIONS, skip_existing=True
    )
    assert len(again) == 1, "only the broken version is tried again"


async def closed_loop(triton: TritonServer, config_text: str) -> Saturation:
    async with TritonClient(triton.address) as client:
        await client.load(TASK, frozenset({2}), config_text, 60)
    channel = Channel(triton.address)
    payloads = random_requests(TASK, await channel.inputs(TASK, 5), np.random.default_rng(2))
    try:
        return await saturate(channel, payloads, callers=16, seconds=1)
    finally:
        await channel.close()


async def test_the_rate_found_stays_below_what_a_closed_loop_reaches(triton: TritonServer, config_text: str) -> None:
    # Measured apart from the profiler's own bound, before and after, since a busy machine is not the same all the time.
    before = await closed_loop(triton, config_text)
    done = await profile_version(Bench(triton.address), TASK, 2, config_text, CONDITIONS)
    after = await closed_loop(triton, config_text)

    assert done.profile.max_throughput <= done.measured.saturation_rps * 1.001
    assert done.profile.max_throughput < 3 * max(before.throughput_rps, after.throughput_rps)
    assert done.profile.max_throughput > min(before.throughput_rps, after.throughput_rps) / 10
    assert before.versions == {2}


async def test_no_number_for_a_version_that_never_keeps_the_service_level(
    triton: TritonServer, config_text: str
) -> None:
    # Half a millisecond is less than the way there and back takes.
    with pytest.raises(ProfileError, match=rf"{TASK} version 2: one request alone takes [\d.]+ ms at best.*too slow"):
        await profile_version(
            Bench(triton.address), TASK, 2, config_text, Conditions("c", slo_seconds=0.0005, effort=SHORT)
        )


async def test_with_an_agent_files_come_from_s3_and_the_profile_holds_cpu_and_memory_and_goes_there(
    triton: TritonServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_s3(tmp_path / "s3") as s3:
        for name, value in s3.environment.items():
            monkeypatch.setenv(name, value)
        await s3.publish(TASK, 5, version_model(5, layers=160, width=384), config=config(TASK))
        settings = agent_settings(s3, triton.repository, triton_process="tritonserver")
        async with running_agent(settings) as agent:
            gauge = AgentGauge(f"http://{agent.address}")
            problems = await profile_all(
                Bench(triton.address, gauge), open_repository(s3.uri, s3.endpoint), [TASK], CONDITIONS
            )
            await gauge.agent.close()

        assert problems == []
        [document] = (await s3.repository().read_version(TASK, 5)).spec["profiles"]
    profile = Profile.model_validate(document)
    assert profile.load_cpu_seconds is not None
    assert profile.load_cpu_seconds > 0
    assert profile.standby_memory_bytes is not None
    assert profile.memory_bytes is not None
    assert 0 < profile.standby_memory_bytes <= profile.memory_bytes
    assert profile.cpu_seconds_per_inference is not None
    # Saturated, the server used at least this much of a core; other Tritons on this machine would only add to it.
    assert profile.cpu_seconds_per_inference * profile.max_throughput > 0.05
    assert profile.memory_bytes is not None
    assert 0 < profile.memory_bytes < 2_000_000_000


async def test_an_agent_that_is_none_is_named(triton: TritonServer, config_text: str) -> None:
    gauge = AgentGauge("127.0.0.1:9")
    with pytest.raises(ProfileError, match=f"{TASK} version 1: .*127.0.0.1:9"):
        await profile_version(Bench(triton.address, gauge), TASK, 1, config_text, CONDITIONS)
    await gauge.agent.close()
    for address in ("https://x", "ftp://x", "http://"):
        with pytest.raises(ValueError, match="no address of an agent"):
            AgentGauge(address)


async def test_a_server_that_is_away_is_named(tmp_path: Path) -> None:
    write_task(tmp_path, TASK, {1: 1})
    async with asyncio.timeout(60):
        problems = await profile_all(Bench("127.0.0.1:9"), FolderRepository(tmp_path), [TASK, "none"], CONDITIONS)

    assert "127.0.0.1:9" in problems[0]
    assert problems[1] == "none: no version in the repository"


def test_a_repository_that_is_none_is_refused(tmp_path: Path) -> None:
    for uri in ("http://bucket/x", "s3://", str(tmp_path / "missing")):
        with pytest.raises(ValueError, match=r"neither|not a model repository"):
            open_repository(uri, None)


async def test_every_combination_of_batch_size_and_instances_is_measured_and_the_best_is_the_profile(
    triton: TritonServer, config_text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    conditions = replace(CONDITIONS, batch_sizes=(1, 8), instances=(1, 2))
    problems = await profile_all(
        Bench(triton.address, gauge_of(triton)), FolderRepository(triton.repository), [f"{TASK}:2"], conditions
    )

    assert problems == []
    [[profile]] = documents(triton.repository).values()
    combinations = {(each.batch_size, each.instances): each for each in profile.configurations}
    assert set(combinations) == {(1, 1), (8, 1), (1, 2), (8, 2)}
    best = max(profile.configurations, key=lambda each: each.max_throughput)
    assert (profile.batch_size, profile.instances) == (best.batch_size, best.instances)
    assert profile.max_throughput == best.max_throughput
    # Eight products of 160 matrices at once reuse each matrix: the batch is what makes the difference.
    assert combinations[8, 1].max_throughput > 1.2 * combinations[1, 1].max_throughput
    # Two instances are two processes, each with the matrices.
    one, two = (combinations[1, n].standby_memory_bytes for n in (1, 2))
    assert one is not None
    assert two is not None
    assert two > 1.5 * one
    for each in profile.configurations:
        assert each.cpu_seconds_per_inference is not None
        assert each.curve


async def test_a_thorough_curve_has_ten_loads_and_latency_rises_with_them(
    triton: TritonServer, config_text: str
) -> None:
    conditions = replace(CONDITIONS, slo_seconds=0.4, effort=replace(SHORT, loads=THOROUGH.loads))
    bench = Bench(triton.address, gauge_of(triton))
    done = await profile_version(bench, TASK, 2, config_text, conditions)

    curve = done.profile.curve
    assert len(curve) >= 10
    assert curve[0].rate < 0.2 * done.profile.max_throughput
    assert all(point.p50_seconds <= point.p95_seconds <= point.p99_seconds for point in curve)
    assert curve[0].p50_seconds < curve[-1].p50_seconds
    assert all(point.cpu_seconds_per_inference for point in curve)
    assert THOROUGH.max_probes > QUICK.max_probes


async def test_a_model_that_does_not_batch_is_not_measured_with_batches(triton: TritonServer, config_text: str) -> None:
    text = config_text.replace("max_batch_size: 8", "max_batch_size: 0").replace("dynamic_batching { }", "")
    with pytest.raises(ProfileError, match=f"{TASK} version 1: .*max_batch_size 0.*free batch dimension"):
        await profile_version(Bench(triton.address), TASK, 1, text, replace(CONDITIONS, batch_sizes=(1, 4)))
