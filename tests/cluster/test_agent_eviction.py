"""What the agent evicts, beside a real Triton that has versions loaded."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from rung.adapters.agent import Inventory, VersionState
from rung.adapters.triton import State, TritonClient
from servers.agents import agent_settings, is_in, metric, running_agent, until, until_inventory, version, visible
from servers.models import config_text, version_model
from servers.s3 import S3Server
from servers.triton import running_triton

pytestmark = pytest.mark.cluster

DEADLINE_SECONDS = 20.0


async def publish_three(s3: S3Server) -> int:
    """Three versions of one size; returns it."""
    config = config_text("digits")
    for number in (1, 2, 3):
        await s3.publish("digits", number, version_model(number), config=config)
    sizes = {s3.object_path(f"digits/{number}/model.onnx").stat().st_size for number in (1, 2, 3)}
    assert len(sizes) == 1
    return sizes.pop()


async def test_triton_serves_from_the_mirror_and_what_it_has_loaded_is_never_evicted(
    s3: S3Server, tmp_path: Path
) -> None:
    size_bytes = await publish_three(s3)
    with running_triton(tmp_path / "triton") as triton:
        settings = agent_settings(
            s3, triton.repository, triton=("127.0.0.1", triton.grpc_port), disk_budget_bytes=2 * size_bytes + 100
        )
        async with running_agent(settings) as agent, TritonClient(triton.address) as client:
            inventory = await until_inventory(agent, is_in(VersionState.AVAILABLE, "digits", 1, 2), "the cheapest two")
            assert await answers(client, inventory, 1)
            assert {entry.model for entry in await client.index()} == {"digits"}, "the agent's corner is no model"

            await agent.put_wanted({"digits": [3, 2]})
            inventory = await until_inventory(agent, is_in(VersionState.AVAILABLE, "digits", 3), "room was made for 3")
            assert is_in(VersionState.AVAILABLE, "digits", 1)(inventory), "loaded, so it stays, though nobody wants it"
            assert is_in(VersionState.EVICTED, "digits", 2)(inventory)
            assert not (triton.repository / "digits/2").exists()
            assert await client.answering_version("digits", DEADLINE_SECONDS, config_text=config_text("digits")) == 1

            assert await answers(client, inventory, 3)
            await until(lambda: unloaded(client, 1), "1 is unloaded")
            inventory = await until_inventory(agent, is_in(VersionState.AVAILABLE, "digits", 2, 3), "now 1 gives way")
            assert is_in(VersionState.EVICTED, "digits", 1)(inventory)
            assert visible(triton.repository) == {"digits/config.pbtxt", "digits/2/model.onnx", "digits/3/model.onnx"}


@pytest.mark.parametrize("fault", ["killed", "hung"])
async def test_nothing_is_evicted_while_triton_does_not_answer(
    s3: S3Server, tmp_path: Path, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    size_bytes = await publish_three(s3)
    with running_triton(tmp_path / "triton") as triton:
        settings = agent_settings(
            s3, triton.repository, triton=("127.0.0.1", triton.grpc_port), disk_budget_bytes=2 * size_bytes + 100
        )
        async with running_agent(settings) as agent:
            await until_inventory(agent, is_in(VersionState.AVAILABLE, "digits", 1, 2), "the cheapest two")
            # For its sake Triton is asked what is in use, again and again.
            await until_inventory(agent, lambda found: waits_for_room(found, 3), "there is no room for 3")
            if fault == "killed":
                triton.kill()
            else:
                triton.signal_all(signal.SIGSTOP)
            try:
                # Only then is 3 wanted: an answer from before the fault, still under way, may evict with good reason.
                await until(lambda: said(caplog, "nothing is evicted"), "Triton was asked and did not answer")
                await agent.put_wanted({"digits": [3]})
                # 4 is told that it waits in a step that began when 3 was wanted.
                await s3.publish("digits", 4, version_model(4), config=config_text("digits"))
                await until_inventory(agent, lambda found: waits_for_room(found, 4), "4 waits")
                assert waits_for_room(await agent.inventory(), 3)
                assert visible(triton.repository) == {
                    "digits/config.pbtxt",
                    "digits/1/model.onnx",
                    "digits/2/model.onnx",
                }
                assert await metric(agent, "rung_agent_triton_processes") == 0
            finally:
                triton.signal_all(signal.SIGCONT)
            if fault == "killed":
                triton.start()
            await until_inventory(agent, is_in(VersionState.AVAILABLE, "digits", 3), "once it answers, room is made")


async def test_mirroring_more_does_not_reload_what_answers(s3: S3Server, tmp_path: Path) -> None:
    await s3.publish("digits", 1, version_model(1), config=config_text("digits"))
    with running_triton(tmp_path / "triton") as triton:
        settings = agent_settings(s3, triton.repository, triton=("127.0.0.1", triton.grpc_port))
        async with running_agent(settings) as agent, TritonClient(triton.address) as client:
            inventory = await until_inventory(agent, is_in(VersionState.AVAILABLE, "digits", 1), "1 is there")
            assert await answers(client, inventory, 1)
            stubs = set(triton.stub_pids())
            await s3.publish("digits", 2, version_model(2), config=None)
            inventory = await until_inventory(agent, is_in(VersionState.AVAILABLE, "digits", 2), "2 is there")
            await client.load("digits", frozenset({1, 2}), inventory.tasks["digits"].config, DEADLINE_SECONDS)
            assert stubs <= set(triton.stub_pids()), "the process that served version 1 is the one from before"


async def answers(client: TritonClient, inventory: Inventory, number: int) -> bool:
    config = inventory.tasks["digits"].config
    await client.load("digits", frozenset({number}), config, DEADLINE_SECONDS)
    return await client.answering_version("digits", DEADLINE_SECONDS, config_text=config) == number


async def unloaded(client: TritonClient, number: int) -> bool:
    return all(entry.state is State.UNAVAILABLE for entry in await client.index() if entry.number == number)


async def said(caplog: pytest.LogCaptureFixture, words: str) -> bool:
    return any(words in message for message in caplog.messages)


def waits_for_room(inventory: Inventory, number: int) -> bool:
    found = version(inventory, "digits", number)
    return found is not None and found.state is VersionState.PENDING and "no room" in found.message
