"""The pictures of simulations, drawn with matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rung.core.frontier import normalized_accuracy
from rung_sim.comparison import Result
from rung_sim.engine import Floats

COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#000000",
    "#8c6d31",
    "#7f7f7f",
    "#a63603",
    "#54278f",
    "#00441b",
)
"""Okabe and Ito's, which people who see colours differently can tell apart, and some more."""
MARKERS = "osD^vP*Xh<>"
LEAST_LATE = 1e-5
"""No late answer at all is drawn here, on an axis that has no zero."""


def scatter(points: Mapping[str, Sequence[tuple[float, float]]], title: str = "") -> Figure:
    """Draw late share over normalised accuracy: by label, (late share, accuracy) of each setting."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes: Axes = figure.subplots()
    for place, (label, settings) in enumerate(points.items()):
        late = [max(LEAST_LATE, share) for share, _ in settings]
        accuracy = [100 * each for _, each in settings]
        axes.plot(
            accuracy, [100 * share for share in late], marker=MARKERS[place % len(MARKERS)], markersize=8,
            color=COLOURS[place % len(COLOURS)], linestyle="-" if len(settings) > 1 else "", linewidth=1, label=label,
        )  # fmt: skip
    none = any(share < LEAST_LATE for settings in points.values() for share, _ in settings)
    late_label = f"late answers, %{f' (none: at {100 * LEAST_LATE:g})' if none else ''}"
    axes.set(yscale="log", xlabel="mean normalised accuracy, %", ylabel=late_label, title=title)
    axes.grid(True, which="both", color="#e5e5e5", linewidth=0.6)
    axes.legend(fontsize=8, loc="best")
    return figure


def timeline(result: Result, rates_rps: Mapping[str, Floats]) -> Figure:
    """Draw one run: demand, the accuracy of what answered, utilisation, and late answers, over time."""
    run = result.run
    figure = Figure(figsize=(10, 8), layout="constrained")
    demand, accuracy, cpu, late = figure.subplots(4, 1, sharex=True)
    seconds = np.arange(run.utilization.shape[0])
    for place, task in enumerate(run.world.tasks):
        state, colour = task.state, COLOURS[place % len(COLOURS)]
        demand.plot(rates_rps[state.name], color=colour, linewidth=0.8, label=state.name)
        worth = {version.number: normalized_accuracy(version, state) for version in state.versions}
        shown = np.vectorize(lambda number, worth=worth: worth.get(int(number), np.nan))(run.active[:, :, place])
        accuracy.plot(
            seconds, 100 * np.nanmean(shown.astype(float), axis=1), color=colour, linewidth=1, drawstyle="steps-post"
        )
    cpu.plot(seconds, 100 * run.utilization, linewidth=0.6, color="#7f7f7f")
    limits = np.array([task.state.slo_latency_seconds for task in run.world.tasks])[run.task]
    too_late = run.latency_seconds > limits
    counts = np.bincount(run.arrival_seconds[too_late].astype(int), minlength=seconds.size)[: seconds.size]
    late.bar(seconds, counts, width=1.0, color="#d55e00")
    demand.set(ylabel="requests/s", title=f"{result.label}: {100 * result.outcome.late_share:.3f} % late")
    demand.legend(fontsize=8, ncols=6)
    accuracy.set(ylabel="norm. accuracy, %")
    cpu.set(ylabel="CPU, %", ylim=(0, 110))
    late.set(ylabel="late answers/s", xlabel="seconds")
    for axes in (demand, accuracy, cpu, late):
        axes.grid(True, color="#e5e5e5", linewidth=0.6)
    return figure


def shares_over_time(shares: Mapping[str, Floats], bin_seconds: int, title: str) -> Figure:
    """Draw late shares by time: the neighbour comes a minute after the beginning and stays for one."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes: Axes = figure.subplots()
    for place, (label, share) in enumerate(shares.items()):
        seconds = np.arange(share.size) * bin_seconds - 60
        axes.step(seconds, 100 * share, where="post", color=COLOURS[place % len(COLOURS)], label=label)
    axes.axvspan(0, 60, color="#eeeeee", zorder=0)
    axes.set(xlabel="seconds since the neighbour came", ylabel="late answers, %", title=title)
    axes.grid(True, color="#e5e5e5", linewidth=0.6)
    axes.legend(fontsize=8)
    return figure


def growth(rows: Sequence[tuple[float, float]], across: str, up: str) -> Figure:
    """Draw how a time grows with a size, both on logarithmic axes, and what growth in proportion would be."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes: Axes = figure.subplots()
    sizes, times = zip(*rows, strict=True)
    axes.loglog(sizes, times, marker="o", color=COLOURS[0], label="measured")
    axes.loglog(
        sizes, [times[0] * size / sizes[0] for size in sizes], color="#7f7f7f", linestyle=":", label="in proportion"
    )
    axes.set(xlabel=across, ylabel=up)
    axes.grid(True, which="both", color="#e5e5e5", linewidth=0.6)
    axes.legend(fontsize=8)
    return figure
