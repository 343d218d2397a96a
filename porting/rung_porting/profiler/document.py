"""The file of one profile: the API's `Profile` and, beside it, all that was seen on the way.

`register` reads the same file as a `Profile` and drops the rest. Everything is checked on reading, since files in a
bucket are anybody's. The reader of the repository takes 32 KiB at most.
"""

from __future__ import annotations

from typing import Annotated, Any

import yaml
from pydantic import AwareDatetime, Field, ValidationError

from rung.adapters.repository_documents import LARGEST_YAML_CHARACTERS, parse_yaml_mapping
from rung.adapters.repository_errors import Corrupt
from rung.api.base import Count, Model, NotNegative, Positive, PositiveCount, Share, Text, VersionNumber
from rung.api.quantity import PositiveDuration
from rung.api.version import LatencyPercentiles, Profile

MOST_CONFIGURATIONS = 8
"""Each keeps its curve, and the file has to stay below the repository's limit."""
MOST_POINTS = 32


class CurvePoint(Model):
    """Latency under one load, an open loop of Poisson arrivals."""

    rate: Positive
    """Inferences asked for per second."""
    p50_seconds: NotNegative
    """Half of the requests were answered within this time; a request that failed counts as its deadline."""
    p95_seconds: NotNegative
    p99_seconds: NotNegative
    late_share: Share
    """Share of the requests answered after the service level, or not at all."""
    requests: PositiveCount
    """How many requests this is of: a 99th percentile of fewer than 100 is their slowest."""
    cpu_seconds_per_inference: NotNegative | None = None
    """CPU-seconds that the server used for one, at this load."""


class Interval(Model):
    """Where the true number lies with a probability of 90 %."""

    low: Positive
    high: Positive


class Machine(Model):
    """Who used the cores that the client may use, while the server was asked for all it can do."""

    cores: PositiveCount
    client_cores: NotNegative
    idle_cores: NotNegative
    server_cores: NotNegative | None = None
    """Absent where nobody counted the server's CPU."""
    neighbour_cores: NotNegative | None = None
    """Used by neither: what disturbed the measurement. Absent with `serverCores`."""


class Configuration(Model):
    """The version measured with one batch size and one number of instances."""

    batch_size: PositiveCount
    instances: PositiveCount
    max_throughput: Positive
    throughput_interval: Interval
    saturation: Positive
    """What a closed loop with every caller busy reached, in inferences per second."""
    latency: LatencyPercentiles
    cpu_seconds_per_inference: Positive | None = None
    memory_bytes: PositiveCount | None = None
    standby_memory_bytes: PositiveCount | None = None
    load_time: PositiveDuration | None = None
    load_cpu_seconds: NotNegative | None = None
    curve: Annotated[tuple[CurvePoint, ...], Field(max_length=MOST_POINTS)] = ()
    """By rate, ascending."""
    machine: Machine | None = None


class SharedLoad(Model):
    """Two versions at work on one server. `own` and `other` are loads, in shares of each one's maximal throughput."""

    own: Positive
    other: Positive
    p50_seconds: NotNegative
    p95_seconds: NotNegative
    p99_seconds: NotNegative
    late_share: Share
    p50_factor: Positive
    """This version's p50 by what it was at the same load of its own, the other one loaded and idle."""
    p95_factor: Positive
    cpu_factor: Positive | None = None
    """CPU-seconds of both by what the same inferences cost at the same loads one after the other."""


class CoLocation(Model):
    """How another task's version and this one slow each other on one server."""

    task: Annotated[str, Field(min_length=1, max_length=253)]
    """The other one."""
    version: VersionNumber
    measured_at: AwareDatetime
    cpu_factor: Positive | None = None
    """The median over the loads: how much more CPU they need than the sum that a prediction adds up."""
    loads: Annotated[tuple[SharedLoad, ...], Field(max_length=MOST_POINTS)]


class ProfileDocument(Profile):
    """A whole profile file."""

    model: Annotated[str, Field(max_length=253)] | None = None
    """The model's name on the server, where no repository says it."""
    version: Count | None = None
    """The version that answered, where no repository says it."""
    throughput_interval: Interval | None = None
    curve: Annotated[tuple[CurvePoint, ...], Field(max_length=MOST_POINTS)] = ()
    """Latency over load with the batch size and the instances of the profile, by rate, ascending."""
    configurations: Annotated[tuple[Configuration, ...], Field(max_length=MOST_CONFIGURATIONS)] = ()
    """Every combination that was measured, when there was more than one; the best is the profile."""
    failed_configurations: Annotated[tuple[Text, ...], Field(max_length=MOST_CONFIGURATIONS)] = ()
    """Combinations without a number, and why."""
    machine: Machine | None = None
    co_location: Annotated[tuple[CoLocation, ...], Field(max_length=MOST_CONFIGURATIONS)] = ()
    """One element for each other task that it was measured beside."""


def read_document(where: str, text: str) -> ProfileDocument:
    """Read the text of a profile file; keys that nobody knows are dropped.

    Raises ValueError naming `where` and the first fields that are wrong.
    """
    try:
        return ProfileDocument.model_validate(dict(parse_yaml_mapping(where, text)))
    except Corrupt as error:
        raise ValueError(str(error)) from None
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False, include_context=False)
        told = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in faults[:5])
        raise ValueError(f"{where}: {told}") from None


def write_document(document: ProfileDocument) -> str:
    """Return the file's text, small mappings on one line each. The inverse of `read_document`.

    The curves of all combinations but the best are left out where the file would be too large to be read again.
    """
    text = _dump(document.to_json())
    if len(text) > LARGEST_YAML_CHARACTERS:
        bare = tuple(each.model_copy(update={"curve": ()}) for each in document.configurations)
        text = _dump(document.model_copy(update={"configurations": bare}).to_json())
    return text


def _dump(content: dict[str, Any]) -> str:
    return yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=160)
