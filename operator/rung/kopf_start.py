"""Lets kopf start with thousands of objects.

While kopf fills its indices, a worker for each object waits for the end of it, and each object that is indexed wakes
them all to look: with n objects n^2 wake-ups, half a minute of CPU at 6,000. Whoever waits for a set of toggles waits
for its state as a whole, so waking them when that changes is enough.
"""

from __future__ import annotations

from collections.abc import Iterable

from kopf._cogs.aiokits import aiotoggles
from kopf._cogs.aiokits.aiotoggles import Toggle, ToggleSet


class QuietToggleSet(ToggleSet):
    """A set of toggles that wakes who waits for it when its state changes, and not at each toggle."""

    async def make_toggle(self, __val: bool = False, *, name: str | None = None) -> Toggle:
        """Add a toggle."""
        toggle = Toggle(__val, name=name, condition=self._condition)
        async with self._condition:
            before = self.is_on()
            self._toggles.add(toggle)
            self._tell(before)
        return toggle

    async def drop_toggle(self, toggle: Toggle) -> None:
        """Take a toggle away."""
        await self.drop_toggles((toggle,))

    async def drop_toggles(self, toggles: Iterable[Toggle]) -> None:
        """Take some toggles away."""
        async with self._condition:
            before = self.is_on()
            self._toggles.difference_update(toggles)
            self._tell(before)

    def _tell(self, before: bool) -> None:
        if self.is_on() != before:
            self._condition.notify_all()


def start_quietly() -> None:
    """Have kopf make sets of this kind from now on; it offers no other way."""
    setattr(aiotoggles, "ToggleSet", QuietToggleSet)  # noqa: B010 - as an assignment it would be no type
