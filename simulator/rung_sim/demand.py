"""Shapes of demand, as the thesis stressed its system with (Buijnsters, TU Delft, section 5.2.2).

Each is an array of requests a second, one number a second, shape (seconds,), never below 0.
"""

from __future__ import annotations

import numpy as np

from rung_loadgen.trace import MAX_RATE_RPS
from rung_sim.engine import Floats

WAVES = 8
"""How many sinus make the thesis' macro trend of several tasks."""
SHORTEST_PERIOD_SECONDS, LONGEST_PERIOD_SECONDS = 60.0, 600.0


def constant(rate_rps: float, seconds: int) -> Floats:
    """Return one rate for the whole time."""
    return np.full(seconds, float(rate_rps))


def linear(start_rps: float, step_rps: float, every_seconds: int, seconds: int) -> Floats:
    """Return a rate that grows (or falls, down to 0) by the same step each time."""
    steps = np.arange(seconds) // every_seconds
    return np.clip(start_rps + step_rps * steps, 0.0, None)


def exponential(start_rps: float, factor: float, every_seconds: int, seconds: int) -> Floats:
    """Return a rate that grows (or falls) by the same factor each time."""
    steps = np.arange(seconds) // every_seconds
    return np.asarray(start_rps * np.power(factor, steps, dtype=np.float64))


def sinus(amplitude_rps: float, period_seconds: float, seconds: int) -> Floats:
    """Return a wave to be added to a trace, from 0 upward first; the only shape that goes below 0."""
    return np.asarray(amplitude_rps * np.sin(2 * np.pi * np.arange(seconds) / period_seconds), np.float64)


def random_waves(amplitude_rps: float, seconds: int, rng: np.random.Generator, waves: int = WAVES) -> Floats:
    """Return the sum of some sinus of random amplitude, period and phase, which begins at 0.

    Its highest deviation from 0 is `amplitude_rps`. To be added to a trace; it goes below 0.
    """
    time = np.arange(seconds)
    periods = rng.uniform(SHORTEST_PERIOD_SECONDS, LONGEST_PERIOD_SECONDS, waves)
    phases = rng.uniform(0, 2 * np.pi, waves)
    sizes = rng.uniform(0.2, 1.0, waves)
    wave = sum(
        size * (np.sin(2 * np.pi * time / period + phase) - np.sin(phase))
        for size, period, phase in zip(sizes, periods, phases, strict=True)
    )
    highest = np.abs(wave).max() if seconds else 0.0
    return np.asarray(wave * (amplitude_rps / highest if highest > 0 else 0.0))


def manipulated(trace_rps: Floats, mean_rps: float, wave_rps: Floats | None = None, warm_up_seconds: int = 0) -> Floats:
    """Return a trace scaled to a mean, with its own unrest, after a warm-up, and with a wave on top.

    Args:
        trace_rps: what is scaled, shape (seconds,).
        mean_rps: mean of the result before the wave is added.
        wave_rps: added from the end of the warm-up on; shape (seconds,).
        warm_up_seconds: the rate climbs to the trace's in a straight line for so long.
    """
    mean = float(trace_rps.mean()) if trace_rps.size else 0.0
    rates = trace_rps * (mean_rps / mean if mean > 0 else 0.0)
    if warm_up_seconds > 0:
        rates = rates * np.clip((np.arange(rates.size) + 1) / warm_up_seconds, 0.0, 1.0)
    if wave_rps is not None:
        after = np.arange(rates.size) - warm_up_seconds
        rates = rates + np.where(after >= 0, wave_rps[np.clip(after, 0, wave_rps.size - 1)], 0.0)
    return np.clip(rates, 0.0, None)


SHAPES = {
    "constant": "constant:RATE:SECONDS",
    "linear": "linear:START:STEP:EVERY:SECONDS",
    "exponential": "exponential:START:FACTOR:EVERY:SECONDS",
    "sinus": "sinus:MEAN:AMPLITUDE:PERIOD:SECONDS",
    "waves": "waves:MEAN:AMPLITUDE:SEED:SECONDS",
}
"""What `rung simulate` takes in place of a file; rates a second, times in seconds."""
MOST_SECONDS = 7 * 24 * 3600


def shape(text: str) -> Floats | None:
    """Return the demand that a text such as `linear:1:2:30:600` describes; None where it names no shape.

    Raises:
        ValueError: it names one and its numbers make no sense; the message says how it is written.
    """
    name, *words = text.split(":")
    if name not in SHAPES or not words:
        return None
    try:
        *numbers, seconds = [float(word) for word in words]
        found = _shaped(name, numbers, int(seconds)) if 1 <= seconds <= MOST_SECONDS else None
    except ValueError:
        found = None
    if found is None or not np.isfinite(found).all():
        raise ValueError(f"{text!r} is not written as {SHAPES[name]}")
    return np.clip(found, 0.0, MAX_RATE_RPS)


def _shaped(name: str, numbers: list[float], seconds: int) -> Floats | None:
    match name, numbers:
        case "constant", [rate]:
            return constant(rate, seconds)
        case "linear", [start, step, every] if every >= 1:
            return linear(start, step, int(every), seconds)
        case "exponential", [start, factor, every] if every >= 1 and factor > 0:
            return exponential(start, factor, int(every), seconds)
        case "sinus", [mean, amplitude, period] if period > 0:
            return mean + sinus(amplitude, period, seconds)
        case "waves", [mean, amplitude, seed] if seed >= 0:
            return mean + random_waves(amplitude, seconds, np.random.default_rng(int(seed)))
        case _:
            return None
