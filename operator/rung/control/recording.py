"""What `rung record` does: a file of requests a second for each task, out of a Prometheus."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rung.adapters.prometheus import MetricsUnavailable, PrometheusLine
from rung.adapters.recording import record
from rung.api import Duration

LONGEST_SECONDS = 7 * 24 * 3600
MOST_BYTES = 64 * 1024 * 1024


class CannotRecord(Exception):  # noqa: N818 - one sentence for a person
    """It can't be recorded; the message says why."""


def record_to_files(
    tasks: Sequence[str],
    url: str,
    namespace: str,
    last: str,
    window_seconds: int,
    folder: Path,
    deadline_seconds: float,
) -> Iterator[str]:
    """Write `TASK.txt` for each task, one number a second, and yield a sentence for each. Raises CannotRecord."""
    try:
        seconds = round(Duration(last).seconds)
    except ValueError as error:
        raise CannotRecord(f"--last: {error}") from None
    if not 1 <= seconds <= LONGEST_SECONDS:
        raise CannotRecord(f"--last is {last}; from 1s to 168h (a week) can be recorded")
    try:
        line = PrometheusLine(url, deadline_seconds, MOST_BYTES, verify=True)
    except ValueError as error:
        raise CannotRecord(str(error)) from None
    # The newest second may still be without a sample.
    end_seconds = int(time.time()) - 1
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for task in tasks:
            found = record(line, namespace, task, end_seconds, seconds, window_seconds)
            if found.missing_seconds == seconds:
                raise CannotRecord(
                    f"this Prometheus knows nothing of a model {task} in the namespace {namespace} in the last {last}; "
                    f"does it scrape the Triton pods, gives them the labels namespace and pod, and is --window "
                    f"({window_seconds} s) at least twice its scrape interval?"
                )
            path = folder / f"{task}.txt"
            path.write_text("".join(f"{rate:.2f}\n" for rate in found.rates_rps), encoding="utf-8")
            missing = (
                f"; {found.missing_seconds:,} of them are not known and count as 0" if found.missing_seconds else ""
            )
            total = sum(found.rates_rps)
            yield f"{path}: {seconds:,} s, {total:,.0f} requests{missing}"
    except MetricsUnavailable as error:
        raise CannotRecord(str(error)) from None
    except OSError as error:
        raise CannotRecord(f"{folder}: can't be written: {error.strerror or error}") from None
    finally:
        line.close()
