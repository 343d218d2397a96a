"""The agent's HTTP API: the documents it answers with, and the operator's client for it.

The same models render the answers inside the agent, so both ends agree by construction. The contract is in
`docs/architecture.md`, "The agent's HTTP API".
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import cached_property
from types import TracebackType
from typing import Annotated, Self

import aiohttp
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

LARGEST_ANSWER_BYTES = 16 << 20
TaskName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
VersionNumber = Annotated[int, Field(ge=1, le=2**63 - 1)]
Bytes = Annotated[int, Field(ge=0)]


class AgentError(Exception):
    """A call to an agent that did not succeed."""


class Unreachable(AgentError):  # noqa: N818 - read as a sentence where it is caught
    """Nothing answers at the agent's address, or not in time."""


class Malformed(AgentError):  # noqa: N818
    """Something answered, but not as an agent does."""


class VersionState(StrEnum):
    """Where the files of one version are. Only `Available` ones are there, whole and verified."""

    AVAILABLE = "Available"
    PENDING = "Pending"
    DOWNLOADING = "Downloading"
    CORRUPT = "Corrupt"
    EVICTED = "Evicted"


class _Document(BaseModel):
    # Fields that a newer agent adds are ignored: agents and operator are never upgraded in the same moment.
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore")


class VersionInventory(_Document):
    """One version on one server. `size_bytes` and `sha256` are what `version.yaml` declares (0 and "" if unknown)."""

    state: VersionState
    size_bytes: Annotated[Bytes, Field(alias="bytes")] = 0
    sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    message: str = ""


class TaskInventory(_Document):
    """One task on one server; `config` is the text of its config.pbtxt, empty when there is none (yet)."""

    config: str = ""
    versions: dict[VersionNumber, VersionInventory] = Field(default_factory=dict)

    @cached_property
    def available(self) -> frozenset[int]:
        """Numbers of the versions whose files are there and verified."""
        return frozenset(number for number, version in self.versions.items() if version.state is VersionState.AVAILABLE)


class RepositoryInventory(_Document):
    """Whether the agent reaches the model repository; `last_contact` in seconds since the epoch."""

    reachable: bool
    last_contact: float | None = None
    message: str = ""


class MemoryInventory(_Document):
    """Memory of the Triton container; `age_seconds` since it was measured, None from an agent that doesn't say.

    An age, not a time: the clocks of agent and operator need not agree.
    """

    limit_bytes: Bytes | None = None
    used_bytes: Bytes = 0
    age_seconds: float | None = None


class DiskInventory(_Document):
    """Disk that mirrored versions may and do take."""

    budget_bytes: Bytes
    used_bytes: Bytes = 0


class Inventory(_Document):
    """What `GET /v1/inventory` answers."""

    tasks: dict[TaskName, TaskInventory] = Field(default_factory=dict)
    repository: RepositoryInventory
    memory: MemoryInventory = MemoryInventory()
    disk: DiskInventory


class Wanted(BaseModel):
    """What `PUT /v1/wanted` takes: the versions that the operator wants soonest, first."""

    model_config = ConfigDict(extra="forbid")

    tasks: dict[TaskName, Annotated[list[Annotated[VersionNumber, Field(strict=True)]], Field(max_length=1000)]]


class ReflexTask(BaseModel):
    """What the gate beside the agent reads of one task: seconds, and by version what an inference takes alone."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", allow_inf_nan=False)

    slo_seconds: Annotated[float, Field(gt=0)]
    best_effort: bool = False
    service_seconds: dict[VersionNumber, Annotated[float, Field(gt=0)]]


class Reflex(BaseModel):
    """What `PUT /v1/reflex` takes, and what the gate's file holds: the tasks whose requests get a version there."""

    model_config = ConfigDict(extra="forbid")

    cores: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """What the server may use; None: not known."""
    tasks: dict[TaskName, ReflexTask] = Field(default_factory=dict)


class AgentClient:
    """The connection to the agent of one server.

    Args:
        address: `HOST:PORT`.
        session: one that is shared between agents; without it the client has its own: close it, or use `async with`.
        deadline_seconds: for each call.
    """

    def __init__(
        self, address: str, *, session: aiohttp.ClientSession | None = None, deadline_seconds: float = 2.0
    ) -> None:
        self.address = address
        self._session = session
        self._owns_session = session is None
        self._deadline_seconds = deadline_seconds

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the client's own session; a shared one is left alone."""
        if self._owns_session and self._session is not None:
            await self._session.close()
            self._session = None

    async def inventory(self) -> Inventory:
        """Ask what is on the server.

        Raises:
            AgentError: Unreachable, or Malformed (with the first faults, by their place in the document).
        """
        body = await self._request("GET", "/v1/inventory")
        try:
            return Inventory.model_validate_json(body)
        except ValidationError as error:
            faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:3])
            raise Malformed(f"the agent at {self.address} answered a malformed inventory: {faults}") from None

    async def put_wanted(self, tasks: Mapping[str, Sequence[int]]) -> None:
        """Say which versions are wanted soonest, for each task the most wanted first. A hint; it replaces the last one.

        Raises:
            AgentError: Unreachable, or Malformed (the agent refused it).
        """
        await self._request("PUT", "/v1/wanted", {"tasks": {task: list(numbers) for task, numbers in tasks.items()}})

    async def put_reflex(self, reflex: Reflex) -> None:
        """Say for which tasks the gate chooses; it replaces what was said last.

        Raises:
            AgentError: Unreachable, or Malformed (the agent refused it, or there is no gate beside it).
        """
        await self._request("PUT", "/v1/reflex", reflex.model_dump(mode="json", by_alias=True))

    async def _request(self, method: str, path: str, document: Mapping[str, object] | None = None) -> bytes:
        if self._session is None:
            self._session = aiohttp.ClientSession()
        try:
            async with (
                asyncio.timeout(self._deadline_seconds),
                self._session.request(
                    method, f"http://{self.address}{path}", json=document, allow_redirects=False
                ) as answer,
            ):
                body = bytearray()
                async for chunk in answer.content.iter_any():
                    body += chunk
                    if len(body) > LARGEST_ANSWER_BYTES:
                        raise Malformed(f"the agent at {self.address} answered over {LARGEST_ANSWER_BYTES} bytes")
                if not 200 <= answer.status < 300:
                    said = bytes(body[:300]).decode(errors="replace").strip()
                    raise Malformed(f"the agent at {self.address} answered {answer.status} to {method} {path}: {said}")
                return bytes(body)
        except TimeoutError:
            raise Unreachable(
                f"the agent at {self.address} did not answer within {self._deadline_seconds:g} s"
            ) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Unreachable(f"the agent at {self.address} can't be reached: {error}") from error
