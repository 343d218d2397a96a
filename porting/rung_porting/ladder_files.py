"""What a search leaves: the versions that are worth serving, numbered, in a folder; and the record of all trials."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rung.api.porting import PortingPlan
from rung_porting.errors import PortingError
from rung_porting.outcome import Made, Outcome
from rung_porting.recipe import Recipe
from rung_porting.repository.catalogue import spec_in_folder
from rung_porting.repository.folder import TensorShapes, config_text, version_numbers, write_config, write_version
from rung_porting.repository.ladder import Candidate, Rung, dominators, least_missed, number_versions
from rung_porting.show.card import PLAN_SUFFIX, card_text, plan_text
from rung_porting.store import file_sha256


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one version: its number where it survived, and why not where it did not."""

    made: Made
    number: int | None
    why: str


def judge_versions(plan: PortingPlan, versions: Sequence[Made]) -> list[Verdict]:
    """Say which versions survive, and number those.

    A version is left out when another one of the same arithmetic (float or INT8) is at least as accurate and needs no
    more floating-point operations; when its own INT8 version is as accurate; or when it is below the plan's least
    accuracy. Otherwise only measured throughput can decide between float and INT8, so both go on to the profiler. The
    unpruned network always survives.
    """
    left_out: dict[int, str] = {}
    for kind in (False, True):
        members = {index: made for index, made in enumerate(versions) if made.int8 is kind}
        rungs = [Rung(index, made.accuracy, float(made.flops)) for index, made in members.items()]
        for index, other in dominators(rungs).items():
            beaten, by = versions[index], versions[other]
            left_out[index] = (
                f"beaten by {by.method()}: {by.accuracy:.2%} at {by.flops / 1e6:.3g} MFLOP, "
                f"against {beaten.accuracy:.2%} at {beaten.flops / 1e6:.3g}"
            )
    by_recipe = {made.recipe: made for made in versions if made.int8}
    for index, made in enumerate(versions):
        int8 = by_recipe.get(made.recipe)
        if not made.int8 and int8 is not None and int8.accuracy >= made.accuracy:
            left_out.setdefault(index, f"its INT8 version is as accurate ({int8.accuracy:.2%}) and faster")
    for index, made in enumerate(versions):
        if made.accuracy < plan.targets.min_accuracy:
            left_out[index] = f"{made.accuracy:.2%} is below the plan's minAccuracy"
        elif made.recipe.is_base and not made.int8:
            left_out.pop(index, None)
    left_out |= _too_many(plan, {index: each for index, each in enumerate(versions) if index not in left_out})
    survivors = [index for index in range(len(versions)) if index not in left_out]
    numbers = number_versions(
        (Candidate(str(index), versions[index].accuracy, _cost(versions[index])) for index in survivors),
        plan.generation,
    )
    return [
        Verdict(made, numbers.get(str(index)), left_out.get(index, "survived")) for index, made in enumerate(versions)
    ]


def _too_many(plan: PortingPlan, survivors: Mapping[int, Made]) -> dict[int, str]:
    """Say which survivors are left out, so that no more than the plan wants stay; never the unpruned network."""
    most = plan.targets.max_versions
    rungs = [Rung(index, made.accuracy, _cost(made)) for index, made in survivors.items()]
    left_out: dict[int, str] = {}
    base = next((index for index, made in survivors.items() if made.recipe.is_base and not made.int8), None)
    while most is not None and len(rungs) > most:
        missed = least_missed(rungs, stays=base)
        if missed is None:
            break
        left_out[missed.number] = f"the plan keeps {most}, and the frontier loses least without this one"
        rungs.remove(missed)
    return left_out


def _cost(made: Made) -> float:
    return float(made.flops) * (0.5 if made.int8 else 1.0)  # only the order of equals


def write_ladder(plan: PortingPlan, outcomes: Sequence[Outcome], why_over: str, output: Path) -> tuple[int, ...]:
    """Write what survived into `output/TASK`, each version with its card; beside it the plan and what was tried.

    These are `output/TASK.plan.yaml`, which `rung-port run` takes again, and `output/TASK.search.json`.

    Returns:
        the versions that an earlier run left there, which stay.

    Raises:
        PortingError: other content is there, or the disk is full.
    """
    verdicts = judge_versions(plan, [version for outcome in outcomes for version in outcome.versions])
    classes = _classes(verdicts[0].made.model)
    shapes = TensorShapes("input", tuple(plan.input), "logits", (classes,))
    config = config_text(plan.task, shapes, plan.export.max_batch_size)
    specs = {each.number: version_spec(plan, each, verdicts) for each in verdicts if each.number is not None}
    cards = version_cards(plan, specs, config)
    try:
        write_config(output, plan.task, config)
        for verdict in verdicts:
            if verdict.number is not None:
                number = verdict.number
                write_version(output, plan.task, number, verdict.made.model, specs[number], cards[number])
        (output / f"{plan.task}{PLAN_SUFFIX}").write_text(plan_text(plan), encoding="utf-8")
        record = search_record(plan, outcomes, verdicts, why_over)
        (output / f"{plan.task}.search.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        return tuple(number for number in version_numbers(output / plan.task) if number not in specs)
    except OSError as error:
        raise PortingError(f"{error.filename or output}: {error.strerror}") from None


def version_cards(plan: PortingPlan, specs: Mapping[int, Mapping[str, Any]], config: str) -> dict[int, str]:
    """Return the model card of each version, by its number."""
    read = {number: spec_in_folder(f"{plan.task}-{number}", spec) for number, spec in specs.items()}
    return {number: card_text(spec, list(read.values()), config, plan) for number, spec in read.items()}


def _classes(model: Path) -> int:
    import onnx

    (output,) = onnx.load(model, load_external_data=False).graph.output
    return int(output.type.tensor_type.shape.dim[-1].dim_value)


def version_spec(plan: PortingPlan, verdict: Verdict, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Return what version.yaml holds: the `spec` of a ModelVersion without profiles, with a bare file name as uri."""
    made = verdict.made
    lineage: dict[str, Any] = {"method": made.method()}
    parent = _parent(verdict, verdicts)
    if parent is not None:
        lineage = {"parent": f"{plan.task}-{parent}", **lineage}
    if made.sparsity is not None:
        lineage["sparsity"] = round(min(1.0, max(0.0, made.sparsity)), 4)
    return {
        "taskRef": {"name": plan.task},
        "version": verdict.number,
        "artifact": {
            "uri": "model.onnx",
            "sha256": file_sha256(made.model),
            "bytes": made.model.stat().st_size,
        },
        "accuracy": {
            "metric": "accuracy",
            "value": round(made.accuracy, 6),
            "samples": made.samples,
            "dataset": f"{plan.data.builtin or plan.data.import_}, test split",
        },
        "lineage": {**lineage, "epochs": made.epochs, "parameters": made.parameters, "flops": made.flops},
    }


def _parent(verdict: Verdict, verdicts: Sequence[Verdict]) -> int | None:
    """Return the number of what a version was made from, or of the nearest ancestor that survived."""
    made = verdict.made
    numbers = {(each.made.recipe, each.made.int8): each.number for each in verdicts if each.number is not None}
    if made.int8 and (made.recipe, False) in numbers:
        return numbers[made.recipe, False]
    recipe = made.recipe.parent
    while recipe is not None:
        if (recipe, False) in numbers:
            return numbers[recipe, False]
        recipe = recipe.parent
    return None


def search_record(
    plan: PortingPlan, outcomes: Sequence[Outcome], verdicts: Sequence[Verdict], why_over: str
) -> dict[str, Any]:
    """Return what was tried, what survived, and why the rest did not; plain JSON."""
    by_made = {id(verdict.made): verdict for verdict in verdicts}
    trials = []
    seen: dict[Recipe, int] = {}
    counted: dict[str, float] = {}
    for index, outcome in enumerate(outcomes):
        judged = [by_made[id(version)] for version in outcome.versions]
        trials.append(
            {
                "trial": index,
                "recipe": outcome.recipe.model_dump(mode="json"),
                "sentence": _sentence(outcome.recipe, seen),
                "seconds": round(sum(taken for stage, taken in outcome.spent.items() if stage not in counted), 1),
                "failure": outcome.failure,
                "notes": list(outcome.notes),
                "versions": [_version_record(verdict) for verdict in judged],
            }
        )
        seen[outcome.recipe] = index
        counted |= outcome.spent
    return {"task": plan.task, "plan": plan.to_json(), "over": why_over, "trials": trials}


def _sentence(recipe: Recipe, seen: Mapping[Recipe, int]) -> str:
    """Describe a recipe by what was done since the nearest trial that it began with."""
    steps: list[str] = []
    while recipe.turns and recipe not in seen:
        steps.insert(0, recipe.turns[-1].sentence())
        recipe = recipe.parent or recipe
    start = f"#{seen[recipe]}" if recipe in seen else recipe.start()
    return "; ".join([start, *steps])


def _version_record(verdict: Verdict) -> dict[str, Any]:
    made = verdict.made
    return {
        "number": verdict.number,
        "verdict": verdict.why,
        "method": made.method(),
        "int8": made.int8,
        "knob": None if made.recipe.knob is None else made.recipe.knob.sentence(),
        "accuracy": made.accuracy,
        "validationAccuracy": made.validation_accuracy,
        "latencySeconds": made.latency_seconds,
        "parameters": made.parameters,
        "flops": made.flops,
        "epochs": made.epochs,
    }
