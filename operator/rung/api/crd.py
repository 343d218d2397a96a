"""The CustomResourceDefinitions, built from the models."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import yaml

from rung.api.base import GROUP, VALIDATIONS, VERSION, Column, Resource
from rung.api.parse import KINDS
from rung.api.schema import structural_schema

HEADER = "# Generated from operator/rung/api by `python -m rung.api crds crds`: change the models, not this file.\n"


def custom_resource_definition(model: type[Resource]) -> dict[str, Any]:
    """Return the CustomResourceDefinition of one kind."""
    names = model.NAMES
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{names.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": names.kind,
                "listKind": f"{names.kind}List",
                "plural": names.plural,
                "singular": names.singular,
                "shortNames": [names.short],
                "categories": ["rung"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [_column(column) for column in model.COLUMNS],
                    "schema": {"openAPIV3Schema": _root_schema(model)},
                }
            ],
        },
    }


@cache
def crd_files() -> Mapping[str, str]:
    """Return the text of every CRD by file name; the same for the same models."""
    files = {}
    for model in KINDS:
        definition = custom_resource_definition(model)
        text = yaml.dump(definition, Dumper=_WithoutAliases, sort_keys=False, width=120, allow_unicode=True)
        files[f"{definition['metadata']['name']}.yaml"] = HEADER + text
    return files


def _root_schema(model: type[Resource]) -> dict[str, Any]:
    parts = {
        name: {**structural_schema(model.part(name)), "description": model.model_fields[name].description}
        for name in ("spec", "status")
    }
    schema: dict[str, Any] = {
        "type": "object",
        "description": " ".join((model.__doc__ or "").split()),
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": "Version of the API that this object is written in."},
            "kind": {"type": "string", "description": f"Always {model.NAMES.kind}."},
            "metadata": {"type": "object"},
            **parts,
        },
    }
    if model.RULES:
        schema[VALIDATIONS] = [rule.as_dict() for rule in model.RULES]
    return schema


def _column(column: Column) -> dict[str, Any]:
    result: dict[str, Any] = {"name": column.name, "type": column.type, "jsonPath": column.json_path}
    if column.format:
        result["format"] = column.format
    result["description"] = column.description
    if column.priority:
        result["priority"] = column.priority
    return result


class _WithoutAliases(yaml.SafeDumper):
    """Writes a value in full each time: anchors are legal in YAML and unreadable in a CRD."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
