"""From what was measured to what is written down."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from rung.api.quantity import Cpu, Duration
from rung.api.version import LatencyPercentiles
from rung_porting.profiler.client_share import Shares
from rung_porting.profiler.conditions import Conditions, tool
from rung_porting.profiler.document import Configuration, Interval, Machine, ProfileDocument
from rung_porting.profiler.measure import Measured


def configuration(
    measured: Measured,
    batch_size: int,
    instances: int,
    *,
    memory_bytes: int | None = None,
    standby_memory_bytes: int | None = None,
    load_seconds: float | None = None,
    load_cpu_seconds: float | None = None,
) -> Configuration:
    """Return what one combination did; a memory of 0 or less is not known."""
    found, moderate = measured.found, measured.moderate
    return Configuration(
        batch_size=batch_size,
        instances=instances,
        max_throughput=round(found.rate_rps, 3),
        throughput_interval=Interval(low=round(found.low_rps, 3), high=round(found.high_rps, 3)),
        saturation=round(measured.saturation_rps, 3),
        latency=LatencyPercentiles(
            p50=Duration.from_seconds(moderate.p50_seconds),
            p95=Duration.from_seconds(moderate.p95_seconds),
            p99=Duration.from_seconds(moderate.p99_seconds),
        ),
        cpu_seconds_per_inference=moderate.cpu_seconds_per_inference or None,
        memory_bytes=memory_bytes if memory_bytes and memory_bytes > 0 else None,
        standby_memory_bytes=standby_memory_bytes if standby_memory_bytes and standby_memory_bytes > 0 else None,
        load_time=Duration.from_seconds(round(load_seconds, 3)) if load_seconds else None,
        load_cpu_seconds=round(load_cpu_seconds, 3) if load_cpu_seconds is not None else None,
        curve=measured.curve,
        machine=None if measured.shares is None else machine(measured.shares),
    )


def machine(shares: Shares) -> Machine:
    """Return who used the machine, rounded to hundredths of a core."""
    neighbours = shares.neighbour_cores
    return Machine(
        cores=shares.cores,
        client_cores=round(shares.client_cores, 2),
        idle_cores=round(shares.idle_cores, 2),
        server_cores=None if shares.server_cores is None else round(shares.server_cores, 2),
        neighbour_cores=None if neighbours is None else round(neighbours, 2),
    )


def document(conditions: Conditions, measured: Sequence[Configuration], failed: Sequence[str] = ()) -> ProfileDocument:
    """Return the profile of the best combination, with all of them beside it where there are several."""
    best = max(measured, key=lambda each: each.max_throughput)
    several = len(measured) + len(failed) > 1
    return ProfileDocument(
        hardware_class=conditions.hardware_class,
        cpu=Cpu.from_cores(conditions.cpu_cores) if conditions.cpu_cores is not None else None,
        slo_latency=Duration.from_seconds(conditions.slo_seconds),
        max_throughput=best.max_throughput,
        latency=best.latency,
        cpu_seconds_per_inference=best.cpu_seconds_per_inference,
        memory_bytes=best.memory_bytes,
        standby_memory_bytes=best.standby_memory_bytes,
        load_time=best.load_time,
        load_cpu_seconds=best.load_cpu_seconds,
        batch_size=best.batch_size,
        instances=best.instances,
        profiled_at=datetime.now(UTC).replace(microsecond=0),
        tool=tool(),
        throughput_interval=best.throughput_interval,
        curve=best.curve,
        configurations=tuple(measured) if several else (),
        failed_configurations=tuple(each[:1024] for each in failed),
        machine=best.machine,
    )
