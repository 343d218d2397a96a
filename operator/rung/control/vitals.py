"""When each version of a server was last known to answer, and so which ones are to be asked.

To ask costs the server an inference: one that answered clients is not asked, and a standby seldom. One that died
unseen is found as soon as requests for it fail.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

ACTIVE_EVERY_SECONDS = 10.0
STANDBY_EVERY_SECONDS = 30.0


class Vitals:
    """The versions of one server. Times are of any clock that does not go back."""

    def __init__(self) -> None:
        self._heard: dict[tuple[str, int], float] = {}

    def heard(self, versions: Mapping[str, Iterable[int]], now_seconds: float) -> None:
        """Take note that these versions, by model, answer."""
        for model, numbers in versions.items():
            for number in numbers:
                self._heard[model, number] = now_seconds

    def due(self, model: str, loaded: Collection[int], failing: Collection[int], now_seconds: float) -> frozenset[int]:
        """Return which of the loaded versions of a model are to be asked: those that fail at once, others in turn."""
        for key in [key for key in self._heard if key[0] == model and key[1] not in loaded]:
            del self._heard[key]
        active = max(loaded, default=0)
        return frozenset(
            number
            for number in loaded
            if number in failing
            or now_seconds - self._heard.get((model, number), float("-inf"))
            >= (ACTIVE_EVERY_SECONDS if number == active else STANDBY_EVERY_SECONDS)
        )
