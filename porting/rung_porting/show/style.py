"""Which colour and which marker a method has: always the same, for every eye, on paper and on a dark screen. Pure.

The colours were searched for: any two of them, on either ground, are 20 units or more apart in CIELAB, for usual eyes
and for those without one kind of cones as Machado et al. (2009) simulate them; a test holds them to it. A criterion has
a hue; with distillation it is the lighter one of a pair. INT8 is not a colour but a shape, so that it is seen in grey,
too.
"""

from __future__ import annotations

from dataclasses import dataclass

FAMILY = "family"
"""What stands for every method that is no criterion: members of the network's family, and what others call theirs."""


@dataclass(frozen=True, slots=True)
class Colour:
    """One colour on a light and on a dark ground, as #rrggbb."""

    light: str
    dark: str


COLOURS = {
    "base": Colour("#171e28", "#e7ebf2"),
    "l1": Colour("#1a4480", "#057af3"),
    "l1+distilled": Colour("#91abfc", "#73bdff"),
    "l2": Colour("#7b51ce", "#8666be"),
    "l2+distilled": Colour("#ad73a9", "#b782b3"),
    "taylor": Colour("#5e2c0a", "#ec821f"),
    "taylor+distilled": Colour("#b44f0b", "#f8aa77"),
    "fpgm": Colour("#148555", "#008a38"),
    "fpgm+distilled": Colour("#0dc865", "#b0f5bd"),
    "slim": Colour("#480096", "#cc1818"),
    "slim+distilled": Colour("#0054fc", "#bab4ae"),
    "distilled": Colour("#ed94a7", "#b06072"),
    FAMILY: Colour("#b0b405", "#f6df67"),
}
"""In the order of a legend."""
NAMES = {
    "base": "unpruned", "l1": "L1", "l1+distilled": "L1, distilled", "l2": "L2", "l2+distilled": "L2, distilled",
    "taylor": "Taylor", "taylor+distilled": "Taylor, distilled", "fpgm": "FPGM", "fpgm+distilled": "FPGM, distilled",
    "slim": "Slim", "slim+distilled": "Slim, distilled", "distilled": "distilled", "family": "another network",
}  # fmt: skip
"""For a legend."""
BEATEN = Colour("#9aa3af", "#69727e")
RAMP = (
    Colour("#08306b", "#cfe3f7"),
    Colour("#1b5a9d", "#8fc1ea"),
    Colour("#3b83c0", "#5a9fd6"),
    Colour("#6ba4b8", "#5d93a8"),
    Colour("#a99b6b", "#a3935f"),
    Colour("#cf8a2e", "#d08f3c"),
    Colour("#c2661a", "#f0a04b"),
    Colour("#8f3b00", "#ffc48a"),
)
"""From the most accurate version to the cheapest: blue to orange."""
INT8 = "int8"


def style_of(method: str) -> tuple[str, bool]:
    """Return the key of a method's colour in COLOURS, and whether its arithmetic is INT8."""
    parts = [part for part in method.lower().split("+") if part]
    int8 = INT8 in parts
    key = "+".join(part for part in parts if part != INT8)
    return (key or "base") if not key or key in COLOURS else FAMILY, int8


def ramp_step(place: int, count: int) -> int:
    """Return the step of RAMP for the `place`-th (from 0) of `count` versions, the most accurate first."""
    return round(place * (len(RAMP) - 1) / (count - 1)) if count > 1 else 0
