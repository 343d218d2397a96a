"""The chart's values: every one is used by a template and stands in the schema, and nothing else does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

CHART = Path(__file__).parents[3] / "charts/rung"
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
TEMPLATES = "\n".join(path.read_text() for path in (CHART / "templates").rglob("*") if path.is_file())
FREE = {"nodeSelector", "resources", "policy", "labels", "podAnnotations", "serviceAccountAnnotations", "podLabels"}
"""Values that a user fills with names of their own; they are passed on as they are."""


def leaves(values: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in values.items():
        if isinstance(value, dict) and name not in FREE:
            yield from leaves(value, (*path, name))
        else:
            yield (*path, name)


@pytest.mark.parametrize("path", [*leaves(VALUES)], ids=".".join)
def test_every_value_is_used_by_a_template(path: tuple[str, ...]) -> None:
    used = [".".join(path[:depth]) for depth in range(len(path), 1, -1)] or [path[0]]
    assert any(re.search(rf"\.Values\.{re.escape(name)}(?![\w.])", TEMPLATES) for name in used)


def test_every_value_of_a_template_is_in_the_values() -> None:
    known = {".".join(path[:depth]) for path in leaves(VALUES) for depth in range(1, len(path) + 1)}
    used = set(re.findall(r"\.Values\.([\w.]+)", TEMPLATES))
    assert used - known == set()


@pytest.mark.parametrize("path", [*leaves(VALUES)], ids=".".join)
def test_the_schema_knows_every_value_and_nothing_else(path: tuple[str, ...]) -> None:
    found = SCHEMA
    for name in path:
        assert found.get("additionalProperties") is False, f"a typo beside {name} would be taken"
        found = found["properties"][name]


def test_the_values_have_every_property_of_the_schema() -> None:
    def properties(schema: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
        for name, below in schema.get("properties", {}).items():
            if below.get("additionalProperties") is False and name not in FREE:
                yield from properties(below, (*path, name))
            else:
                yield (*path, name)

    # Helm itself gives every chart the value `global`.
    assert set(properties(SCHEMA)) - {("global",)} == set(leaves(VALUES))


def test_the_golden_of_the_demo_is_that_of_the_demo() -> None:
    golden = yaml.safe_load((CHART.parent / "goldens/demo.values.yaml").read_text())
    assert golden == yaml.safe_load((CHART.parents[1] / "examples/demo/values.yaml").read_text())


def test_the_examples_use_the_images_of_this_version() -> None:
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    texts = [path.read_text() for path in (CHART.parents[1] / "examples").rglob("*.yaml")]
    tags = {tag for text in texts for tag in re.findall(r"image: localhost/rung/[\w-]+:(\S+)", text)}
    assert tags == {version}
