"""Reading objects that come from outside: one bad object gives one clear error and never stops the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from rung.api.base import Metadata, Resource
from rung.api.pool import ServingPool
from rung.api.porting_job import PortingJob
from rung.api.task import InferenceTask
from rung.api.version import ModelVersion

_ResourceType = TypeVar("_ResourceType", bound=Resource)
KINDS: tuple[type[Resource], ...] = (InferenceTask, ModelVersion, PortingJob, ServingPool)
"""Every kind of the API."""


class InvalidObject(ValueError):  # noqa: N818 - it names the state of the object
    """An object that can't be used, with where it is wrong and a sentence that says what to do.

    The API server refuses such objects; one may still be met when it was stored under an older schema.
    """

    def __init__(self, kind: str, namespace: str, name: str, field: str, sentence: str) -> None:
        self.kind = kind
        self.namespace = namespace
        self.name = name
        self.field = field
        self.sentence = sentence
        super().__init__(f"{kind} {namespace}/{name}: {field}: {sentence}")


def parse_task(raw: Mapping[str, Any]) -> InferenceTask:
    """Read an InferenceTask from the API server's JSON. Raises InvalidObject."""
    return parse(raw, InferenceTask)


def parse_version(raw: Mapping[str, Any]) -> ModelVersion:
    """Read a ModelVersion from the API server's JSON. Raises InvalidObject."""
    return parse(raw, ModelVersion)


def parse_pool(raw: Mapping[str, Any]) -> ServingPool:
    """Read a ServingPool from the API server's JSON. Raises InvalidObject."""
    return parse(raw, ServingPool)


def parse_porting_job(raw: Mapping[str, Any]) -> PortingJob:
    """Read a PortingJob from the API server's JSON. Raises InvalidObject."""
    return parse(raw, PortingJob)


def parse(raw: Mapping[str, Any], model: type[_ResourceType]) -> _ResourceType:
    """Read an object of that kind from the API server's JSON. Raises InvalidObject.

    A status that can't be read (hand-edited, or of another schema) is dropped, and `notes` says so: it only reports.
    """
    kind = model.NAMES.kind
    metadata = _metadata(raw, kind)
    if raw.get("spec") is None:
        raise InvalidObject(kind, metadata.namespace, metadata.name, "spec", "is missing")
    content: dict[str, Any] = {"metadata": metadata, "spec": raw["spec"]}
    if raw.get("status") is not None:
        try:
            content["status"] = model.part("status").model_validate(raw["status"])
        except ValidationError as error:
            field, sentence = _first(error)
            where = f"status.{field}".rstrip(".")
            content["notes"] = (f"the status is dropped, it can't be read: {where}: {sentence}",)
    try:
        return model.model_validate(content)
    except ValidationError as error:
        field, sentence = _first(error)
        raise InvalidObject(kind, metadata.namespace, metadata.name, field or "spec", sentence) from None


def _metadata(raw: Mapping[str, Any], kind: str) -> Metadata:
    found = raw.get("metadata") if isinstance(raw, Mapping) else None
    try:
        return Metadata.model_validate(found)
    except ValidationError as error:
        names = found if isinstance(found, Mapping) else {}
        field, sentence = _first(error)
        where = f"metadata.{field}".rstrip(".")
        raise InvalidObject(
            kind, str(names.get("namespace", "?"))[:63], str(names.get("name", "?"))[:253], where, sentence
        ) from None


_SENTENCES = {
    "missing": "is missing",
    "model_type": "must be an object",
    "dict_type": "must be an object",
    "tuple_type": "must be a list",
}
"""Where pydantic speaks of Python, for people who write YAML."""


def _first(error: ValidationError) -> tuple[str, str]:
    """Return the path and the sentence of the first fault, and how many more there are."""
    faults = error.errors(include_url=False, include_input=False, include_context=False)
    path = ""
    for part in faults[0]["loc"]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    sentence = _SENTENCES.get(faults[0]["type"], faults[0]["msg"].removeprefix("Value error, "))
    if len(faults) > 1:
        sentence += f" (and {len(faults) - 1} more)"
    return path.lstrip("."), sentence
