"""Versions that failed to load on a server, and when each may be tried again."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

FIRST_RETRY_SECONDS = 15.0
LONGEST_RETRY_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Breakage:
    """One version that failed on one server: how often in a row, until when it is left alone, and what was said."""

    model: str
    version: int
    failures: int
    retry_at_seconds: float
    message: str


class BrokenVersions:
    """The broken versions of one server. The wait doubles with each failure, from 15 s to 10 minutes."""

    def __init__(self) -> None:
        self._broken: dict[tuple[str, int], Breakage] = {}

    def failed(self, model: str, version: int, message: str, now_seconds: float) -> Breakage:
        """Note a failure and return when the version may be tried again."""
        before = self._broken.get((model, version))
        failures = before.failures + 1 if before else 1
        wait = min(FIRST_RETRY_SECONDS * 2.0 ** min(failures - 1, 16), LONGEST_RETRY_SECONDS)
        breakage = Breakage(model, version, failures, now_seconds + wait, message)
        self._broken[(model, version)] = breakage
        return breakage

    def worked(self, model: str, version: int) -> None:
        """Forget a version's failures: it was loaded."""
        self._broken.pop((model, version), None)

    def forgive(self, model: str, versions: Iterable[int]) -> None:
        """Let versions be tried at once: their files changed."""
        for version in versions:
            before = self._broken.get((model, version))
            if before:
                self._broken[(model, version)] = replace(before, retry_at_seconds=0.0)

    def keep(self, model: str, versions: Collection[int]) -> None:
        """Forget the versions of a model that are not among these: nobody registers them any more."""
        for key in [key for key in self._broken if key[0] == model and key[1] not in versions]:
            del self._broken[key]

    def waiting(self, model: str, now_seconds: float) -> frozenset[int]:
        """Return the versions of a model that must not be tried now."""
        return frozenset(
            b.version for b in self._broken.values() if b.model == model and b.retry_at_seconds > now_seconds
        )

    def all(self) -> tuple[Breakage, ...]:
        """Return every version that failed and has not worked since."""
        return tuple(self._broken.values())
