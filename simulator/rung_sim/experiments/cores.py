"""Experiment 3: InfAdapter's own evaluation, and Frontier on the same."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from rung.adapters.lstm import open_forecaster
from rung.core.forecast import LastMaximum
from rung.core.policies.frontier import Frontier
from rung_loadgen.arrivals import poisson_arrivals
from rung_sim import figures
from rung_sim.experiments import setting
from rung_sim.experiments.page import Page, Table
from rung_sim.experiments.setting import mean_and_interval
from rung_sim.scalers import InfAdapterScaler, PolicyScaler, VpaScaler
from rung_sim.scaling import Scaled, ScaledVersion, Scaler, Wanted, replay

BUDGET, SLO_SECONDS = 20, 0.5
ACCURACY = {"resnet18": 0.69758, "resnet34": 0.73314, "resnet50": 0.7613, "resnet101": 0.77374, "resnet152": 0.78312}
LOAD_SECONDS = {"resnet18": 6.44, "resnet34": 6.79, "resnet50": 6.82, "resnet101": 7.77, "resnet152": 8.52}
SLOPE = {"resnet18": 24.446, "resnet34": 13.044, "resnet50": 10.321, "resnet101": 5.090, "resnet152": 3.815}
INTERCEPT = {"resnet18": -6, "resnet34": -1, "resnet50": -3, "resnet101": 0, "resnet152": -2}
START_CORES = {"resnet18": 8, "resnet34": 12, "resnet50": 14, "resnet101": 20, "resnet152": 20}


def read_versions(path: Path) -> list[ScaledVersion]:
    """Return the five networks: capacities by the paper's regression, service times by the measured saturation."""
    saturation: dict[str, dict[int, float]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["sla_ms"] == f"{1000 * SLO_SECONDS:.0f}" and row["saturation_rps"]:
                saturation.setdefault(row["model"], {})[int(row["cores"])] = float(row["saturation_rps"])
    versions = []
    for name, accuracy in ACCURACY.items():
        measured = saturation[name]
        capacity = [0.0, 0.0, *(0.8 * (SLOPE[name] * n + INTERCEPT[name]) for n in range(2, BUDGET + 1))]
        service = [1.0, *(n / measured[n] for n in range(1, BUDGET + 1))]
        versions.append(ScaledVersion(name, accuracy, LOAD_SECONDS[name], tuple(capacity), tuple(service)))
    return versions


def _contenders(
    versions: Sequence[ScaledVersion], lstm: Path | None
) -> list[tuple[str, Callable[[], Scaler], Wanted, bool]]:
    def alone(name: str, cores: int) -> Wanted:
        number = list(ACCURACY).index(name)
        return Wanted({number: cores}, {number: 1.0})

    found: list[tuple[str, Callable[[], Scaler], Wanted, bool]] = [
        ("InfAdapter", lambda: InfAdapterScaler(versions), alone("resnet50", 14), False),
        (
            "InfAdapter, last maximum",
            lambda: InfAdapterScaler(versions, forecaster=LastMaximum(1)),
            alone("resnet50", 14),
            False,
        ),
        ("InfAdapter, alpha 0.2", lambda: InfAdapterScaler(versions, alpha=0.2), alone("resnet50", 14), False),
        ("Model-Switching", lambda: InfAdapterScaler(versions, one_version=True), alone("resnet50", 14), False),
    ]
    if lstm is not None:
        trained = open_forecaster(str(lstm))
        found.insert(
            1,
            ("InfAdapter, LSTM", lambda: InfAdapterScaler(versions, forecaster=trained), alone("resnet50", 14), False),
        )
    for number, name in enumerate(ACCURACY):
        start = alone(name, START_CORES[name])
        found.append((f"VPA, {name}", lambda number=number: VpaScaler(number), start, False))  # type: ignore[misc]
    found.append(
        ("Frontier", lambda: PolicyScaler(versions, Frontier(), BUDGET, SLO_SECONDS), alone("resnet50", BUDGET), True)
    )
    return found


def infadapter(data: Path, seeds: Sequence[int], say: Callable[[str], None], lstm: Path | None = None) -> Page:
    """Experiment 3; `lstm` is a network that `rung-port forecaster` trained."""
    rates = setting.trace(setting.need(data, setting.TWITTER_EVAL))
    versions = read_versions(setting.need(data, setting.CAPACITIES))
    rows = []
    late_by: dict[str, list[tuple[float, float]]] = {}
    costs: dict[str, tuple[float, float]] = {}
    best = max(ACCURACY.values())
    for label, make, start, in_place in _contenders(versions, lstm):
        runs: list[Scaled] = [
            replay(
                versions, poisson_arrivals(rates, np.random.default_rng([2023, seed])), rates.size, make(), start,
                in_place=in_place,
            )
            for seed in seeds
        ]  # fmt: skip
        say(label)
        late, half = mean_and_interval([100 * float((run.latency_seconds > SLO_SECONDS).mean()) for run in runs])
        accuracy, _ = mean_and_interval([float(run.accuracy.mean()) for run in runs])
        cores, _ = mean_and_interval([run.core_seconds / rates.size for run in runs])
        p99, _ = mean_and_interval([float(np.percentile(run.latency_seconds, 99)) for run in runs])
        changes, _ = mean_and_interval([float(run.changes) for run in runs])
        rows.append(
            [label, f"{late:.2f} ± {half:.2f}", f"{100 * accuracy:.2f}", f"{100 * (best - accuracy):.2f}",
             f"{cores:.1f}", f"{p99:.2f}", f"{changes:.0f}"]
        )  # fmt: skip
        late_by.setdefault(label, []).append((late / 100, accuracy / best))
        costs[label] = (late, cores)
    name = "InfAdapter, LSTM" if lstm is not None else "InfAdapter"
    mine, vpa = costs[name], {name: each for name, each in costs.items() if name.startswith("VPA")}
    worst = max(vpa, key=lambda name: vpa[name][0])
    dearest = max(vpa, key=lambda name: vpa[name][1])
    return Page(
        title="InfAdapter's evaluation",
        question=(
            "The 1,260 s of the Twitter trace on which InfAdapter was evaluated (27 to 274 requests a second), five "
            f"ResNets with its capacities and load times, {BUDGET} cores, answers due in {SLO_SECONDS:g} s; "
            f"{len(seeds)} seeds. Cores are paid for from the beginning of a pod on. Frontier scales nothing: it swaps "
            "versions in place on all twenty cores, which are there anyway on an edge server."
        ),
        command='make experiment NAME=infadapter ARGS="--lstm forecaster.onnx"  # of `rung-port forecaster TRACE`',
        tables=[
            Table(
                ["policy", "late, %", "accuracy, %", "accuracy lost, points", "cores, mean", "p99, s", "changes"], rows
            )
        ],
        figures={"infadapter": figures.scatter(late_by, "Late answers over accuracy (normalised to ResNet-152)")},
        findings=[
            f"{name} has {100 * (1 - mine[0] / max(vpa[worst][0], 1e-9)):.0f} % fewer late answers than {worst}, "
            f"and uses {100 * (1 - mine[1] / vpa[dearest][1]):.0f} % fewer cores than {dearest}; the paper says up to "
            "65 % fewer and up to 33 % less.",
        ],
    )
