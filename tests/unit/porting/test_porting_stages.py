"""What comes of one recipe: a version for each value of the knob, and what all of its stages took."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = [pytest.mark.porting, pytest.mark.timeout(600)]
pytest.importorskip("torch", reason="needs the porting environment: make setup-porting")

from rung.api.porting import Allocation, Criterion, PortingPlan  # noqa: E402
from rung_porting.data.source import load_data  # noqa: E402
from rung_porting.export import judge  # noqa: E402
from rung_porting.recipe import Knob, Recipe, Turn  # noqa: E402
from rung_porting.stages import Workshop  # noqa: E402
from rung_porting.store import Store  # noqa: E402

HALF = Turn(
    sparsity=0.4,
    criterion=Criterion.L1,
    allocation=Allocation.UNIFORM,
    epochs=1,
    learning_rate_scale=0.5,
    distill=False,
)


def plan(knob: dict[str, Any], **methods: Any) -> PortingPlan:
    return PortingPlan.model_validate(
        {
            "task": "bursts",
            "model": {"builtin": "residual", "arguments": {"streams": [16, 32], "blocks": 1, "side": 8}},
            "data": {"builtin": "digits", "arguments": {"noise": 0.3, "dirt": 2}},
            "input": [4, 8, 8],
            "training": {"epochs": 3, "learningRate": 0.003},
            "methods": {"prune": {"roundTo": 1}, "knob": knob, **methods},
        }
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


def test_every_network_becomes_a_version_at_each_value_of_the_knob_without_training(store: Store) -> None:
    made_plan = plan({"argument": "frames", "values": [2, 1]})
    workshop = Workshop(made_plan, store)
    data = load_data(made_plan.data, made_plan.input, None, made_plan.seed)
    for recipe in (Recipe(), Recipe(turns=(HALF,))):
        found = workshop.outcome(recipe)
        assert (found.failure, found.notes) == (None, ())
        four, two, one = found.versions
        assert [version.recipe.knob for version in found.versions] == [
            None,
            Knob(argument="frames", value=2),
            Knob(argument="frames", value=1),
        ]
        assert four.flops == 2 * two.flops == 4 * one.flops
        assert four.parameters == two.parameters == one.parameters
        assert four.accuracy > one.accuracy + 0.05, "four noisy frames tell more than one"
        assert two.accuracy == judge(two.model, data, "test").accuracy
        assert two.sparsity is None, "no weight left"
    trained = [path for path in store.root.glob("bursts-*/entry.json") if "export" not in path.parent.name]
    assert len(trained) == 2, "one training and one pruning"


def test_int8_comes_with_the_knob_too(store: Store) -> None:
    quantized = plan({"argument": "frames", "values": [1]}, quantize={"minSpeedup": 1})
    found = Workshop(quantized, store).outcome(Recipe())
    kinds = {(version.method(), version.int8) for version in found.versions}
    whys = " ".join(found.notes)
    assert ("base+frames-1+int8", True) in kinds or "frames=1: INT8 is" in whys
    assert ("base+frames-1", False) in kinds


def test_an_argument_that_is_none_or_a_value_that_fits_none_is_an_error_that_says_so(store: Store) -> None:
    unknown = Workshop(plan({"argument": "farmes", "values": [1]}), store).outcome(Recipe())
    assert unknown.failure is not None
    assert unknown.failure.startswith("farmes=1: residual does not take these arguments: ")
    assert "'farmes'" in unknown.failure
    high = Workshop(plan({"argument": "frames", "values": [9]}), store).outcome(Recipe())
    assert high.failure is not None
    assert "frames must be from 1 to 4" in high.failure
    weights = Workshop(plan({"argument": "blocks", "values": [2]}), store).outcome(Recipe())
    assert weights.failure is not None
    assert weights.failure.startswith("blocks=2: what was kept has a layer ")
    assert weights.failure.endswith("that the network has not: it belongs to another one")


def test_a_value_that_makes_nothing_cheaper_is_no_version(store: Store) -> None:
    found = Workshop(plan({"argument": "frames", "values": [4, 2]}), store).outcome(Recipe())
    assert [version.method() for version in found.versions] == ["base", "base+frames-2"]
    assert found.notes == ("base+frames-4 needs no fewer operations than without: it is no version of its own",)


def test_what_it_took_counts_every_turn_once_and_is_the_same_from_the_store(store: Store) -> None:
    two_turns = Recipe(turns=(HALF, HALF))
    made_plan = plan({"argument": "frames", "values": [1]})
    found = Workshop(made_plan, store).outcome(two_turns)
    stages = sorted(name.split("-")[0] for name in found.spent)
    assert stages == ["export", "export", "prune", "prune", "train"]
    assert all(seconds > 0 for seconds in found.spent.values())
    assert Workshop(made_plan, Store(store.root, only_look=True)).outcome(two_turns) == found
