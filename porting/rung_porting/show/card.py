"""The model card of one version: Markdown beside its version.yaml. Pure: the same version gives the same bytes.

A card is written when the version is made, which is before anything was profiled, and never changed: what lies in the
bucket is not overwritten. `rung-port show --card` renders it again with the profiles of today.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from rung.api.porting import PortingPlan
from rung.api.version import ModelVersionSpec, Profile
from rung.core.repository_layout import CARD_FILE, CONFIG_FILE, MODEL_FILE
from rung_porting.errors import PortingError
from rung_porting.plan_file import parse_plan
from rung_porting.repository.folder import yaml_text
from rung_porting.show.markdown import code, plain, table

PLAN_SUFFIX = ".plan.yaml"
"""`run` writes the plan of a task beside its folder, as `TASK.plan.yaml`."""
_PLAN_BLOCK = re.compile(r"^(?P<fence>`{3,})yaml\n(?P<plan>task: .*?)\n(?P=fence)$", re.MULTILINE | re.DOTALL)


def card_text(
    spec: ModelVersionSpec,
    others: Sequence[ModelVersionSpec],
    config: str | None = None,
    plan: PortingPlan | None = None,
) -> str:
    """Return the card of a version.

    Args:
        spec: the version, with the profiles that shall be told.
        others: the versions of its task, in any order: its ancestors are looked up among them.
        config: the task's config.pbtxt.
        plan: what made it, if that is known.
    """
    task, number = spec.task_ref.name, spec.version
    parts = [
        f"# {plain(task)} {number}",
        f"A version of the task `{task}`, for [Triton](https://github.com/triton-inference-server/server), as an ONNX "
        "file.",
        table(("what", "value"), _facts(spec)),
        _accuracy(spec, plan),
        "## What it carries",
        _profiles(spec),
        "## Lineage",
        _lineage(spec, others),
        "## To load it in Triton",
        _loading(task, number),
        *([f"The task's `{CONFIG_FILE}`, the same for all of its versions:", code(config)] if config else []),
        "## To make it again",
        _making(task, plan),
    ]
    return "\n\n".join(parts) + "\n"


def plan_text(plan: PortingPlan) -> str:
    """Return a plan as the YAML that `rung-port run` takes; reading it gives the same plan."""
    return yaml_text(plan.to_json())


def plan_in_card(card: str, task: str) -> PortingPlan | None:
    """Find the plan that a card quotes; None where there is none of this task, or none that can be read."""
    for found in _PLAN_BLOCK.finditer(card):
        try:
            plan = parse_plan(found["plan"], CARD_FILE)
        except PortingError:
            continue
        if plan.task == task:
            return plan
    return None


def ancestors(spec: ModelVersionSpec, others: Sequence[ModelVersionSpec]) -> list[ModelVersionSpec]:
    """Return what a version was made from, the nearest first, as far as it is known; a ring is followed once."""
    by_name = {f"{each.task_ref.name}-{each.version}": each for each in others}
    found: list[ModelVersionSpec] = []
    seen = {spec.version}
    parent = spec.lineage.parent
    while parent in by_name and by_name[parent].version not in seen:
        found.append(by_name[parent])
        seen.add(found[-1].version)
        parent = found[-1].lineage.parent
    return found


def _facts(spec: ModelVersionSpec) -> list[tuple[str, str]]:
    lineage, accuracy = spec.lineage, spec.accuracy
    return [
        (plain(accuracy.metric), f"{accuracy.value:.3%}"),
        ("samples", f"{accuracy.samples:,}" if accuracy.samples else "not said"),
        ("data", plain(accuracy.dataset) if accuracy.dataset else "not said"),
        ("method", plain(lineage.method)),
        ("parameters", f"{lineage.parameters:,}" if lineage.parameters else "not said"),
        ("operations of one inference", f"{lineage.flops / 1e6:,.4g} MFLOP" if lineage.flops else "not said"),
        ("file", f"{MODEL_FILE}, {spec.artifact.bytes:,} bytes"),
        ("SHA-256", f"`{spec.artifact.sha256}`"),
    ]


def _accuracy(spec: ModelVersionSpec, plan: PortingPlan | None) -> str:
    if plan is None:
        return "The accuracy is what its version.yaml says."
    return "The accuracy was measured in ONNX Runtime, on this very file, on the test split, which no training saw."


def _profiles(spec: ModelVersionSpec) -> str:
    task, number = spec.task_ref.name, spec.version
    if not spec.profiles:
        return (
            "It was not profiled when this card was written, and cards are never changed. For a card with the profiles "
            f"of today:\n\n{code(f'rung-port show s3://BUCKET/PREFIX --card {task}/{number}', 'sh')}"
        )
    head = ("hardware class", "CPU", "SLO", "inferences/s", "p50", "p95", "p99", "CPU s", "memory", "load", "measured")
    rows = [_profile_row(profile) for profile in sorted(spec.profiles, key=lambda each: each.hardware_class)]
    return (
        f"{table(head, rows)}\n\n"
        "Inferences/s is the highest rate of random arrivals at which the answers keep the SLO; the latencies are "
        "those under 60 % of it; CPU s is what one inference costs."
    )


def _profile_row(profile: Profile) -> list[str]:
    latency, day = profile.latency, profile.profiled_at
    measured = [f"{day:%Y-%m-%d}" if day is not None else "", profile.tool or ""]
    cells: tuple[object, ...] = (
        profile.hardware_class,
        profile.cpu,
        profile.slo_latency,
        f"{profile.max_throughput:,.1f}",
        latency and latency.p50,
        latency and latency.p95,
        latency and latency.p99,
        profile.cpu_seconds_per_inference and f"{profile.cpu_seconds_per_inference:.3g}",
        profile.memory_bytes and f"{profile.memory_bytes / (1 << 20):,.0f} MiB",
        profile.load_time,
        " ".join(filter(None, measured)) or None,
    )
    return ["-" if cell is None else plain(cell) for cell in cells]


def _lineage(spec: ModelVersionSpec, others: Sequence[ModelVersionSpec]) -> str:
    chain = [spec, *ancestors(spec, others)]
    oldest = chain[-1].lineage.parent
    known = {f"{each.task_ref.name}-{each.version}" for each in chain}
    lines = [f"1. `{oldest}`, which is not in this ladder"] if oldest is not None and oldest not in known else []
    lines += [f"1. {_step(each)}" for each in reversed(chain)]
    return "\n".join(lines)


def _step(spec: ModelVersionSpec) -> str:
    lineage = spec.lineage
    told = [f"`{spec.task_ref.name}-{spec.version}`: {plain(lineage.method)}"]
    if lineage.sparsity is not None:
        told.append(f"{lineage.sparsity:.1%} of the weights removed")
    if lineage.epochs is not None:
        told.append(f"{lineage.epochs:g} epochs")
    if lineage.flops is not None:
        told.append(f"{lineage.flops / 1e6:,.4g} MFLOP")
    return ", ".join([*told, f"{plain(spec.accuracy.metric)} {spec.accuracy.value:.3%}"])


def _loading(task: str, number: int) -> str:
    commands = (
        f"mkdir -p models/{task}/{number}\n"
        f"cp {CONFIG_FILE} models/{task}/            # from the folder above this one\n"
        f"cp {MODEL_FILE} models/{task}/{number}/\n"
        f"tritonserver --model-repository=models --model-control-mode=explicit --load-model={task}"
    )
    return (
        f"{code(commands, 'sh')}\n\n"
        "Triton answers with the highest number that is there. With several versions in the folder, name this one in "
        f"the request (`/v2/models/{task}/versions/{number}/infer`) and let `{CONFIG_FILE}` load it: "
        f"`version_policy {{ specific {{ versions: [ {number} ] }} }}`. Under Rung all that is the operator's work."
    )


def _making(task: str, plan: PortingPlan | None) -> str:
    if plan is None:
        return "It is not known which plan made it."
    own = [source.import_ for source in (plan.model, plan.data) if source.import_ is not None]
    beside = f" Beside the plan have to lie the modules of {' and '.join(f'`{each}`' for each in own)}." if own else ""
    return (
        f"{code(f'rung-port run {task}{PLAN_SUFFIX} --output out/models', 'sh')}\n\n"
        f"It makes the whole ladder, this version in it. `{task}{PLAN_SUFFIX}` is this (`rung-port run` also writes it "
        f"into its output folder).{beside} The same seed gives the same search; other releases of the libraries, or "
        "another processor, may give slightly other weights, and so another number.\n\n"
        f"{code(plan_text(plan), 'yaml')}"
    )
