"""What every model of the API shares: naming, CEL rules, Kubernetes metadata, and how a resource is written out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, JsonValue
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

GROUP = "rung.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

VALIDATIONS = "x-kubernetes-validations"


@dataclass(frozen=True, slots=True)
class Rule:
    """A CEL rule that the API server checks, and the sentence a user reads when it refuses.

    On a field it goes into `Annotated[...]`; on a model into `model_config = rules(...)`. A rule that mentions
    `oldSelf` is checked only when an object changes. Fields of type `T | None` may be null as well as absent, so test
    them with `given()`.
    """

    rule: str
    message: str

    def as_dict(self) -> dict[str, str]:
        """Return the rule as one element of `x-kubernetes-validations`."""
        return {"rule": self.rule, "message": self.message}

    def __get_pydantic_json_schema__(self, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core_schema)
        return {**schema, VALIDATIONS: [*schema.get(VALIDATIONS, []), self.as_dict()]}


def given(path: str) -> str:
    """Return CEL for "this optional field is there and not null"; the path starts with `self.` or `oldSelf.`."""
    return f"(has({path}) && dyn({path}) != null)"


def rules(*model_rules: Rule) -> ConfigDict:
    """Return the configuration of a model with CEL rules over several of its fields."""
    checks: list[JsonValue] = [{"rule": each.rule, "message": each.message} for each in model_rules]
    return ConfigDict(json_schema_extra={VALIDATIONS: checks})


class Model(BaseModel):
    """Base of every object: camelCase in JSON, snake_case in Python, frozen; unknown fields are dropped."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        frozen=True,
        extra="ignore",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )

    def to_json(self) -> dict[str, Any]:
        """Return the object as Kubernetes has it: camelCase, JSON types, fields that are None left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


Number = Annotated[float, Field(strict=True)]
"""A JSON number; a string of digits or a boolean is refused, as the API server refuses it."""
Integer = Annotated[int, Field(strict=True)]
Share = Annotated[Number, Field(ge=0, le=1)]
"""A number from 0 to 1."""
PositiveShare = Annotated[Number, Field(gt=0, le=1)]
Positive = Annotated[Number, Field(gt=0)]
NotNegative = Annotated[Number, Field(ge=0)]
Count = Annotated[Integer, Field(ge=0, le=2**63 - 1)]
PositiveCount = Annotated[Integer, Field(ge=1, le=2**63 - 1)]
VersionNumber = Annotated[Integer, Field(ge=1, le=2**63 - 1)]
"""A Triton version number."""

ObjectName = Annotated[
    str,
    Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"),
]
"""The name of a Kubernetes object."""
LabelKey = Annotated[
    str,
    Field(
        min_length=1,
        max_length=317,
        pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$",
    ),
]
LabelValue = Annotated[str, Field(max_length=63, pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$")]
Labels = dict[str, LabelValue]
"""Labels that must all be there. (A structural schema can't constrain the keys of a map.)"""
Text = Annotated[str, Field(max_length=1024)]
"""A sentence or two for a person."""
Token = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9]([-A-Za-z0-9_.+/]*[A-Za-z0-9])?$")]
"""A short word without spaces."""


HardwareClass = Annotated[LabelValue, Field(min_length=1)]
"""Servers of one hardware class share a profile."""


def keyed_list(key: str, max_length: int) -> Any:
    """Return the field of a list that Kubernetes merges by a key: at most one element for each value of it."""
    return Field(
        max_length=max_length,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]},
    )


def one_for_each_class(classes: Iterable[str]) -> None:
    """Raise ValueError when two elements of `profiles` have the same hardware class."""
    found = list(classes)
    if len(set(found)) != len(found):
        raise ValueError("profiles: one element for each hardwareClass")


class Reference(Model):
    """Names another object in the same namespace."""

    name: ObjectName
    """Name of the object, in the same namespace."""


class Metadata(Model):
    """The part of Kubernetes' object metadata that Rung reads."""

    name: str
    namespace: str = "default"
    uid: str | None = None
    generation: int | None = None
    labels: dict[str, str] = Field(default={})


@dataclass(frozen=True, slots=True)
class Column:
    """One column of `kubectl get`. Columns with a priority above 0 are shown with `-o wide` only."""

    name: str
    type: str
    json_path: str
    description: str
    priority: int = 0
    format: str | None = None


@dataclass(frozen=True, slots=True)
class Names:
    """How a kind is called on the command line and in the API's addresses."""

    kind: str
    plural: str
    singular: str
    short: str


class Resource(Model):
    """Base of every kind. `notes` says what was dropped while the object was read (an unreadable status)."""

    NAMES: ClassVar[Names]
    COLUMNS: ClassVar[tuple[Column, ...]]
    RULES: ClassVar[tuple[Rule, ...]] = ()
    """CEL rules over the whole object; only they may see `metadata.name`."""

    metadata: Metadata
    spec: Model
    status: Model
    notes: tuple[str, ...] = Field(default=(), exclude=True)

    @classmethod
    def part(cls, name: str) -> type[Model]:
        """Return the model of `spec` or `status`."""
        annotation = cls.model_fields[name].annotation
        assert isinstance(annotation, type)
        assert issubclass(annotation, Model)
        return annotation

    @property
    def name(self) -> str:
        """Name of the object."""
        return self.metadata.name

    @property
    def namespace(self) -> str:
        """Namespace of the object."""
        return self.metadata.namespace

    @property
    def uid(self) -> str | None:
        """Uid of the object: one that is made again under its name has another."""
        return self.metadata.uid

    def to_manifest(self, *, with_status: bool = False) -> dict[str, Any]:
        """Return the object as `kubectl apply` takes it."""
        manifest: dict[str, Any] = {"apiVersion": API_VERSION, "kind": self.NAMES.kind}
        manifest["metadata"] = {key: value for key, value in self.metadata.to_json().items() if value != {}}
        manifest["spec"] = self.spec.to_json()
        return {**manifest, "status": self.status.to_json()} if with_status else manifest
