"""The configuration override that a load carries."""

from __future__ import annotations

import json

import pytest

from rung.adapters.triton import Refused, config_override, parse_config

TEXT = """
name: "digits"
backend: "onnxruntime"
max_batch_size: 8
version_policy { latest { num_versions: 3 } }
input [ { name: "x" data_type: TYPE_FP32 dims: [ 1, 8, 8 ] } ]
instance_group [ { count: 2 kind: KIND_CPU } ]
parameters { key: "k" value { string_value: "v" } }
dynamic_batching { max_queue_delay_microseconds: 100 }
"""


def test_the_override_is_the_whole_configuration_with_other_versions() -> None:
    override = json.loads(config_override(TEXT, frozenset({1098820, 2})))
    assert override == {
        "name": "digits",
        "backend": "onnxruntime",
        "max_batch_size": 8,
        "version_policy": {"specific": {"versions": ["2", "1098820"]}},
        "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": ["1", "8", "8"]}],
        "instance_group": [{"count": 2, "kind": "KIND_CPU"}],
        "parameters": {"k": {"string_value": "v"}},
        "dynamic_batching": {"max_queue_delay_microseconds": "100"},
    }


def test_the_parsed_text_is_not_changed_by_overriding_it() -> None:
    config_override(TEXT, frozenset({1}))
    assert parse_config(TEXT).version_policy.latest.num_versions == 3


@pytest.mark.parametrize("text", ["max_batch_size: many", "no_such_field: 1", "{", "name: 'a' name: 'b'", "\x00"])
def test_a_text_that_is_no_configuration_is_refused(text: str) -> None:
    with pytest.raises(Refused, match=r"config\.pbtxt can't be read"):
        config_override(text, frozenset({1}))


def test_a_configuration_for_no_version_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="no version"):
        config_override(TEXT, frozenset())
