"""Durations, CPU and memory as Kubernetes writes them: strings in JSON, numbers through a property.

The classes are subclasses of `str`, so a value keeps the text its author wrote, and the CRD says `type: string` with a
pattern. `Duration("400ms").seconds`, `Cpu("500m").cores`, `Memory("2Gi").bytes`.
"""

from __future__ import annotations

import math
import re
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from rung.api.base import Rule

_MAX_LENGTH = 32


class _Quantity(str):
    """A string that follows a pattern and stands for a number that is not negative."""

    __slots__ = ()
    PATTERN: ClassVar[str]
    EXAMPLES: ClassVar[str]

    def __new__(cls, text: str) -> Self:
        """Check the text. Raises ValueError with examples of what is accepted."""
        if len(text) > _MAX_LENGTH or not re.fullmatch(cls.PATTERN, text):
            raise ValueError(f"{text[:40]!r} is not understood; write for example {cls.EXAMPLES}")
        return super().__new__(cls, text)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: type[Any], handler: GetCoreSchemaHandler) -> CoreSchema:
        def build(value: object) -> _Quantity:
            if not isinstance(value, str):
                raise PydanticCustomError(
                    "quantity",
                    "{value} is not a string; write for example {examples}, in quotes",
                    {"value": repr(value)[:40], "examples": cls.EXAMPLES},
                )
            try:
                return cls(value)
            except ValueError as error:
                raise PydanticCustomError("quantity", "{sentence}", {"sentence": str(error)}) from None

        # The inner schema only describes the field in the CRD; `build` refuses with a better sentence than a pattern.
        return core_schema.no_info_plain_validator_function(
            build,
            json_schema_input_schema=core_schema.str_schema(pattern=cls.PATTERN, min_length=1, max_length=_MAX_LENGTH),
            serialization=core_schema.plain_serializer_function_ser_schema(str, return_schema=core_schema.str_schema()),
        )


class Duration(_Quantity):
    """A length of time as Go writes it: `400ms`, `15s`, `1m30s`. Units: us, ms, s, m, h."""

    __slots__ = ()
    PATTERN = r"^([0-9]+(\.[0-9]+)?(us|ms|s|m|h))+$"
    EXAMPLES = "400ms, 15s or 1m30s"
    LONGEST_SECONDS: ClassVar[Decimal] = Decimal(2**63 - 1) / 10**9
    _UNITS: ClassVar[dict[str, Decimal]] = {
        "us": Decimal("0.000001"),
        "ms": Decimal("0.001"),
        "s": Decimal(1),
        "m": Decimal(60),
        "h": Decimal(3600),
    }

    def __new__(cls, text: str) -> Self:
        """Check the text. Raises ValueError with examples of what is accepted, or when it passes Go's 292 years."""
        duration = super().__new__(cls, text)
        if duration._exact() > cls.LONGEST_SECONDS:
            raise ValueError(f"{text!r} is longer than 292 years")
        return duration

    @property
    def seconds(self) -> float:
        """The same in seconds."""
        return float(self._exact())

    def _exact(self) -> Decimal:
        parts = re.findall(r"([0-9]+(?:\.[0-9]+)?)(us|ms|s|m|h)", self)
        return sum((Decimal(number) * self._UNITS[unit] for number, unit in parts), Decimal(0))

    @classmethod
    def from_seconds(cls, seconds: float) -> Self:
        """Write a number of seconds: below one second in ms, to the microsecond. Raises ValueError when negative."""
        if not math.isfinite(seconds) or seconds < 0:
            raise ValueError(f"a duration can't be {seconds} seconds")
        exact = Decimal(repr(float(seconds))).quantize(Decimal("0.000001"), ROUND_HALF_EVEN)
        if exact >= 1:
            return cls(f"{_plain(exact)}s")
        return cls(f"{_plain(exact * 1000)}ms")


def _positive(duration: Duration) -> Duration:
    if not duration.seconds > 0:
        raise PydanticCustomError("quantity", "must be longer than 0s")
    return duration


PositiveDuration = Annotated[
    Duration, AfterValidator(_positive), Rule("duration(self) > duration('0s')", "must be longer than 0s")
]


class Cpu(_Quantity):
    """CPU in cores: `2`, `0.5` or `500m`."""

    __slots__ = ()
    PATTERN = r"^([0-9]+m|[0-9]+(\.[0-9]+)?)$"
    EXAMPLES = "2, 0.5 or 500m"

    @property
    def cores(self) -> float:
        """The same in cores."""
        return float(Decimal(self[:-1]) / 1000) if self.endswith("m") else float(self)

    @classmethod
    def from_cores(cls, cores: float) -> Self:
        """Write a number of cores, to the millicore and rounded up. Raises ValueError when negative."""
        if not math.isfinite(cores) or cores < 0:
            raise ValueError(f"CPU can't be {cores} cores")
        milli = int((Decimal(repr(float(cores))) * 1000).to_integral_value(ROUND_CEILING))
        return cls(f"{milli // 1000}" if milli % 1000 == 0 else f"{milli}m")


class Memory(_Quantity):
    """Memory in bytes: `536870912`, `512Mi` or `2Gi`."""

    __slots__ = ()
    PATTERN = r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|k|M|G|T)?$"
    EXAMPLES = "512Mi, 2Gi or 1000000"
    _UNITS: ClassVar[dict[str, int]] = {
        "": 1,
        "k": 1000,
        "M": 1000**2,
        "G": 1000**3,
        "T": 1000**4,
        "Ki": 1024,
        "Mi": 1024**2,
        "Gi": 1024**3,
        "Ti": 1024**4,
    }

    @property
    def bytes(self) -> int:
        """The same in bytes, rounded up."""
        number = self.rstrip("KkMGTi")
        return int((Decimal(number) * self._UNITS[self[len(number) :]]).to_integral_value(ROUND_CEILING))


def _plain(number: Decimal) -> str:
    """Write a number without exponent and without zeros at the end of its fraction."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
