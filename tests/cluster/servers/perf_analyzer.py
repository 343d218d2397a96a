"""perf_analyzer, NVIDIA's own load generator for Triton, and what it finds: the yardstick of the profiler.

The binary comes from the wheels in requirements/perf-analyzer.txt, and one library that it wants from the machine or
from its Debian package. It is made once, in the cache.
"""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from servers.wheels import NotHere, ensure_wheels, fetch

LIBRARY_PACKAGE = "libb64-0d"


@dataclass(frozen=True)
class PerfAnalyzer:
    """An installation: the binary and the folders with its libraries."""

    binary: Path
    libraries: tuple[Path, ...]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(map(str, self.libraries))}


def ensure_perf_analyzer() -> PerfAnalyzer:
    """Return the installation, making it first where the cache has none. Raises NotHere."""
    found = _installed(ensure_wheels("perf-analyzer", _finish))
    try:
        told = subprocess.run(
            [found.binary, "--version"], env=found.environment, capture_output=True, text=True, timeout=30,
            check=False,
        )  # fmt: skip
    except OSError as error:
        raise NotHere(f"perf_analyzer doesn't start here: {error}") from None
    if told.returncode != 0:
        raise NotHere(f"perf_analyzer doesn't start here: {(told.stderr or told.stdout).strip()[-300:]}")
    return found


def _installed(folder: Path) -> PerfAnalyzer:
    return PerfAnalyzer(
        folder / "bin" / "perf_analyzer",
        (folder / "nvidia" / "cuda_runtime" / "lib", folder / "debian" / "usr" / "lib" / "x86_64-linux-gnu"),
    )


def _finish(folder: Path) -> None:
    _installed(folder).binary.chmod(0o755)
    listed = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, timeout=30, check=False)
    if "libb64.so.0d" in listed.stdout:
        return
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise NotHere(f"perf_analyzer needs libb64: install it, or have apt-get for Debian's {LIBRARY_PACKAGE}")
    fetch("perf_analyzer", ["apt-get", "download", "-qq", LIBRARY_PACKAGE], folder)
    package = next(folder.glob(f"{LIBRARY_PACKAGE}_*.deb"))
    fetch("perf_analyzer", ["dpkg-deb", "--extract", str(package), str(folder / "debian")], folder)


@dataclass(frozen=True)
class Row:
    """What perf_analyzer measured at one rate; latencies in seconds."""

    asked_rps: float
    reached_rps: float
    p50_seconds: float
    p95_seconds: float
    p99_seconds: float


def measure(
    tool: PerfAnalyzer,
    address: str,
    model: str,
    rates: str,
    *,
    latency_limit_seconds: float | None = None,
    window_seconds: float = 4.0,
    timeout_seconds: float = 300.0,
) -> list[Row]:
    """Measure an open loop of Poisson arrivals at some rates (START:END:STEP), by rate.

    With a latency limit it is a binary search for the highest rate whose 99th percentile keeps it, and the rows are
    those that kept it. Raises RuntimeError with its output when it fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "rows.csv"
        command: list[str | Path] = [
            tool.binary, "-m", model, "-u", address, "-i", "grpc", "--async", "-f", str(table),
            "--request-rate-range", rates, "--request-distribution", "poisson", "--percentile", "99",
            # Near the limit no two windows have the same 99th percentile within 10 %, and it would give up.
            "--stability-percentage", "999",
            "--measurement-interval", str(round(window_seconds * 1000)), "--max-trials", "6", "--max-threads", "2",
        ]  # fmt: skip
        if latency_limit_seconds is not None:
            command += ["--latency-threshold", str(round(latency_limit_seconds * 1000)), "--binary-search"]
        done = subprocess.run(
            command, env=tool.environment, capture_output=True, text=True, timeout=timeout_seconds, check=False
        )
        if not table.exists():
            raise RuntimeError(f"perf_analyzer failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
        rows = list(csv.DictReader(table.read_text().splitlines()))
    made = [
        Row(
            float(row["Request Rate"]),
            float(row["Inferences/Second"]),
            *(float(row[f"p{percent} latency"]) / 1e6 for percent in (50, 95, 99)),
        )
        for row in rows
    ]
    return sorted(made, key=lambda row: row.asked_rps)


def highest_rate(
    tool: PerfAnalyzer,
    address: str,
    model: str,
    limit_seconds: float,
    around_rps: float,
    *,
    spread: float = 0.5,
    window_seconds: float = 2.0,
) -> float:
    """Return the highest Poisson rate whose 99th percentile keeps the limit, found by its own binary search.

    It looks from `1 - spread` to `1 + spread` of `around_rps`, in steps of 1 %: any other would do, and take longer.
    """
    low, high, step = (max(1, round(share * around_rps)) for share in (1 - spread, 1 + spread, 0.01))
    rows = measure(
        tool, address, model, f"{low}:{high}:{step}", latency_limit_seconds=limit_seconds, window_seconds=window_seconds
    )
    kept = [row.asked_rps for row in rows if row.p99_seconds <= limit_seconds]
    if not kept:
        raise RuntimeError(f"perf_analyzer found no rate of {low} to {high} inferences/s that keeps {limit_seconds} s")
    return max(kept)
