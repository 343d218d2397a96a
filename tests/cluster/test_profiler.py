"""The profiler on a real Triton: what it finds is bounded by what a closed loop reaches, and ordered as the cost is."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
import yaml

from rung.adapters.triton import State, TritonClient
from rung.api.version import Profile
from rung.core.repository_layout import parse_key
from rung_loadgen.closedloop import Saturation, saturate
from rung_loadgen.kserve import Channel
from rung_loadgen.payloads import random_requests
from rung_porting.profiler.profile import AgentGauge, Bench, Conditions, profile_tasks, profile_version
from rung_porting.profiler.repositories import FolderRepository, open_repository
from rung_porting.profiler.search import Effort, ProfileError
from servers.agents import agent_settings, running_agent
from servers.models import config_text as config
from servers.models import version_model, write_task
from servers.s3 import running_s3
from servers.triton import TritonServer

pytestmark = pytest.mark.cluster

TASK = "digit"
SHORT = Effort(warm_up_seconds=0.3, saturation_seconds=1, probe_seconds=1, moderate_seconds=1, tolerance=0.2)
CONDITIONS = Conditions("test-class", slo_seconds=5.0, cpu_cores=1.0, effort=SHORT)


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

    problems = await profile_tasks(Bench(triton.address), FolderRepository(triton.repository), [TASK], CONDITIONS)

    assert len(problems) == 1
    assert problems[0].startswith(f"{TASK} version 3: ")
    profiles = {}
    for path in triton.repository.glob(f"{TASK}/*/profiles/*.yaml"):
        key = parse_key(str(path.relative_to(triton.repository)))
        assert key is not None
        assert key.hardware_class == "test-class"
        profiles[key.number] = Profile.model_validate(yaml.safe_load(path.read_text()))
    assert set(profiles) == {1, 2}
    assert profiles[1].max_throughput > profiles[2].max_throughput
    for profile in profiles.values():
        assert profile.latency is not None
        assert profile.latency.p99.seconds <= 5.0
        assert profile.load_time is not None
        assert profile.cpu == "1"
        assert profile.batch_size == 8  # what the configuration lets the server gather
    assert capsys.readouterr().out.count('"kind":"profile"') == 2
    async with TritonClient(triton.address) as client:
        assert not [entry for entry in await client.index() if entry.state is State.READY]

    again = await profile_tasks(
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

    assert done.measured.max_throughput_rps < done.measured.saturation_rps
    assert done.measured.max_throughput_rps < 3 * max(before.throughput_rps, after.throughput_rps)
    assert done.measured.max_throughput_rps > min(before.throughput_rps, after.throughput_rps) / 10
    assert before.versions == {2}


async def test_no_number_for_a_version_that_never_keeps_the_service_level(
    triton: TritonServer, config_text: str
) -> None:
    # A millisecond is less than the way there and back takes.
    with pytest.raises(ProfileError, match=f"{TASK} version 2: .*(too slow|the client sent late)"):
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
            problems = await profile_tasks(
                Bench(triton.address, gauge), open_repository(s3.uri, s3.endpoint), [TASK], CONDITIONS
            )
            await gauge.agent.close()

        assert problems == []
        [document] = (await s3.repository().read_version(TASK, 5)).spec["profiles"]
    profile = Profile.model_validate(document)
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
        problems = await profile_tasks(Bench("127.0.0.1:9"), FolderRepository(tmp_path), [TASK, "none"], CONDITIONS)

    assert "127.0.0.1:9" in problems[0]
    assert problems[1] == "none: no version in the repository"


def test_a_repository_that_is_none_is_refused(tmp_path: Path) -> None:
    for uri in ("http://bucket/x", "s3://", str(tmp_path / "missing")):
        with pytest.raises(ValueError, match=r"neither|not a model repository"):
            open_repository(uri, None)
