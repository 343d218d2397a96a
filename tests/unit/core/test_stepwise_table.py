"""Stepwise against its rules: given samples, the steps expected, worked out by hand.

Unless a row says otherwise there are two tasks on a server of class `pi`, with normalised accuracy = accuracy:

    digits  D0 .90 at 100/s (metric .010)   D1 .95 at 50/s (.020)   D2 1.00 at 20/s (.050)
    parity  P0 .80 at 200/s (metric .005)   P1 .92 at 40/s (.025)   P2 1.00 at 10/s (.100)

and digits is asked 6/s, parity 2/s. Slopes = accuracy lost / (metric saved x demand):

    D2>D1 .05/(.030x6=.18)=.278    P2>P1 .08/(.075x2=.15)=.533
    D1>D0 .05/(.010x6=.06)=.833    P1>P0 .12/(.020x2=.04)=3.00

so the chain, with its totals of metric x demand, is

    D2P2 .30+.20=.50 > D1P2 .12+.20=.32 > D1P1 .12+.05=.17 > D0P1 .06+.05=.11 > D0P0 .06+.01=.07
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from math import nan

import pytest

from rung.core.decide import Settings, decide
from rung.core.frontier import Metric
from rung.core.memory import PoolMemory, ServerMemory, write
from rung.core.plan import Code
from rung.core.policies.stepwise import Stepwise, StepwiseParameters
from rung.core.snapshot import PoolSnapshot, Profile, Sample, ServerState, TaskState, Version

NOW = 10_000.0


def version(number: int, accuracy: float, throughput: float) -> Version:
    # Latency in seconds and FLOPs get the very numbers of the inverse throughput, so one chain serves all metrics.
    return Version(
        number, accuracy, {"pi": Profile(throughput, latency_p95_seconds=1 / throughput)}, flops=1 / throughput
    )


D0, D1, D2 = 1_090_000, 1_095_000, 1_100_000
P0, P1, P2 = 1_080_000, 1_092_000, 1_100_000
DIGITS = TaskState("digits", (version(D0, 0.90, 100), version(D1, 0.95, 50), version(D2, 1.0, 20)), 0.4)
PARITY = TaskState("parity", (version(P0, 0.80, 200), version(P1, 0.92, 40), version(P2, 1.0, 10)), 0.4)


@dataclasses.dataclass(frozen=True)
class Row:
    name: str
    cpu: Sequence[float]
    """One sample a second, the last one now."""
    present: tuple[int, int]
    expected: tuple[int, int]
    codes: tuple[Code, Code]
    since: float = 100.0
    demand: tuple[float | None, float | None] = (6, 2)
    tasks: tuple[TaskState, TaskState] = (DIGITS, PARITY)
    metric: Metric = Metric.INVERSE_THROUGHPUT
    trusted: bool = True
    every_seconds: float = 1.0


DOWN, UP, STEADY = Code.STEP_DOWN, Code.STEP_UP, Code.STEADY
BOTTOM, TOP, NO_ROOM = Code.AT_BOTTOM, Code.AT_TOP, Code.NO_ROOM

ROWS = [
    # --- Step down: mean of the last 10 s above 70 %, first point at least 40 % below ---
    # .60 x .50 = .30; D1P2 .32 is above it, D1P1 .17 is the first that is not.
    Row("down from the best", [0.8] * 20, (D2, P2), (D1, P1), (DOWN, DOWN)),
    # .60 x .32 = .192: D1P1 .17. Digits stays where it is.
    Row("down, one task moves", [0.8] * 20, (D1, P2), (D1, P1), (STEADY, DOWN)),
    # .60 x .17 = .102: D0P1 .11 is above it, D0P0 .07.
    Row("down two points", [0.8] * 20, (D1, P1), (D0, P0), (DOWN, DOWN)),
    # .60 x .11 = .066: no point; the lowest, D0P0 .07, saves 36 % and is taken.
    Row("down to the bottom for less than 40 %", [0.8] * 20, (D0, P1), (D0, P0), (STEADY, DOWN)),
    Row("nothing below the bottom", [0.99] * 20, (D0, P0), (D0, P0), (BOTTOM, BOTTOM)),
    # Not a point of the chain: D2P1 = .30+.05 = .35; .60 x .35 = .21: D1P1 .17.
    Row("down from beside the chain", [0.8] * 20, (D2, P1), (D1, P1), (DOWN, STEADY)),
    # "Above 70 %": 70 % itself is not. 20 s since the change: too early for the rest.
    Row("70 % is not above 70 %", [0.7] * 20, (D2, P2), (D2, P2), (STEADY, STEADY), since=20),
    # (5 x .90 + 5 x .50) / 10 = .70 exactly: not above. With .52: .71.
    Row("the mean counts, not the peaks", [0.9, 0.5] * 10, (D2, P2), (D2, P2), (STEADY, STEADY), since=20),
    Row("a mean of 71 %", [0.9, 0.52] * 10, (D2, P2), (D1, P1), (DOWN, DOWN), since=20),
    # --- Windows: only the last 10 s are judged, 20 s are kept ---
    # Ten old samples at 100 % would make a mean of 80 % over 20 s; the last ten say 60 %.
    Row("old samples don't count", [1.0] * 10 + [0.6] * 10, (D2, P2), (D2, P2), (STEADY, STEADY)),
    Row("ten new samples do", [0.1] * 10 + [0.8] * 10, (D2, P2), (D1, P1), (DOWN, DOWN)),
    Row("four samples judge nothing", [0.99] * 4, (D2, P2), (D2, P2), (Code.STALE_METRICS,) * 2),
    # Every 2 s: times now, -2, -4, -6, -8 are within 10 s (-10 is not): five samples, enough.
    Row("a sample every two seconds", [0.8] * 6, (D2, P2), (D1, P1), (DOWN, DOWN), every_seconds=2),
    # Three of ten are no numbers: the mean of the other seven is .80.
    Row("NaN is left out", [0.8] * 7 + [nan] * 3, (D2, P2), (D1, P1), (DOWN, DOWN)),
    # --- Timers: nothing in the first 15 s; up and rebalance from 30 s on ---
    Row("14 s after a change", [0.99] * 20, (D2, P2), (D2, P2), (Code.SETTLING,) * 2, since=14),
    Row("15 s after a change", [0.99] * 20, (D2, P2), (D1, P1), (DOWN, DOWN), since=15),
    Row("29 s: too early to step up", [0.05] * 20, (D1, P1), (D1, P1), (STEADY, STEADY), since=29),
    # Predicted .17, observed .20 <= 1.2 x .17 = .204: trusted. .65/.20 = 3.25; 3.25 x .17 = .5525 > .50: the best.
    Row("30 s: up", [0.2] * 20, (D1, P1), (D2, P2), (UP, UP), since=30),
    # --- Step up: max of the last 10 s below 50 %; goal 65 %, multiplier, trust ---
    # One sample at 50 % is not below 50 %; chain point D1P1 is today's best at its load: nothing.
    Row("one sample at 50 %", [0.2] * 19 + [0.5], (D1, P1), (D1, P1), (STEADY, STEADY)),
    # Nine at .16 and one at .49: mean .193 <= .204, trusted; .65/.193 = 3.37; x .17 = .573 > .50: the best.
    Row("one sample at 49 %", [0.16] * 19 + [0.49], (D1, P1), (D2, P2), (UP, UP)),
    # Observed .30 > .204: not trusted. .65/.204 = 3.186; x .17 = .5417 > .50: the best.
    # (Trusted it would be .65/.30 x .17 = .368: only D1P2.)
    Row("an untrusted profile", [0.3] * 20, (D1, P1), (D2, P2), (UP, UP), trusted=False),
    # Demand x 1.5: chain .75 > .48 > .255 > .165 > .105. Observed .30 <= 1.2 x .255 = .306.
    # .65/.30 = 2.167; x .255 = .5525: .75 is too much, D1P2 .48 fits.
    Row("up as far as the goal allows", [0.3] * 20, (D1, P1), (D1, P2), (STEADY, UP), demand=(9, 3)),
    # Observed .49 <= 1.2 x .48 = .576; .65/.49 = 1.327; x .48 = .637 < .75: no room for D2. Parity is at its top.
    Row("no room", [0.49] * 20, (D1, P2), (D1, P2), (NO_ROOM, TOP), demand=(9, 3)),
    # Observed .30 > 1.2 x .105 = .126: .65/.126 = 5.16; x .105 = .5417: .75 is too much, D1P2 .48 fits.
    Row("untrusted, as far as it goes", [0.3] * 20, (D0, P0), (D1, P2), (UP, UP), demand=(9, 3), trusted=False),
    # "Below": 12/s of digits alone: D1 .24, D2 .60. Observed .26 <= .288; .65/.26 = 2.5; x .24 = .60: not below it.
    Row("equal is not below", [0.26] * 20, (D1, P2), (D1, P2), (NO_ROOM, TOP), demand=(12, 0)),
    Row("nothing above the top", [0.2] * 20, (D2, P2), (D2, P2), (TOP, TOP)),
    # --- With another metric: one point up (D1P1 > D1P2), though the goal would allow the best ---
    Row("latency: one point", [0.2] * 20, (D1, P1), (D1, P2), (STEADY, UP), metric=Metric.LATENCY),
    Row("FLOPs: one point", [0.2] * 20, (D1, P1), (D1, P2), (STEADY, UP), metric=Metric.FLOPS),
    # D2P1 .35 is beside the chain; the lowest point above .35 is D2P2 .50.
    Row("latency, beside the chain", [0.2] * 20, (D2, P1), (D2, P2), (STEADY, UP), metric=Metric.LATENCY),
    Row("latency: down as ever", [0.8] * 20, (D2, P2), (D1, P1), (DOWN, DOWN), metric=Metric.LATENCY),
    # --- Rebalance: 30 s, neither high nor low, a better point at no more load ---
    # D2P1 costs .35 and holds 1.92; D1P2 costs .32 and holds 1.95.
    Row("rebalance", [0.6] * 20, (D2, P1), (D1, P2), (Code.REBALANCE,) * 2, since=30),
    Row("29 s: too early to rebalance", [0.6] * 20, (D2, P1), (D2, P1), (STEADY, STEADY), since=29),
    # D0P2 costs .26 and holds 1.90; the highest point within .26, D1P1 .17, holds 1.87.
    Row("beside the chain, but better", [0.6] * 20, (D0, P2), (D0, P2), (STEADY, STEADY)),
    Row("on the chain", [0.6] * 20, (D1, P1), (D1, P1), (STEADY, STEADY)),
    # --- Today's demand turns the chain: digits 1/s, parity 20/s ---
    # P2>P1 .08/1.5=.053, P1>P0 .12/.4=.3, D2>D1 .05/.03=1.67: D2P2 2.05 > D2P1 .55; .60 x 2.05 = 1.23.
    Row("the busy task gives way", [0.9] * 20, (D2, P2), (D2, P1), (STEADY, DOWN), demand=(1, 20)),
    # --- Zero demand: parity is asked nothing ---
    # Digits alone: D2 .30; .60 x .30 = .18: D1 .12. Parity would save nothing, wherever it stands.
    Row("down, idle at the best", [0.8] * 20, (D2, P2), (D1, P2), (DOWN, STEADY), demand=(6, 0)),
    Row("down, idle at the bottom stays", [0.8] * 20, (D2, P0), (D1, P0), (DOWN, STEADY), demand=(6, 0)),
    Row("down, only idle tasks above", [0.8] * 20, (D0, P2), (D0, P2), (BOTTOM, BOTTOM), demand=(6, 0)),
    # Better accuracy for nothing.
    Row("rebalance raises the idle", [0.6] * 20, (D1, P0), (D1, P2), (STEADY, Code.REBALANCE), demand=(6, 0)),
    Row("nobody asks: up to the best", [0.02] * 20, (D0, P0), (D2, P2), (UP, UP), demand=(0, 0)),
    Row("nobody asks, the CPU is busy", [0.9] * 20, (D2, P2), (D2, P2), (BOTTOM, BOTTOM), demand=(0, 0)),
    # --- Demand that is not known ---
    # 1/s each: P2>P1 .08/.075=1.07 before D2>D1 .05/.03=1.67: .15 > D2P1 .075; .60 x .15 = .09.
    Row("down, nothing known", [0.9] * 20, (D2, P2), (D2, P1), (STEADY, DOWN), demand=(None, None)),
    Row("down, one known", [0.9] * 20, (D2, P2), (D1, P2), (DOWN, STEADY), demand=(6, None)),
    # Digits has nothing left; parity at 1/s: .100 > .025; .60 x .100 = .06.
    Row("down, the known at its bottom", [0.9] * 20, (D0, P2), (D0, P1), (STEADY, DOWN), demand=(6, None)),
    Row("not up into the unknown", [0.2] * 20, (D1, P1), (D1, P1), (NO_ROOM, NO_ROOM), demand=(None, None)),
]

LIMITED = dataclasses.replace(PARITY, max_metric=0.06)
"""P2 (.100) is above it: the chain begins D2P1 .35 > D1P1 .17 > D0P1 .11 > D0P0 .07."""
FLOORED = dataclasses.replace(PARITY, min_accuracy=0.92)
"""P0 is below it: the chain ends with D0P1 .11."""
ROWS += [
    # .60 x .35 = .21: D1P1 .17.
    Row("maxMetric: down", [0.8] * 20, (D2, P1), (D1, P1), (DOWN, STEADY), tasks=(DIGITS, LIMITED)),
    # Observed .08 <= 1.2 x .07; .65/.08 = 8.125; x .07 = .569: the best there is, D2P1 .35.
    Row("maxMetric: up", [0.08] * 20, (D0, P0), (D2, P1), (UP, UP), tasks=(DIGITS, LIMITED)),
    # At once, whatever the timers say, to the best rung that costs no more.
    Row(
        "maxMetric: leaves what it forbids",
        [0.6] * 20,
        (D2, P2),
        (D2, P1),
        (STEADY, Code.REPLACED),
        since=3,
        tasks=(DIGITS, LIMITED),
    ),
    # .60 x .17 = .102: no point (D0P1 .11); the lowest.
    Row("minAccuracy: down", [0.8] * 20, (D1, P1), (D0, P1), (DOWN, STEADY), tasks=(DIGITS, FLOORED)),
]


def snapshot(row: Row, wanted: Mapping[str, int]) -> PoolSnapshot:
    count = len(row.cpu)
    times = [NOW - row.every_seconds * (count - 1 - index) for index in range(count)]
    server = ServerState(
        "edge-a",
        "pi",
        1.0,
        utilization=tuple(Sample(time, value) for time, value in zip(times, row.cpu, strict=True)),
        demand={
            task.name: tuple(Sample(NOW - 9 + second, rate) for second in range(10))
            for task, rate in zip(row.tasks, row.demand, strict=True)
            if rate is not None
        },
        active=wanted,
    )
    return PoolSnapshot(NOW, (server,), row.tasks)


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_row(row: Row) -> None:
    present = dict(zip(("digits", "parity"), row.present, strict=True))
    memory = write(
        PoolMemory(
            {"edge-a": ServerMemory(wanted=present, answered=frozenset(present))},
            "Stepwise",
            {"servers": {"edge-a": {"last_change_seconds": NOW - row.since}}},
        )
    )
    policy = Stepwise(StepwiseParameters(metric=row.metric))

    plan, after = decide(policy, snapshot(row, present), memory, Settings())

    (server,) = plan.servers
    assert {task: target.active for task, target in server.targets.items()} == dict(
        zip(("digits", "parity"), row.expected, strict=True)
    )
    assert {reason.task: reason.code for reason in plan.reasons} == dict(
        zip(("digits", "parity"), row.codes, strict=True)
    ), [reason.sentence for reason in plan.reasons]
    assert server.profile_trusted is row.trusted
    changed = row.expected != row.present
    assert after["policy"] == {"servers": {"edge-a": {"last_change_seconds": NOW if changed else NOW - row.since}}}


def test_sentence_and_numbers_of_a_step_down() -> None:
    row = ROWS[0]
    present = {"digits": D2, "parity": P2}
    memory = write(
        PoolMemory(
            {"edge-a": ServerMemory(wanted=present)}, "Stepwise", {"servers": {"edge-a": {"last_change_seconds": 0}}}
        )
    )

    plan, _ = decide(Stepwise(), snapshot(row, present), memory, Settings())

    digits = plan.reasons[0]
    assert digits.sentence == (
        "CPU averaged 80 % over the last 10 s (limit 70 %): digits steps down from 1100000 (100.0 %) to 1095000 "
        "(95.0 %), expected CPU 17 %."
    )
    assert digits.numbers["cpu_mean"] == pytest.approx(0.8)
    assert digits.numbers["total_metric"] == pytest.approx(0.5)
    assert digits.numbers["limit_metric"] == pytest.approx(0.3)
    assert digits.numbers["new_total_metric"] == pytest.approx(0.17)
    assert digits.numbers["demand_rps"] == pytest.approx(6)
    assert plan.servers[0].expected_utilization == pytest.approx(0.17)
