"""What may be set of Frontier; the defaults are those of the simulations in docs/experiments."""

from __future__ import annotations

from dataclasses import dataclass, field

from rung.core.forecast import Trend


@dataclass(frozen=True, slots=True)
class FrontierParameters:
    """The parameters of the policy."""

    forecast: Trend = field(default_factory=Trend)
    remember_seconds: float = 45.0
    """Stepping up asks what these last seconds would have needed."""
    settle_seconds: float = 5.0
    """CPU is judged this long after a change."""
    up_after_seconds: float = 5.0
    """Time since the last change before a step up."""
    late_share: float | None = None
    """Share of late answers to plan for; None: 1 - objective of each task."""
    reflex_late_share: float = 0.5
    """The same where the reflex saves single requests: the allocation need not be safe by itself."""
    reflex_saves: float = 500.0
    """But no more than so many times what the objective allows."""
    reflex_deviations: float = 0.5
    """So many standard deviations of a Poisson count are allowed for there: what comes beside is for the reflex."""
    reflex_patience_seconds: float = 10.0
    """And there an answer that was late all the same makes the limit stricter no more often than this: each one is seen
    there, and those of one burst, or of the first seconds, are one matter."""
    load_price: float = 0.06
    """What a version that is not loaded has to be worth more, in summed normalised accuracy."""
    price_seconds: float = 60.0
    """For a step up this falls to nothing in so long a time without a change: a load is soon paid for by calm."""
    trade_price: float = 0.03
    """What a task that steps down so that others can step up has to bring them beside, however calm it is: where many
    tasks share a server, there is nearly always a trade that is worth a little, and the next wave undoes it."""
    trust_seconds: float = 20.0
    """So many seconds of what was learned before weigh as much as the same number since the last change."""
    drain_seconds: float = 3.0
    """What waits has to be answered within this time; 0: it is left to the queue."""
    calibrate: bool = True
    """Whether the factor is learned."""
    see_cores: bool = True
    """Whether a server that gets fewer cores than its limit says is planned with those."""
    most_utilization: float = 0.85
    """Share of the cores that is planned at most where no reflex saves single requests. Where inferences are short
    against the service level, theory lets a server be all but full; but what grows faster than foreseen then finds
    nothing left to load smaller versions with."""
    utilization_limit: float | None = None
    """A limit on utilisation in place of that on late answers, for comparison."""
    strictness: float = 0.5
    """A second in which answers were late multiplies the limit by this; 1: no error budget."""
    forgive_seconds: float = 60.0
    """Without late answers the limit doubles in this time."""
    first_looseness: float = 6.0
    """How many times the limit is loosened at first: in simulation, servers come to this and more within minutes."""
    loosest: float = 100.0
    """How many times the limit may be loosened beyond what is planned for."""
