"""Every parameter of the API reaches the core: each is changed, and something in the core must change with it."""

from __future__ import annotations

from enum import Enum
from typing import Any, get_args

import pytest
from pydantic import TypeAdapter

from rung.api import PolicyName, PolicySpec, ServingPoolSpec, StaticParameters, StepwiseParameters
from rung.api.quantity import Duration
from rung.control.policies import build_policy, decide_settings, history_seconds
from rung.core.frontier import Metric
from rung.core.policies.frontier import Frontier
from rung.core.policies.infaas import InFaaS
from rung.core.policies.infadapter import InfAdapter
from rung.core.policies.model_switching import ModelSwitching
from rung.core.policies.proteus import Proteus
from rung.core.policies.static import Static
from rung.core.policies.stepwise import Stepwise
from rung.core.snapshot import PoolSnapshot

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
    assert build_policy(changed) != build_policy(PolicySpec(name=PolicyName.STEPWISE))


def test_the_defaults_are_those_of_the_core() -> None:
    built = {name: build_policy(PolicySpec(name=name)) for name in PolicyName}
    assert built == {
        PolicyName.FRONTIER: Frontier(),
        PolicyName.STEPWISE: Stepwise(),
        PolicyName.STATIC: Static(),
        PolicyName.MODEL_SWITCHING: ModelSwitching(),
        PolicyName.INFAAS: InFaaS(),
        PolicyName.INFADAPTER: InfAdapter(),
        PolicyName.PROTEUS: Proteus(),
    }
    assert all(policy.name == name.value for name, policy in built.items())
    assert PolicySpec().name is PolicyName.FRONTIER


@pytest.mark.parametrize(
    ("name", "block", "changed"),
    [
        ("Frontier", "frontier", {"lateShare": 0.01}),
        ("Frontier", "frontier", {"remember": "50s"}),
        ("Frontier", "frontier", {"upAfter": "9s"}),
        ("Frontier", "frontier", {"calibrate": False}),
        ("InFaaS", "infaas", {"quietVotes": 3}),
        ("InfAdapter", "infadapter", {"alpha": 0.1}),
        ("InfAdapter", "infadapter", {"beta": 0.1}),
        ("InfAdapter", "infadapter", {"every": "9s"}),
        ("InfAdapter", "infadapter", {"firstAfter": "9s"}),
        ("InfAdapter", "infadapter", {"reserve": 0.9}),
        ("InfAdapter", "infadapter", {"margin": 0.2}),
        ("InfAdapter", "infadapter", {"agreeing": 2}),
        ("InfAdapter", "infadapter", {"forecaster": "LastMaximum"}),
        ("InfAdapter", "infadapter", {"forecaster": "Lstm", "lstm": "/nowhere.onnx"}),
        ("Proteus", "proteus", {"every": "9s"}),
    ],
)
def test_each_parameter_reaches_the_policy(name: str, block: str, changed: dict[str, Any]) -> None:
    built = build_policy(PolicySpec.model_validate({"name": name, block: changed}))
    assert built != build_policy(PolicySpec.model_validate({"name": name}))


def test_a_network_that_is_not_there_is_told_and_replaced() -> None:
    block = {"forecaster": "Lstm", "lstm": "/nowhere.onnx"}
    policy = build_policy(PolicySpec.model_validate({"name": "InfAdapter", "infadapter": block}))
    plan, _ = policy.decide(PoolSnapshot(0.0, (), ()), {})
    (note,) = plan.notes
    assert note.startswith(
        "InfAdapter predicts with the exponential mean: the network /nowhere.onnx can't be read: No such"
    )


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
    assert history_seconds(parameters) >= seconds + 20


def test_the_two_enumerations_of_the_metric_agree() -> None:
    api = StepwiseParameters.model_fields["metric"].annotation
    assert isinstance(api, type)
    assert issubclass(api, Enum)
    assert [each.value for each in api] == [each.value for each in Metric]
    assert get_args(api) == ()


def test_the_reflex_has_one_rung_more_to_choose_from() -> None:
    def below(**spec: Any) -> int:
        return decide_settings(ServingPoolSpec.model_validate(POOL | spec)).standby_below

    assert (below(), below(reflex="On")) == (1, 2)
    assert (below(standby={"below": 0}), below(standby={"below": 0}, reflex="On")) == (0, 0), "who says it, has it"
