"""The profiler against perf_analyzer, on the same server and the same loaded model.

The model waits a fixed time for each answer and computes nothing: so both tools look for the same number, and what is
compared is how they look. A machine that lets no client keep its times has nothing to compare: the profiler says so.
`make bench-profiler` compares them on models that compute.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rung_porting.profiler.conditions import Bench, Conditions
from rung_porting.profiler.errors import ClientBoundError
from rung_porting.profiler.search import QUICK
from rung_porting.profiler.served import profile_served
from servers.perf_analyzer import PerfAnalyzer, ensure_perf_analyzer, highest_rate
from servers.triton import running_triton
from servers.wheels import NotHere

pytestmark = [pytest.mark.cluster, pytest.mark.quiet]

SLO_SECONDS = 0.2
EFFORT = replace(QUICK, saturation_seconds=3, probe_seconds=4, tolerance=0.03)
WITHIN = 0.05
SERVICE_SECONDS = 0.005
WAITS = f"""
import time
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        self.free = 0.0

    def execute(self, requests):
        answers = []
        for request in requests:
            # By the clock, so that a wake-up that comes late makes no later answer later.
            self.free = max(self.free, time.perf_counter()) + {SERVICE_SECONDS}
            time.sleep(max(0.0, self.free - time.perf_counter()))
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.zeros(1, np.float32))]))
        return answers
"""
CONFIG = """name: "waits"
backend: "python"
max_batch_size: 0
input [ { name: "IN" data_type: TYPE_FP32 dims: [ 1 ] } ]
output [ { name: "OUT" data_type: TYPE_FP32 dims: [ 1 ] } ]
instance_group [ { count: 1 kind: KIND_CPU } ]
"""


@pytest.fixture(scope="module")
def perf_analyzer() -> PerfAnalyzer:
    try:
        return ensure_perf_analyzer()
    except NotHere as reason:
        pytest.skip(f"nothing to compare the profiler with: {reason}")


async def test_the_throughput_at_the_slo_is_perf_analyzers_within_five_percent(
    tmp_path: Path, perf_analyzer: PerfAnalyzer
) -> None:
    folder = tmp_path / "models" / "waits"
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(CONFIG)
    (folder / "1" / "model.py").write_text(WAITS)
    with running_triton(tmp_path, "--model-control-mode=none") as server:
        try:
            done, _ = await profile_served(Bench(server.address), "waits", Conditions("c", SLO_SECONDS, effort=EFFORT))
        except ClientBoundError as reason:
            pytest.skip(f"this machine is too busy to measure on: {reason}")
        theirs = highest_rate(perf_analyzer, server.address, "waits", SLO_SECONDS, done.max_throughput, spread=0.08)

    print(f"the profiler found {done.max_throughput:.1f} inferences/s, perf_analyzer {theirs:.1f}")
    assert 0.8 < done.max_throughput * SERVICE_SECONDS <= 1.01
    assert done.max_throughput == pytest.approx(theirs, rel=WITHIN)
