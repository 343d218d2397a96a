"""Turns a pydantic model into a structural schema, as a CustomResourceDefinition wants it.

Strict on purpose: a construct that a structural schema can't express, or that this module has never been tested with,
raises `NotExpressible` with the path of the field. Nothing is dropped but `title` and what means nothing in JSON
(`default: null`), so the API server checks what pydantic checks.
Rules of structural schemas: https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel

from rung.api.base import VALIDATIONS

Schema = dict[str, Any]

_INT64_MAX = 2**63 - 1
_EXACT_IN_A_FLOAT = 2**53
_TYPES = {"object", "array", "string", "number", "integer", "boolean"}
_FORMATS = {"date-time"}
_COPIED = {
    *("description", "type", "enum", "required", "minLength", "maxLength", "minItems", "maxItems"),
    *("minProperties", "maxProperties", "multipleOf"),
}
_LIST_TYPE, _LIST_KEYS = "x-kubernetes-list-type", "x-kubernetes-list-map-keys"
_PRESERVE = "x-kubernetes-preserve-unknown-fields"
# Constructs that Go's RE2 lacks, or in which Rust's, Python's and Go's engines differ about what they match.
_NOT_RE2 = re.compile(r"\(\?(?!:)|\\[0-9A-Za-z]|[*+?}]\+")


class NotExpressible(ValueError):  # noqa: N818 - it names the state of the model
    """A model uses something that a structural schema can't say."""

    def __init__(self, path: str, sentence: str) -> None:
        super().__init__(f"{path or 'the model'}: {sentence}")


def structural_schema(model: type[BaseModel]) -> Schema:
    """Return the structural schema of a model. Raises NotExpressible; every property needs a description."""
    schema = model.model_json_schema(by_alias=True, mode="validation")
    definitions = schema.pop("$defs", {})
    return _Converter(definitions).convert(schema, "", ())


class _Converter:
    def __init__(self, definitions: Mapping[str, Schema]) -> None:
        self._definitions = definitions
        self._handlers: Mapping[str, Callable[[Schema, Schema, str, tuple[str, ...]], None]] = {
            "properties": self._properties,
            "additionalProperties": self._additional_properties,
            "items": self._items,
            "default": self._default,
            "format": self._format,
            "pattern": self._pattern,
            "minimum": self._bound,
            "maximum": self._bound,
            "exclusiveMinimum": self._bound,
            "exclusiveMaximum": self._bound,
            VALIDATIONS: self._validations,
            _LIST_TYPE: self._list_type,
            _LIST_KEYS: self._nothing_more,  # with the list type
            _PRESERVE: self._nothing_more,  # with additionalProperties
            "title": self._nothing_more,  # pydantic's guess at a name; says nothing
        }

    def convert(self, schema: Schema, path: str, inside: tuple[str, ...]) -> Schema:
        """Convert one node. `inside` are the definitions that it is part of."""
        if "$ref" in schema:
            return self._inline(schema, path, inside)
        if "anyOf" in schema:
            return self._nullable(schema, path, inside)
        kind = schema.get("type")
        if not isinstance(kind, str) or kind not in _TYPES:
            raise NotExpressible(path, f"needs one type of {', '.join(sorted(_TYPES))}, not {kind!r}")
        result: Schema = {}
        for keyword in schema:
            if keyword in _COPIED:
                result[keyword] = schema[keyword]
            elif keyword in self._handlers:
                self._handlers[keyword](schema, result, path, inside)
            else:
                raise NotExpressible(path, f"{keyword!r} has no place in a structural schema")
        if kind == "array" and "items" not in result:
            raise NotExpressible(path, "a list needs the type of its elements")
        if kind == "object" and not {"properties", "additionalProperties", _PRESERVE} & result.keys():
            raise NotExpressible(path, "an object needs fields, or a type of its values")
        if kind == "integer":
            result["format"] = "int64"
        if "description" in result:
            result["description"] = " ".join(str(result["description"]).split())
        return result

    def _inline(self, schema: Schema, path: str, inside: tuple[str, ...]) -> Schema:
        name = str(schema["$ref"]).removeprefix("#/$defs/")
        if name in inside:
            raise NotExpressible(path, f"{name} contains itself; a structural schema can't recurse")
        if name not in self._definitions:
            raise NotExpressible(path, f"there is no definition {schema['$ref']!r}")
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        return self.convert(_merge(self._definitions[name], beside, path), path, (*inside, name))

    def _nullable(self, schema: Schema, path: str, inside: tuple[str, ...]) -> Schema:
        branches = [branch for branch in schema["anyOf"] if branch != {"type": "null"}]
        if len(branches) != 1 or len(schema["anyOf"]) != 2:
            raise NotExpressible(path, "of unions only `T | None` can be expressed")
        beside = {key: value for key, value in schema.items() if key not in ("anyOf", "title")}
        inner = self.convert(_merge(branches[0], beside, path), path, inside)
        if "enum" in inner:
            raise NotExpressible(path, "a choice can't be null as well: give it a value that means none")
        return {**inner, "nullable": True}

    def _properties(self, schema: Schema, result: Schema, path: str, inside: tuple[str, ...]) -> None:
        if schema.get("additionalProperties", False) is not False:
            raise NotExpressible(path, "fields and a map in one object can't be expressed")
        result["properties"] = {}
        for name, field in schema["properties"].items():
            where = f"{path}.{name}".lstrip(".")
            result["properties"][name] = self.convert(field, where, inside)
            if not result["properties"][name].get("description"):
                raise NotExpressible(where, "has no description")

    def _additional_properties(self, schema: Schema, result: Schema, path: str, inside: tuple[str, ...]) -> None:
        values = schema["additionalProperties"]
        if values is False:
            raise NotExpressible(path, "unknown fields can't be refused: the API server drops them")
        if values is True and schema.get(_PRESERVE) is True:
            result[_PRESERVE] = True
        elif isinstance(values, dict) and _PRESERVE not in schema:
            result["additionalProperties"] = self.convert(values, f"{path}[*]", inside)
        else:
            raise NotExpressible(path, f"say what the values of the map are, or mark it with {_PRESERVE}")

    def _items(self, schema: Schema, result: Schema, path: str, inside: tuple[str, ...]) -> None:
        if not isinstance(schema["items"], dict) or not schema["items"]:
            raise NotExpressible(path, "a list needs one type for all its elements")
        result["items"] = self.convert(schema["items"], f"{path}[]", inside)

    def _default(self, schema: Schema, result: Schema, path: str, inside: tuple[str, ...]) -> None:
        if schema["default"] is not None:  # an absent field is None already
            result["default"] = _without_none(schema["default"])

    def _format(self, schema: Schema, result: Schema, path: str, inside: tuple[str, ...]) -> None:
        if schema["type"] != "string" or schema["format"] not in _FORMATS:
            raise NotExpressible(path, f"the API server does not check the format {schema['format']!r}")
        result["format"] = schema["format"]

    def _pattern(self, schema: Schema, result: Schema, path: str, inside: tuple[str, ...]) -> None:
        pattern = str(schema["pattern"])
        try:
            re.compile(pattern)
        except re.error as error:
            raise NotExpressible(path, f"the pattern {pattern!r} can't be read: {error}") from None
        found = _NOT_RE2.search(pattern)
        if found:
            raise NotExpressible(path, f"the pattern {pattern!r} uses {found.group()!r}: engines differ about it")
        if not (pattern.startswith("^") and pattern.endswith("$")) or pattern.endswith(r"\$"):
            raise NotExpressible(path, f"the pattern {pattern!r} must begin with ^ and end with $")
        result["pattern"] = pattern

    def _bound(self, schema: Schema, result: Schema, path: str, inside: tuple[str, ...]) -> None:
        for side in ("minimum", "maximum"):
            exclusive = f"exclusive{side.capitalize()}"
            if exclusive in schema and side in schema:
                raise NotExpressible(path, f"{side} and {exclusive} together can't be expressed")
            limit = schema.get(exclusive, schema.get(side))
            if limit is None or (schema["type"] == "integer" and side == "maximum" and limit == _INT64_MAX):
                continue  # the format int64 says so exactly; as a float it would be one too much
            if abs(limit) > _EXACT_IN_A_FLOAT:
                raise NotExpressible(path, f"{side} {limit} is not exact in the API server, which keeps it as a float")
            result[side] = limit
            if exclusive in schema:
                result[exclusive] = True

    def _validations(self, schema: Schema, result: Schema, path: str, inside: tuple[str, ...]) -> None:
        for rule in schema[VALIDATIONS]:
            if set(rule) != {"rule", "message"} or not rule["rule"] or not rule["message"]:
                raise NotExpressible(path, f"a CEL rule needs a rule and a message: {rule}")
        result[VALIDATIONS] = [dict(rule) for rule in schema[VALIDATIONS]]

    def _list_type(self, schema: Schema, result: Schema, path: str, inside: tuple[str, ...]) -> None:
        keys = schema.get(_LIST_KEYS, [])
        element = self.convert(schema.get("items", {}), f"{path}[]", inside) if schema["type"] == "array" else {}
        if schema[_LIST_TYPE] != "map" or not keys:
            raise NotExpressible(path, f"of {_LIST_TYPE} only `map` with {_LIST_KEYS} is known here")
        for key in keys:
            if key not in element.get("required", []):
                raise NotExpressible(path, f"{key!r} must be a required field of the elements to be their key")
        result[_LIST_TYPE] = "map"
        result[_LIST_KEYS] = list(keys)

    def _nothing_more(self, schema: Schema, result: Schema, path: str, inside: tuple[str, ...]) -> None:
        """Take a keyword that another one speaks for; on its own it is refused there."""
        if (_PRESERVE in schema and "additionalProperties" not in schema) or (
            _LIST_KEYS in schema and _LIST_TYPE not in schema
        ):
            raise NotExpressible(path, f"{_PRESERVE} goes with a free map, {_LIST_KEYS} with {_LIST_TYPE}")


def _merge(inner: Schema, beside: Schema, path: str) -> Schema:
    """Lay what stands beside a reference over what it refers to: descriptions replace, rules add up."""
    merged = dict(inner)
    for key, value in beside.items():
        if key == VALIDATIONS:
            merged[key] = [*inner.get(key, []), *value]
        elif key in ("description", "default", "title") or key not in inner:
            merged[key] = value
        elif inner[key] != value:
            raise NotExpressible(path, f"{key} is said twice, differently: {inner[key]!r} and {value!r}")
    return merged


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_none(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list | tuple):
        return [_without_none(inner) for inner in value]
    return value
