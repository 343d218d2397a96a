"""An agent inside the test's own event loop, with everything real around it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from rung.adapters.agent import AgentClient, Inventory, VersionInventory, VersionState
from rung.agent.mirror import RetryDelays
from rung.agent.runtime import Agent, Settings
from servers.ports import free_port
from servers.s3 import S3Server


def agent_settings(server: S3Server, models: Path, *, endpoint: str | None = None, **options: object) -> Settings:
    """Settings with short intervals; a Triton that isn't there unless the test gives one."""
    defaults: dict[str, object] = {
        "repository": server.uri,
        "endpoint": endpoint or server.endpoint,
        "models_dir": models,
        "listen": ("127.0.0.1", free_port()),
        "triton": ("127.0.0.1", free_port()),
        "triton_metrics": ("127.0.0.1", free_port()),
        "triton_process": "no-such-triton",
        "poll_seconds": 0.2,
        "retry": RetryDelays(0.1, 0.5),
        "deadline_seconds": 3.0,
    }
    return Settings(**{**defaults, **options})  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def running_agent(settings: Settings) -> AsyncIterator[AgentClient]:
    """Run an agent; gives a client for it. An agent that ends by itself fails the test."""
    stop = asyncio.Event()
    running = asyncio.create_task(Agent(settings).run(stop))
    try:
        async with AgentClient("{}:{}".format(*settings.listen), deadline_seconds=10.0) as client:
            await until(lambda: _answers(client, running), "the agent answers")
            yield client
    finally:
        stop.set()
        await running


async def _answers(client: AgentClient, running: asyncio.Task[None]) -> bool:
    if running.done():
        running.result()
        raise AssertionError("the agent ended")
    with contextlib.suppress(Exception):
        await client.inventory()
        return True
    return False


async def until(condition: Callable[[], Awaitable[bool]], what: str, seconds: float = 30.0) -> None:
    """Wait until a condition holds; what failed is named."""
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(0.02)


async def until_inventory(
    client: AgentClient, condition: Callable[[Inventory], bool], what: str, seconds: float = 30.0
) -> Inventory:
    """Wait until the inventory is as it should be, and return it; the last one seen is shown when it never is."""
    deadline = time.monotonic() + seconds
    while not condition(inventory := await client.inventory()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}: {inventory}"
        await asyncio.sleep(0.02)
    return inventory


def version(inventory: Inventory, task: str, number: int) -> VersionInventory | None:
    found = inventory.tasks.get(task)
    return found.versions.get(number) if found else None


def is_in(state: VersionState, task: str, *numbers: int) -> Callable[[Inventory], bool]:
    """A condition: all these versions are in this state."""

    def condition(inventory: Inventory) -> bool:
        versions = [version(inventory, task, number) for number in numbers]
        return all(found is not None and found.state is state for found in versions)

    return condition


def visible(models: Path) -> set[str]:
    """What Triton could see: every file outside the agent's own corner."""
    files = (path.relative_to(models) for path in models.rglob("*") if path.is_file())
    return {str(path) for path in files if path.parts[0] != ".rung"}


async def metric(client: AgentClient, name: str) -> float:
    """The sum of all samples of a metric."""
    text = (await client._request("GET", "/metrics")).decode()
    lines = [line for line in text.splitlines() if line.split("{")[0].split(" ")[0] == name]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)
