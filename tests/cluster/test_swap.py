"""The swap executor on a real Triton under real load: no request fails, and only the old or the new version answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from rung.adapters.triton import State
from rung.control.swap import Kind, MemoryBudget, Outcome, SwapOutcome, apply
from rung.core.plan import Target
from servers.models import write_task
from servers.open_loop import OpenLoop, open_loop
from servers.swapping import RATE_RPS, TASK, Served, assert_clean, assert_switched, serve
from servers.triton import TritonServer

pytestmark = [pytest.mark.cluster, pytest.mark.paced]

MB = 1_000_000


@pytest.fixture
async def served(triton: TritonServer) -> AsyncIterator[Served]:
    async with serve(triton) as served:
        yield served


async def swap_under_load(
    served: Served, start: tuple[int, ...], target: Target, **options: object
) -> tuple[SwapOutcome, OpenLoop]:
    """Start with these versions, swap under load, and check what holds of every swap that succeeds."""
    await served.start_with(*start)
    async with open_loop(served.server.address, TASK, RATE_RPS) as load:
        await load.wait_for(max(start), after=0)
        outcome = await served.apply(target, **options)
        swapped = time.monotonic()
        await load.wait_for(target.active, after=swapped)
    assert outcome.outcome is Outcome.OK, outcome.sentence
    assert (outcome.from_version, outcome.to_version, outcome.answering) == (max(start), target.active, target.active)
    assert_clean(load, {max(start), target.active})
    assert_switched(load, target.active, swapped)
    return outcome, load


async def test_warm_step_down_drops_the_version_above(served: Served) -> None:
    outcome, _ = await swap_under_load(served, (2, 3), Target(2, (1,)))
    assert outcome.kind is Kind.WARM
    assert await served.loaded() == {2}, "loading the next standby is left to the second phase"


async def test_warm_step_down_with_what_the_caller_saw_loaded(served: Served) -> None:
    outcome, _ = await swap_under_load(served, (2, 3), Target(2), loaded=frozenset({2, 3}))
    assert outcome.kind is Kind.WARM
    assert await served.loaded() == {2}


async def test_cold_step_down_loads_beside_and_then_drops(served: Served) -> None:
    outcome, _ = await swap_under_load(served, (3,), Target(1))
    assert outcome.kind is Kind.COLD
    assert await served.loaded() == {1}


async def test_step_up_keeps_the_version_below_as_the_standby(served: Served) -> None:
    outcome, _ = await swap_under_load(served, (1, 2), Target(3, (2,)))
    assert outcome.kind is Kind.COLD
    assert await served.loaded() == {2, 3}
    assert await served.load_standbys(Target(3, (2,))) == ()


async def test_a_wrong_belief_about_what_is_loaded_loses_nothing(served: Served) -> None:
    outcome, _ = await swap_under_load(served, (3,), Target(1), loaded=frozenset({1, 3}))
    assert await served.loaded() == {1}
    assert outcome.ok


async def test_standbys_are_loaded_one_by_one_and_unwanted_ones_dropped(served: Served) -> None:
    await served.start_with(1, 4)
    target = Target(4, (3, 2))
    async with open_loop(served.server.address, TASK, RATE_RPS) as load:
        await load.wait_for(4, after=0)
        outcomes = await served.load_standbys(target)
        assert [(outcome.to_version, outcome.outcome) for outcome in outcomes] == [(3, Outcome.OK), (2, Outcome.OK)]
        assert await served.loaded() == {2, 3, 4}
        assert await served.load_standbys(target) == ()
    assert_clean(load, {4})


async def test_standbys_wait_until_the_target_answers(served: Served) -> None:
    await served.start_with(2)
    assert await served.load_standbys(Target(3, (1,))) == ()
    assert await served.loaded() == {2}


async def test_hand_made_numbers_where_the_better_version_has_the_lower_number(served: Served) -> None:
    """1 is the best here and 3 the cheapest: what stands by below carries a higher number, so it isn't kept."""
    await served.start_with(1)
    async with open_loop(served.server.address, TASK, RATE_RPS) as load:
        await load.wait_for(1, after=0)
        for target in (Target(1, (2,)), Target(2, (3,)), Target(3), Target(2, (3,)), Target(1, (2,))):
            assert (await served.apply(target)).ok
            assert await served.load_standbys(target) == ()
            assert await served.loaded() == {target.active}
            await load.wait_for(target.active, after=time.monotonic())
    assert_clean(load, {1, 2, 3})
    order = [answer.said for answer in sorted(load.answers, key=lambda answer: answer.due)]
    changes = [number for number, before in zip(order, [None, *order], strict=False) if number != before]
    assert changes == [1, 2, 3, 2, 1]


async def test_nothing_to_do_is_said_and_done(served: Served) -> None:
    await served.start_with(2)
    outcome = await served.apply(Target(2))
    assert (outcome.kind, outcome.outcome, outcome.duration_seconds) == (Kind.NONE, Outcome.OK, 0.0)
    assert outcome.sentence == "version 2 answers already"


async def test_first_load_on_an_empty_server(served: Served) -> None:
    outcome = await served.apply(Target(3, (2,)))
    assert (outcome.kind, outcome.outcome, outcome.from_version) == (Kind.COLD, Outcome.OK, None)
    assert await served.loaded() == {3}


async def test_a_load_that_does_not_fit_is_refused_with_its_numbers(served: Served) -> None:
    await served.start_with(2)
    outcome = await served.apply(
        Target(3),
        memory=MemoryBudget(limit_bytes=500 * MB, used_bytes=450 * MB),
        versions_memory={3: 80 * MB, 2: 60 * MB},
    )
    assert outcome.outcome is Outcome.REFUSED_MEMORY
    assert not outcome.blamed
    for part in ("450 MB", "80 MB", "500 MB", "version 2 answers"):
        assert part in outcome.sentence
    assert await served.loaded() == {2}


async def test_standbys_make_room_and_are_gone_before_the_load(served: Served) -> None:
    await served.start_with(1, 2)
    stub = next(pid for pid, command in served.server.stub_pids().items() if f"/{TASK}/1/" in command)
    async with open_loop(served.server.address, TASK, RATE_RPS) as load:
        await load.wait_for(2, after=0)
        outcome = await served.apply(
            Target(3),
            memory=MemoryBudget(limit_bytes=500 * MB, used_bytes=450 * MB),
            versions_memory={3: 80 * MB, 1: 60 * MB},
        )
    assert outcome.ok, outcome.sentence
    assert stub not in served.server.stub_pids(), "the standby's process must be gone when its memory is counted on"
    assert_clean(load, {2, 3})


async def test_standbys_are_not_given_up_where_that_would_not_be_enough(served: Served) -> None:
    await served.start_with(1, 2)
    outcome = await served.apply(
        Target(3),
        memory=MemoryBudget(limit_bytes=500 * MB, used_bytes=490 * MB),
        versions_memory={3: 80 * MB, 1: 60 * MB},
    )
    assert outcome.outcome is Outcome.REFUSED_MEMORY
    assert await served.loaded() == {1, 2}


async def test_a_standby_that_does_not_fit_is_not_loaded(served: Served) -> None:
    await served.start_with(3)
    (outcome,) = await served.load_standbys(
        Target(3, (2,)),
        memory=MemoryBudget(limit_bytes=500 * MB, used_bytes=450 * MB),
        versions_memory={2: 60 * MB},
    )
    assert (outcome.outcome, outcome.to_version) == (Outcome.REFUSED_MEMORY, 2)
    assert await served.loaded() == {3}


async def test_files_that_arrive_meanwhile_do_not_restart_what_answers(served: Served) -> None:
    """The agent adds versions and renews config.pbtxt in the model's folder while versions of it are loaded."""
    await served.start_with(2)
    before = served.server.stub_pids()
    folder = served.server.repository / TASK
    write_task(served.server.repository, TASK, {5: 1})
    (folder / "config.pbtxt.new").write_text(served.config_text)
    (folder / "config.pbtxt.new").rename(folder / "config.pbtxt")
    assert (await served.apply(Target(3, (2,)))).ok
    assert await served.loaded() == {2, 3}
    assert set(before) <= set(served.server.stub_pids())


async def test_two_tasks_swap_without_waiting_for_each_other(served: Served) -> None:
    """A cold load of one task must not hold up the warm step down of another."""
    other_text = write_task(served.server.repository, "other", {1: 1, 2: 2})
    await served.client.load("other", frozenset({1, 2}), other_text, 30)
    await served.start_with(1)
    cold = served.apply(Target(3))
    warm = apply(served.client, "other", Target(1), config_text=other_text)
    done: list[str] = []

    async def run(name: str, swap: object) -> SwapOutcome:
        outcome: SwapOutcome = await swap  # type: ignore[misc]
        done.append(name)
        return outcome

    async with asyncio.TaskGroup() as group:
        cold_task = group.create_task(run("cold", cold))
        await served.wait_for_state(3, State.LOADING)
        warm_task = group.create_task(run("warm", warm))
    assert cold_task.result().ok
    assert warm_task.result().ok
    assert done == ["warm", "cold"]
