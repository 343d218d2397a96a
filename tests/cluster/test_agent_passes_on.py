"""What the agent passes on of a real Triton's metrics and a real gate's, and what its own page is without them."""

from __future__ import annotations

import signal
import time
from collections.abc import Awaitable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from rung.adapters.agent import AgentClient, Reflex, ReflexTask
from rung.agent.passed_on import OF_TRITON
from servers.agents import agent_settings, running_agent, until
from servers.gate import running_gate
from servers.s3 import S3Server
from servers.swapping import TASK, serve
from servers.triton import TritonServer

pytestmark = pytest.mark.cluster

PAGE_SECONDS = 5.0
"""The agent's half second, and much patience with a busy machine; a Triton that hangs does so for ever."""


async def test_passes_on_what_the_operator_reads_and_nothing_else(
    s3: S3Server, triton: TritonServer, tmp_path: Path
) -> None:
    settings = agent_settings(s3, tmp_path / "models", triton_metrics=("127.0.0.1", triton.metrics_port))
    async with serve(triton) as served, running_agent(settings) as agent:
        await served.start_with(1, 2)
        await until(lambda: passes_on(agent), "Triton gives its metrics in time")
        page = await page_within(agent, PAGE_SECONDS)
        families = {family.name: family for family in text_string_to_metric_families(page)}
        assert {name for name in families if name.startswith("nv_")} == set(OF_TRITON)
        for name in OF_TRITON:
            assert families[name].documentation
            labels = {(sample.labels["model"], sample.labels["version"]) for sample in families[name].samples}
            assert labels == {(TASK, "1"), (TASK, "2")}
        assert await served.client.answering_version(TASK, 10.0, config_text=served.config_text) == 2

        async def counted() -> bool:
            found = text_string_to_metric_families(await page_within(agent, PAGE_SECONDS))
            successes = [family.samples for family in found if family.name == "nv_inference_request_success"]
            return [sum(sample.value for sample in samples) for samples in successes] == [1]

        await until(counted, "the request is on the page")


@pytest.mark.parametrize("fault", ["hung", "killed"])
async def test_a_triton_that_is_away_takes_nothing_from_the_agents_own_page(
    s3: S3Server, triton: TritonServer, tmp_path: Path, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = agent_settings(s3, tmp_path / "models", triton_metrics=("127.0.0.1", triton.metrics_port))
    async with serve(triton) as served, running_agent(settings) as agent:
        await served.start_with(1)
        await until(lambda: passes_on(agent), "Triton gives its metrics in time")
        caplog.clear()
        if fault == "hung":
            triton.signal_all(signal.SIGSTOP)
        else:
            triton.kill()
        try:
            for _ in range(2):
                page = await page_within(agent, PAGE_SECONDS)
                assert "rung_agent_triton_processes" in page
                assert "nv_" not in page, "no sample, rather than one from before"
            assert len([message for message in caplog.messages if "demand is not known" in message]) == 1
        finally:
            triton.signal_all(signal.SIGCONT)
        if fault == "killed":
            triton.start()
            async with serve(triton) as again:
                await again.start_with(1)
        await until(lambda: passes_on(agent), "once it answers, its counters are back")


async def test_tells_the_gate_its_tasks_and_passes_on_what_it_counts(
    s3: S3Server, triton: TritonServer, tmp_path: Path
) -> None:
    with running_gate(triton, tmp_path / "gate") as gate:
        settings = agent_settings(
            s3, tmp_path / "models", triton_metrics=("127.0.0.1", triton.metrics_port),
            gate_file=gate.tasks_file, gate_metrics=("127.0.0.1", gate.metrics_port),
        )  # fmt: skip
        async with serve(triton) as served, running_agent(settings) as agent:
            await served.start_with(1, 2)
            arrivals = f'rung_gate_arrivals_total{{model="{TASK}"}} 0'

            async def shows(text: str) -> bool:
                return text in await page_within(agent, PAGE_SECONDS)

            assert not await shows(arrivals)
            await agent.put_reflex(Reflex(tasks={TASK: ReflexTask(slo_seconds=0.4, service_seconds={1: 0.01})}))
            await until(lambda: shows(arrivals), "the gate counts for the task")
            await until(
                lambda: shows(f'rung_gate_service_seconds{{model="{TASK}",version="2"}}'), "it knows the versions"
            )
            await until(lambda: passes_on(agent), "Triton's stand beside them")
            gate.kill()
            page = await page_within(agent, PAGE_SECONDS)
            assert "rung_gate_" not in page
            assert "nv_inference_request_success" in page
            gate.start()
            await until(lambda: shows(arrivals), "a gate that starts again reads the same file")
            await agent.put_reflex(Reflex())
            await until(lambda: _not(shows(arrivals)), "of a task that is none of its any more it tells nothing")


async def _not(condition: Awaitable[bool]) -> bool:
    return not await condition


async def page_within(agent: AgentClient, seconds: float) -> str:
    began = time.monotonic()
    page = (await agent._request("GET", "/metrics")).decode()
    assert time.monotonic() - began < seconds
    return page


async def passes_on(agent: AgentClient) -> bool:
    return "nv_inference_request_success" in (await agent._request("GET", "/metrics")).decode()
