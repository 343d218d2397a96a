"""How the requests of each task are best split over unlike servers: exactly, as a linear program.

Shares and versions belong together: a server that is twice as fast may carry twice the requests on the same version, or
as many on a better one. So both are found at once: for every version of every task on every server, the part of the
task's requests that it answers. Worth are the accuracies that requests get, less a little for the load of the fullest
server (so that what is left over is even) and for every share that moves. Solved by HiGHS (Huangfu and Hall,
"Parallelizing the dual revised simplex method", 2018).

A server answers a task by one version at a time, which the program does not know: at its optimum at most as many tasks
as there are servers have more than one somewhere. `Split.worth` is therefore what no split and no allocation can pass,
and each server's own allocation (`core.allocation`, exact for what it is given) comes near.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import highspy
import numpy as np
import numpy.typing as npt

# Its wrapper for modelling prints a banner when it is made, which nothing can keep from the log.
from highspy._core import _Highs

EVEN = 0.1
"""A share of its cores that the fullest server is less used is worth so much accuracy of a task."""
MOVE = 0.04
"""And a task whose requests all go elsewhere has to gain this."""
OVERLOAD = 100.0
"""Beyond what is planned: nothing is worth it while there is another way."""

Place = tuple[int, int]
"""Task and server, by their numbers."""


class Option(NamedTuple):
    """One version of one task on one server: what it is worth to all requests of the task, CPU-seconds of each."""

    task: int
    server: int
    worth: float
    cpu_seconds: float


@dataclass(frozen=True, slots=True)
class Split:
    """What was found: shares by place, those of a task summing to 1.

    `worth` is the sum of the accuracies; `fullest` the load of the fullest server by what is planned of it.
    """

    shares: Mapping[Place, float]
    worth: float
    fullest: float


def best_split(
    demand_rps: Sequence[float],
    planned_cores: Sequence[float],
    options: Sequence[Option],
    now: Mapping[Place, float] | None = None,
) -> Split | None:
    """Return the best split; None where there is nothing to choose from, or the solver has no answer.

    Args:
        demand_rps: of each task, over all servers.
        planned_cores: of each server, above 0.
        options: what may answer where; a task without any gets no share.
        now: the shares at present, by place; None: none are known, and every split is as near.
    """
    if not options:
        return None
    places: dict[Place, list[int]] = {}
    for number, option in enumerate(options):
        places.setdefault((option.task, option.server), []).append(number)
    tasks = sorted({task for task, _ in places})
    worth = np.array([option.worth for option in options])
    scale = max(float(worth.mean()), 1e-9)
    # Variables: the parts, the load of the fullest server up to what is planned, what passes that, and what moves.
    used, over, moved = len(options), len(options) + 1, len(options) + 2
    count = moved + (len(places) if now is not None else 0)
    gain = np.concatenate([worth, [-EVEN * scale, -OVERLOAD * scale * len(tasks)], np.zeros(count - moved)])
    most = np.concatenate([np.ones(used + 1), [np.inf], np.ones(count - moved)])
    rows = _Rows()
    for task in tasks:
        rows.add({n: 1.0 for (one, _), mine in places.items() if one == task for n in mine}, 1.0, 1.0)
    for server, cores in enumerate(planned_cores):
        load = {
            n: demand_rps[option.task] * option.cpu_seconds / cores
            for n, option in enumerate(options)
            if option.server == server
        }
        rows.add(load | {used: -1.0, over: -1.0}, -np.inf, 0.0)
    for number, (place, mine) in enumerate(places.items() if now is not None else ()):
        had, move = (now or {}).get(place, 0.0), moved + number
        gain[move] = -MOVE / 2 * max(worth[mine].max(), 0.0)
        rows.add(dict.fromkeys(mine, 1.0) | {move: -1.0}, -np.inf, had)
        rows.add(dict.fromkeys(mine, -1.0) | {move: -1.0}, -np.inf, -had)
    values = _solved(gain, most, rows)
    if values is None:
        return None
    parts = np.clip(values[:used], 0.0, 1.0)
    shares = {place: float(parts[mine].sum()) for place, mine in places.items()}
    return Split(shares, float(parts @ worth), float(values[used] + values[over]))


class _Rows:
    """The constraints of a linear program, row by row."""

    def __init__(self) -> None:
        self.starts, self.columns, self.factors = [0], list[int](), list[float]()
        self.least, self.most = list[float](), list[float]()

    def add(self, factors: Mapping[int, float], least: float, most: float) -> None:
        self.columns += factors.keys()
        self.factors += factors.values()
        self.starts.append(len(self.columns))
        self.least.append(least)
        self.most.append(most)


def _solved(
    gain: npt.NDArray[np.float64], most: npt.NDArray[np.float64], rows: _Rows
) -> npt.NDArray[np.float64] | None:
    """Return the values of variables from 0 to `most` that gain most; None where the solver finds none."""
    program = highspy.HighsLp()
    program.sense_ = highspy.ObjSense.kMaximize
    program.num_col_, program.num_row_ = len(gain), len(rows.most)
    program.col_cost_, program.col_lower_, program.col_upper_ = gain, np.zeros(len(gain)), most
    program.row_lower_, program.row_upper_ = np.array(rows.least), np.array(rows.most)
    matrix = program.a_matrix_
    matrix.format_ = highspy.MatrixFormat.kRowwise
    matrix.num_col_, matrix.num_row_ = program.num_col_, program.num_row_
    matrix.start_, matrix.index_ = np.array(rows.starts, np.int32), np.array(rows.columns, np.int32)
    matrix.value_ = np.array(rows.factors)
    solver = _Highs()
    for name, value in (("output_flag", False), ("threads", 1)):
        solver.setOptionValue(name, value)
    solver.passModel(program)
    solver.run()
    if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        return None
    return np.array(solver.getSolution().col_value, dtype=np.float64)
