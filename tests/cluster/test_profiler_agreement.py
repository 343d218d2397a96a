"""The profiler against perf_analyzer, on the same server and the same loaded model."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rung.adapters.triton import TritonClient
from rung_porting.profiler.conditions import Bench, Conditions
from rung_porting.profiler.errors import ClientBoundError
from rung_porting.profiler.search import QUICK
from rung_porting.profiler.served import profile_served
from servers.models import write_task
from servers.perf_analyzer import NotHere, PerfAnalyzer, ensure_perf_analyzer, highest_rate
from servers.triton import TritonServer

pytestmark = [pytest.mark.cluster, pytest.mark.quiet]

SLO_SECONDS = 0.4
EFFORT = replace(QUICK, saturation_seconds=3, probe_seconds=4, tolerance=0.03)
WITHIN = 0.05
ATTEMPTS = 3


@pytest.fixture(scope="module")
def perf_analyzer() -> PerfAnalyzer:
    try:
        return ensure_perf_analyzer()
    except NotHere as reason:
        pytest.skip(f"nothing to compare the profiler with: {reason}")


@pytest.mark.timeout(600)
async def test_the_throughput_at_the_slo_is_perf_analyzers_within_five_percent(
    triton: TritonServer, perf_analyzer: PerfAnalyzer
) -> None:
    text = write_task(triton.repository, "digit", {1: 160}, width=384)
    async with TritonClient(triton.address) as client:
        await client.load("digit", frozenset({1}), text, 60)
    seen = []
    # A neighbour of this machine may disturb one of the two; a profiler that is wrong is so every time.
    for _ in range(ATTEMPTS):
        try:
            done, _ = await profile_served(Bench(triton.address), "digit", Conditions("c", SLO_SECONDS, effort=EFFORT))
        except ClientBoundError as error:
            seen.append(str(error))
            continue
        theirs = highest_rate(perf_analyzer, triton.address, "digit", SLO_SECONDS, done.max_throughput)
        seen.append(f"{done.max_throughput:.0f} and {theirs:.0f} inferences/s")
        if abs(done.max_throughput / theirs - 1) <= WITHIN:
            return
    pytest.fail(f"the profiler and perf_analyzer found, {ATTEMPTS} times: {'; '.join(seen)}")
