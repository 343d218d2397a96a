"""Every parameter of the API reaches the core: each is changed, and something in the core must change with it."""

from __future__ import annotations

from enum import Enum
from typing import Any, get_args

import pytest
from pydantic import TypeAdapter

from rung.api import PolicySpec, ServingPoolSpec, StaticParameters, StepwiseParameters
from rung.api.quantity import Duration
from rung.control.policies import build_policy, decide_settings, history_seconds
from rung.core.frontier import Metric
from rung.core.policies.stepwise import Stepwise

POOL: dict[str, Any] = {
    "serverSelector": {"rung.dev/pool": "edge"},
    "metrics": {"prometheusUrl": "http://prometheus:9090"},
}
OTHER: dict[str, Any] = {"choice": "Cheapest", "versions": {"digits": 3}, "metric": "Latency", "goal": 0.6}


def _other(name: str, value: object) -> object:
    """Another valid value of a parameter."""
    if name in OTHER:
        return OTHER[name]
    if isinstance(value, Duration):
        return f"{int(value.seconds) + 1}s"
    assert isinstance(value, float)
    return value * 1.05


@pytest.mark.parametrize("name", StepwiseParameters.model_fields)
def test_each_parameter_of_stepwise_reaches_the_policy(name: str) -> None:
    field = StepwiseParameters.model_fields[name]
    alias = field.alias or name
    changed = PolicySpec.model_validate({"name": "Stepwise", "stepwise": {alias: _other(name, field.default)}})
    assert build_policy(changed) != build_policy(PolicySpec())


def test_the_defaults_are_those_of_the_core() -> None:
    assert build_policy(PolicySpec()) == Stepwise()


@pytest.mark.parametrize("name", StaticParameters.model_fields)
def test_each_parameter_of_static_reaches_the_policy(name: str) -> None:
    block = {name: OTHER[name]} if name != "versions" else {"choice": "Version", "versions": OTHER["versions"]}
    other = block if name != "versions" else {"choice": "Version", "versions": {"digits": 4}}
    changed = build_policy(PolicySpec.model_validate({"name": "Static", "static": block}))
    default = {"name": "Static"} if name != "versions" else {"name": "Static", "static": other}
    assert changed != build_policy(PolicySpec.model_validate(default))


@pytest.mark.parametrize(
    "change",
    [
        {"mode": "Recommend"},
        {"metrics": {"prometheusUrl": "http://prometheus:9090", "maxAge": "7s"}},
        {"fallback": {"after": "7s"}},
        {"fallback": {"behavior": "Cheapest"}},
        {"standby": {"below": 3}},
    ],
)
def test_what_every_policy_obeys_reaches_the_core(change: dict[str, Any]) -> None:
    spec = TypeAdapter(ServingPoolSpec).validate_python({**POOL, **change})
    assert decide_settings(spec) != decide_settings(TypeAdapter(ServingPoolSpec).validate_python(POOL))


@pytest.mark.parametrize(("judge", "least"), [("1s", 1), ("2s", 1), ("4s", 2), ("10s", 5), ("2m", 5)])
def test_a_short_time_asks_for_fewer_samples_and_a_long_one_reads_more(judge: str, least: int) -> None:
    spec = PolicySpec.model_validate({"name": "Stepwise", "stepwise": {"judge": judge}})
    parameters: Any = build_policy(spec)
    seconds = Duration(judge).seconds
    assert parameters.parameters.min_samples == least
    assert parameters.parameters.window_seconds >= seconds
    assert history_seconds(spec) >= seconds + 20


def test_the_two_enumerations_of_the_metric_agree() -> None:
    api = StepwiseParameters.model_fields["metric"].annotation
    assert isinstance(api, type)
    assert issubclass(api, Enum)
    assert [each.value for each in api] == [each.value for each in Metric]
    assert get_args(api) == ()
