"""What the YAML files of the model repository hold, read without trust: no aliases, no tags, no surprises."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rung.adapters.repository_errors import Corrupt

LARGEST_YAML_CHARACTERS = 32 * 1024
"""Ours are far smaller. Reading takes about 20 microseconds for each, so a huge one would cost its reader seconds."""


class TaskReference(BaseModel):
    """`taskRef` of a version."""

    name: str


class Artifact(BaseModel):
    """The model file of a version, as `version.yaml` declares it."""

    uri: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size_bytes: Annotated[int, Field(alias="bytes", ge=1, le=1 << 50)]


class VersionDocument(BaseModel):
    """What `version.yaml` has to hold; whatever else it holds is kept as it is."""

    model_config = ConfigDict(extra="allow")

    task_ref: Annotated[TaskReference, Field(alias="taskRef")]
    version: Annotated[int, Field(ge=1, le=2**63 - 1, strict=True)]
    artifact: Artifact


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """One published version: `spec` is what a ModelVersion's `spec` holds, its `profiles` among it."""

    task: str
    number: int
    sha256: str
    size_bytes: int
    spec: Mapping[str, Any] = field(default_factory=dict)


def parse_version_document(key: str, task: str, number: int, text: str) -> VersionRecord:
    """Read the text of a `version.yaml`.

    Raises:
        Corrupt: it isn't one, or it is another version's; the message names the key.
    """
    document = parse_yaml_mapping(key, text)
    try:
        parsed = VersionDocument.model_validate(document)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5])
        raise Corrupt(f"{key} is malformed: {faults}") from None
    if parsed.version != number:
        raise Corrupt(f"{key} says version {parsed.version}: it lies in the wrong folder")
    return VersionRecord(task, number, parsed.artifact.sha256, parsed.artifact.size_bytes, document)


def parse_yaml_mapping(key: str, text: str) -> Mapping[str, Any]:
    """Read a YAML mapping without aliases (they can grow without bound); times stay strings, as JSON needs them.

    Raises:
        Corrupt: it isn't one; the message names the key.
    """
    if len(text) > LARGEST_YAML_CHARACTERS:
        raise Corrupt(f"{key} has {len(text)} characters: over the limit of {LARGEST_YAML_CHARACTERS}")
    try:
        # A SafeLoader that knows even less; nothing in it makes objects.
        document = yaml.load(text, Loader=_PlainLoader)  # noqa: S506
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        first_line = " ".join(str(error).split())[:300]
        raise Corrupt(f"{key} is not plain YAML: {first_line}") from None
    if not isinstance(document, dict) or not all(isinstance(name, str) for name in document):
        raise Corrupt(f"{key} has to hold a YAML mapping")
    return document


class _PlainLoader(yaml.SafeLoader):
    yaml_implicit_resolvers = {  # noqa: RUF012 - as the base class has it
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed")
        return super().compose_node(parent, index)
