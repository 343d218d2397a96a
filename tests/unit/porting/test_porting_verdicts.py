"""Which versions of a search survive, and what is written of them."""

from __future__ import annotations

from pathlib import Path

from rung.api.porting import Allocation, Criterion, PortingPlan
from rung_porting.ladder_files import judge_versions, version_spec
from rung_porting.outcome import Made
from rung_porting.recipe import Knob, Recipe, Turn

PLAN = PortingPlan.model_validate(
    {
        "task": "digits",
        "generation": 2,
        "model": {"builtin": "residual"},
        "data": {"builtin": "digits"},
        "input": [1, 8, 8],
        "targets": {"minAccuracy": 0.5},
    }
)


def turn(sparsity: float, *, distill: bool = False) -> Turn:
    return Turn(
        sparsity=sparsity,
        criterion=Criterion.TAYLOR,
        allocation=Allocation.UNIFORM,
        epochs=2,
        learning_rate_scale=1.0,
        distill=distill,
    )


def made(recipe: Recipe, accuracy: float, flops: int, *, int8: bool = False, model: Path = Path("none")) -> Made:
    return Made(recipe, int8, model, accuracy, accuracy, 700, 0.001, 1000, flops, 3, 0.4 if recipe.turns else None, 0)


BASE, HALF = Recipe(), Recipe(turns=(turn(0.5),))
QUARTER = Recipe(turns=(turn(0.5), turn(0.5, distill=True)))


def test_the_beaten_are_left_out_with_the_reason_and_int8_is_judged_among_itself() -> None:
    versions = [
        made(BASE, 0.9, 1000),
        made(HALF, 0.8, 300),
        made(QUARTER, 0.85, 250),
        made(BASE, 0.89, 1000, int8=True),
        made(QUARTER, 0.84, 250, int8=True),
        made(Recipe(turns=(turn(0.9),)), 0.3, 10),
    ]
    verdicts = judge_versions(PLAN, versions)
    assert [verdict.number for verdict in verdicts] == [2_090_000, None, 2_085_000, 2_089_000, 2_084_000, None]
    assert verdicts[1].why == "beaten by taylor+distilled: 85.00% at 0.00025 MFLOP, against 80.00% at 0.0003"
    assert verdicts[5].why == "30.00% is below the plan's minAccuracy"


def test_the_unpruned_network_survives_even_where_a_smaller_one_is_better() -> None:
    verdicts = judge_versions(PLAN, [made(BASE, 0.9, 1000), made(HALF, 0.95, 300)])
    assert [verdict.number for verdict in verdicts] == [2_090_000, 2_095_000]


def test_no_more_than_the_plan_wants_are_published_and_the_ends_and_the_unpruned_network_stay() -> None:
    plan = PLAN.model_copy(update={"targets": PLAN.targets.model_copy(update={"max_versions": 3})})
    versions = [
        made(BASE, 0.89, 1000),  # beaten, and stays
        made(HALF, 0.9, 500),
        made(QUARTER, 0.895, 450),  # hardly cheaper than the one above it
        made(BASE, 0.7, 100, int8=True),
    ]
    verdicts = judge_versions(plan, versions)
    assert [verdict.number for verdict in verdicts] == [2_089_000, 2_090_000, None, 2_070_000]
    assert verdicts[2].why == "the plan keeps 3, and the frontier loses least without this one"


def test_a_turned_knob_is_a_version_of_its_own_whose_parent_is_the_same_network_with_the_knob_as_it_was(
    tmp_path: Path,
) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(b"network")
    two = Knob(argument="frames", value=2)
    versions = [
        made(BASE, 0.9, 1000, model=model),
        made(Recipe(knob=two), 0.8, 125, model=model),
        made(HALF.model_copy(update={"knob": two}), 0.7, 40, model=model),
    ]
    verdicts = judge_versions(PLAN, versions)
    assert all(verdict.number for verdict in verdicts)
    turned, pruned = (version_spec(PLAN, verdict, verdicts)["lineage"] for verdict in verdicts[1:])
    assert (turned["method"], turned["parent"]) == ("base+frames-2", "digits-2090000")
    assert (pruned["method"], pruned["parent"]) == ("taylor+frames-2", "digits-2090000")


def test_lineage_names_the_nearest_ancestor_that_survived(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(b"network")
    versions = [
        made(BASE, 0.9, 1000, model=model),
        made(HALF, 0.8, 300, model=model),
        made(QUARTER, 0.85, 250, model=model),
        made(QUARTER, 0.84, 250, int8=True, model=model),
    ]
    verdicts = judge_versions(PLAN, versions)
    pruned, quantised = (version_spec(PLAN, verdicts[index], verdicts)["lineage"] for index in (2, 3))
    assert pruned["parent"] == "digits-2090000", "the one between them was left out"
    assert (pruned["method"], quantised["method"]) == ("taylor+distilled", "taylor+distilled+int8")
    assert quantised["parent"] == "digits-2085000"
    assert version_spec(PLAN, verdicts[0], verdicts)["lineage"] == {
        "method": "base",
        "epochs": 3,
        "parameters": 1000,
        "flops": 1000,
    }
