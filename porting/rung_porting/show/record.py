"""The record of a search, `TASK.search.json`, read without trust: what `run` tried, what survived, and why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import AliasChoices, Field, ValidationError

from rung.api.base import Model, NotNegative, Share
from rung_porting.errors import PortingError

LARGEST_BYTES = 16 << 20
_Told = Annotated[str, Field(max_length=100_000)]


class Tried(Model):
    """One version that a trial made. `number` is None where it did not survive; `verdict` says why."""

    number: Annotated[int, Field(ge=1)] | None
    verdict: _Told
    method: _Told
    int8: bool
    knob: _Told | None = None
    """Where the plan's knob is turned to, for example `frames=2`."""
    accuracy: Share
    latency_seconds: Annotated[NotNegative, Field(le=1e6)]
    """CPU time of one answer on one thread where it was made."""
    flops: Annotated[NotNegative, Field(le=1e24)]
    parameters: NotNegative
    epochs: NotNegative


class TrialRecord(Model):
    """One trial: how, what came of it, or why nothing."""

    trial: int
    sentence: _Told
    failure: _Told | None
    notes: tuple[_Told, ...]
    made: Annotated[tuple[Tried, ...], Field(validation_alias=AliasChoices("versions"))]
    seconds: NotNegative = 0.0


class Record(Model):
    """All trials of one search."""

    task: str
    over: _Told
    """Why it ended."""
    trials: tuple[TrialRecord, ...]
    plan: dict[str, Any] = Field(default={})

    @property
    def versions(self) -> list[Tried]:
        """Return every version that was made."""
        return [tried for trial in self.trials for tried in trial.made]


def record_path(folder: Path, task: str) -> Path:
    """Return where `run` leaves the record of a task."""
    return folder / f"{task}.search.json"


def read_record(path: Path) -> Record:
    """Read the record that `run` leaves. Raises PortingError: it can't be read, or is none; the message says why."""
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise PortingError(f"{path} has more than {LARGEST_BYTES} bytes: that is no record of a search")
        return Record.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise PortingError(
            f"{path} is no record of a search: {'.'.join(map(str, fault['loc']))}: {fault['msg']}"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise PortingError(f"{path}: {error}") from None
