"""The converter says exactly what the model says, or refuses."""

from __future__ import annotations

import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, HttpUrl, WithJsonSchema, create_model

from rung.api.base import VALIDATIONS, Model, Rule
from rung.api.schema import NotExpressible, structural_schema


class Colour(StrEnum):
    """A choice."""

    RED = "Red"
    BLUE = "Blue"


class Inner(Model):
    """The inner object,
    told over two lines."""

    model_config = ConfigDict(json_schema_extra={VALIDATIONS: [{"rule": "self.number > 1", "message": "inner"}]})

    key: str
    """A key."""
    number: Annotated[int, Field(gt=0, le=2**63 - 1)] = 2
    """A number."""


class Loop(Model):
    """Contains itself."""

    loop: Loop | None = None
    """Again."""


def of(annotation: Any, default: Any = ..., description: str | None = "A field.") -> dict[str, Any]:
    """Convert a model with one field of that type; returns what the converter makes of the field."""
    model = create_model("Made", __base__=BaseModel, field=(annotation, Field(default, description=description)))
    field: dict[str, Any] = structural_schema(model)["properties"]["field"]
    return field


MAP_BY_KEY: dict[str, Any] = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["key"]}


@pytest.mark.parametrize(
    ("annotation", "schema"),
    [
        (str, {"type": "string"}),
        (bool, {"type": "boolean"}),
        (int, {"type": "integer", "format": "int64"}),
        (Annotated[int, Field(ge=0, le=2**63 - 1)], {"type": "integer", "minimum": 0, "format": "int64"}),
        (Annotated[float, Field(ge=0, lt=1)], {"type": "number", "minimum": 0, "maximum": 1, "exclusiveMaximum": True}),
        (Annotated[float, Field(gt=0)], {"type": "number", "minimum": 0, "exclusiveMinimum": True}),
        (Annotated[int, Field(multiple_of=8)], {"type": "integer", "multipleOf": 8, "format": "int64"}),
        (
            Annotated[str, Field(pattern="^[a-z]+$", max_length=3)],
            {"type": "string", "pattern": "^[a-z]+$", "maxLength": 3},
        ),
        (Annotated[str, Field(pattern="^(?:a|b)$")], {"type": "string", "pattern": "^(?:a|b)$"}),
        (str | None, {"type": "string", "nullable": True}),
        (
            Annotated[float, Field(gt=0)] | None,
            {"type": "number", "minimum": 0, "exclusiveMinimum": True, "nullable": True},
        ),
        (datetime.datetime, {"type": "string", "format": "date-time"}),
        (Colour, {"type": "string", "enum": ["Red", "Blue"]}),
        (list[int], {"type": "array", "items": {"type": "integer", "format": "int64"}}),
        (tuple[str, ...], {"type": "array", "items": {"type": "string"}}),
        (dict[str, bool], {"type": "object", "additionalProperties": {"type": "boolean"}}),
        (
            Annotated[dict[str, Any], Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})],
            {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        ),
        (
            Annotated[str, Rule("self == oldSelf", "stays")],
            {"type": "string", VALIDATIONS: [{"rule": "self == oldSelf", "message": "stays"}]},
        ),
    ],
)
def test_what_is_expressed(annotation: Any, schema: dict[str, Any]) -> None:
    assert of(annotation) == {**schema, "description": "A field."}


def test_an_object_is_inlined_with_what_stands_beside_the_reference() -> None:
    made = of(Annotated[Inner, Rule("true", "outer")], Inner(key="k"))
    assert made == {
        "type": "object",
        "description": "A field.",
        "required": ["key"],
        "properties": {
            "key": {"type": "string", "description": "A key."},
            "number": {
                "type": "integer",
                "description": "A number.",
                "default": 2,
                "format": "int64",
                "minimum": 0,
                "exclusiveMinimum": True,
            },
        },
        "default": {"key": "k", "number": 2},
        VALIDATIONS: [{"rule": "self.number > 1", "message": "inner"}, {"rule": "true", "message": "outer"}],
    }


def test_descriptions_lose_their_line_breaks() -> None:
    assert of(Inner, description=None)["description"] == "The inner object, told over two lines."


def test_an_optional_object_keeps_its_rules() -> None:
    made = of(Inner | None, None)
    assert made["nullable"] is True
    assert made[VALIDATIONS] == [{"rule": "self.number > 1", "message": "inner"}]
    assert "default" not in made


def test_a_list_by_key() -> None:
    made = of(Annotated[tuple[Inner, ...], Field(json_schema_extra=MAP_BY_KEY)])
    assert made["x-kubernetes-list-type"] == "map"
    assert made["x-kubernetes-list-map-keys"] == ["key"]


def extra(annotation: Any, **keywords: Any) -> Any:
    return Annotated[annotation, Field(json_schema_extra=keywords)]


class Closed(BaseModel):
    """Refuses unknown fields."""

    model_config = ConfigDict(extra="forbid")
    field: Annotated[int, Field(description="A field.")]


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]


@pytest.mark.parametrize(
    ("annotation", "sentence"),
    [
        (int | str, "only `T | None`"),
        (int | str | None, "only `T | None`"),
        (Decimal, "only `T | None`"),
        (Any, "needs one type"),
        (None, "needs one type"),
        (Annotated[Cat | Dog, Field(discriminator="kind")], "needs one type"),
        (object, "needs one type"),
        (dict[str, Any], "say what the values of the map are"),
        (dict, "say what the values of the map are"),
        (extra(dict[str, int], **{"x-kubernetes-preserve-unknown-fields": True}), "say what the values"),
        (extra(str, **{"x-kubernetes-preserve-unknown-fields": True}), "goes with a free map"),
        (Closed, "unknown fields can't be refused"),
        (list, "one type for all its elements"),
        (tuple[int, str], "'maxItems'|'prefixItems'"),
        (set[int], "'uniqueItems'"),
        (Literal["a"], "'const'"),
        (extra(str, examples=["a"]), "'examples'"),
        (extra(str, deprecated=True), "'deprecated'"),
        (extra(str, **{"not": {"enum": ["a"]}}), "'not'"),
        (dict[Annotated[str, Field(pattern="^a$")], int], "'patternProperties'|'propertyNames'"),
        (HttpUrl, "format 'uri'"),
        (bytes, "format 'binary'"),
        (datetime.date, "format 'date'"),
        (datetime.timedelta, "format 'duration'"),
        (Loop, "contains itself"),
        (Colour | None, "can't be null as well"),
        (Annotated[float, Field(ge=0, gt=0)], "minimum and exclusiveMinimum together"),
        (Annotated[int, Field(le=2**62)], "not exact"),
        (Annotated[int, Field(ge=-(2**63))], "not exact"),
        (Annotated[str, Field(pattern="[a-z]+")], r"must begin with \^"),
        (Annotated[str, Field(pattern=r"^[a-z]\$")], r"must begin with \^"),
        (Annotated[str, Field(pattern=r"^\d+$")], "engines differ"),
        (Annotated[str, Field(pattern=r"^(?i)a$")], "can't be read"),
        (extra(str, pattern=r"^(?!a).*$"), "engines differ"),
        (extra(str, pattern=r"^(a)\1$"), "engines differ"),
        (extra(str, pattern=r"^a++$"), "engines differ"),
        (extra(str, pattern=r"^a\Z$"), "engines differ"),
        (extra(str, pattern=r"^($"), "can't be read"),
        (extra(str, **{VALIDATIONS: [{"rule": "true"}]}), "needs a rule and a message"),
        (extra(str, **{VALIDATIONS: [{"rule": "true", "message": ""}]}), "needs a rule and a message"),
        (extra(list[Inner], **{"x-kubernetes-list-type": "map"}), "only `map` with"),
        (extra(list[str], **{"x-kubernetes-list-type": "set"}), "only `map` with"),
        (extra(list[Inner], **{"x-kubernetes-list-map-keys": ["key"]}), "with x-kubernetes-list-type"),
        (extra(list[Inner], **{**MAP_BY_KEY, "x-kubernetes-list-map-keys": ["number"]}), "must be a required field"),
        (extra(list[Inner], **{**MAP_BY_KEY, "x-kubernetes-list-map-keys": ["nobody"]}), "must be a required field"),
        (extra(dict[str, str], **MAP_BY_KEY), "must be a required field"),
        (Annotated[Any, WithJsonSchema({"type": "array"})], "a list needs the type"),
        (Annotated[Any, WithJsonSchema({"type": "object"})], "an object needs fields"),
        (Annotated[Any, WithJsonSchema({"type": ["string", "null"]})], "needs one type"),
        (Annotated[Any, WithJsonSchema({"allOf": [{"type": "string"}]})], "needs one type"),
        (
            Annotated[
                Any, WithJsonSchema({"type": "object", "properties": {}, "additionalProperties": {"type": "string"}})
            ],
            "fields and a map",
        ),
    ],
)
def test_what_is_refused(annotation: Any, sentence: str) -> None:
    with pytest.raises(NotExpressible, match=sentence) as caught:
        of(annotation)
    assert str(caught.value).startswith("field")


def test_a_field_without_description_is_refused_by_its_path() -> None:
    class Silent(BaseModel):
        quiet: int

    with pytest.raises(NotExpressible, match=r"^field\[\]\.quiet: has no description"):
        of(list[Silent])


def test_the_same_thing_said_twice_differently_is_refused() -> None:
    with pytest.raises(NotExpressible, match="maxProperties is said twice"):
        of(extra(extra(Inner, maxProperties=1) | None, maxProperties=2))
