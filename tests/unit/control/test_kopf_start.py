"""kopf's sets of toggles, with fewer wake-ups."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from kopf._cogs.aiokits import aiotoggles

from rung.kopf_start import QuietToggleSet, start_quietly


async def test_who_waits_is_woken_when_all_is_indexed_and_not_for_each_object() -> None:
    looks = 0

    def counted(states: Iterable[bool]) -> bool:
        nonlocal looks
        looks += 1
        return all(states)

    toggles = QuietToggleSet(counted)
    objects = [await toggles.make_toggle(name=str(number)) for number in range(100)]
    waiting = [asyncio.create_task(toggles.wait_for(True)) for _ in range(100)]
    await asyncio.sleep(0)
    for each in objects[:-1]:
        await toggles.drop_toggle(each)
        await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    await toggles.drop_toggles(objects[-1:])
    async with asyncio.timeout(5):
        await asyncio.gather(*waiting)
    assert looks < 10 * 100, "with a look by each at each it would be 10,000"


async def test_a_set_is_on_off_and_on_again() -> None:
    toggles = QuietToggleSet(any)
    off = asyncio.create_task(toggles.wait_for(True))
    toggle = await toggles.make_toggle(name="paused")
    await asyncio.sleep(0)
    assert not off.done()
    await toggle.turn_to(True)
    async with asyncio.timeout(5):
        await off
    waits = asyncio.create_task(toggles.wait_for(False))
    await asyncio.sleep(0)
    await toggles.drop_toggle(toggle)
    async with asyncio.timeout(5):
        await waits


def test_kopf_takes_it() -> None:
    start_quietly()
    assert aiotoggles.ToggleSet is QuietToggleSet
