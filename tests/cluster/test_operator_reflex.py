"""The reflex of a pool, switched on and off: the operator tells each gate what it may choose, and reads what it saw."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from servers.apiserver import ApiServer
from servers.gate import Gate
from servers.models import INPUT, WIDTH, version_model
from servers.site import Site, running_site

pytestmark = [pytest.mark.cluster, pytest.mark.paced]

TASK = "alpha"
LAYERS = {1: 1, 2: 700, 3: 7000}
THROUGHPUT = {1: 1000.0, 2: 100.0, 3: 10.0}
BURST = 64


@pytest.fixture
def site(tmp_path: Path, api_server: ApiServer, namespace: str) -> Iterator[Site]:
    with running_site(tmp_path, api_server, namespace, gated=True) as running:
        for number, layers in LAYERS.items():
            content = version_model(number, layers=layers, one_matrix=True)
            running.publish_as(TASK, number, throughput=THROUGHPUT[number], content=content)
        yield running


def gate_of(site: Site) -> Gate:
    assert site.gate is not None
    return site.gate


def tasks_of(site: Site) -> dict[str, Any]:
    """Return what the gate was told."""
    file = gate_of(site).tasks_file
    return dict(json.loads(file.read_text())["tasks"]) if file.exists() else {}


def burst(site: Site, count: int = BURST) -> Counter[int]:
    """Ask so many times at once; returns how often each version answered."""
    request = service_pb2.ModelInferRequest(model_name=TASK)
    request.inputs.add(name=INPUT, datatype="FP32", shape=[1, WIDTH])
    request.raw_input_contents.append(np.ones((1, WIDTH), np.float32).tobytes())
    with grpc.insecure_channel(gate_of(site).address) as channel, ThreadPoolExecutor(count) as clients:
        stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        answers = clients.map(lambda _: stub.ModelInfer(request, timeout=30), range(count))
        return Counter(int(answer.model_version) for answer in answers)


def test_on_it_saves_single_requests_and_off_the_decided_version_answers_all(site: Site) -> None:
    site.make_pool(reflex="On")
    site.make_task(TASK)
    site.operator.start()
    site.wait_active(TASK, 3)
    site.wait(lambda: site.status("itask", TASK)["servers"][0]["standby"] == [2, 1], "two rungs below stand by")
    site.wait(lambda: TASK in tasks_of(site), "the gate is told")
    told = tasks_of(site)[TASK]
    assert (told["sloSeconds"], told["bestEffort"]) == (0.4, False)
    assert told["serviceSeconds"] == {"1": 0.001, "2": 0.01, "3": 0.1}
    site.wait(lambda: 'version="1"' in gate_of(site).page("metrics"), "and has seen what is loaded")

    burst(site, 1)
    answered = burst(site)
    assert answered[2] + answered[1] > 0, answered
    site.wait(lambda: site.status("itask", TASK).get("demand", 0) > 0, "what came to the gate is the demand")

    site.patch("itask", TASK, {"spec": {"serviceClass": "BestEffort"}})
    site.wait(lambda: tasks_of(site)[TASK]["bestEffort"], "a task that may be shed is one at once")
    site.patch("itask", TASK, {"spec": {"minAccuracy": 0.9015}})
    site.wait(lambda: set(tasks_of(site)[TASK]["serviceSeconds"]) == {"2", "3"}, "below its floor nothing is chosen")

    site.patch("spool", "edge", {"spec": {"reflex": "Off"}})
    site.wait(lambda: not tasks_of(site), "the gate chooses no more")
    site.wait(lambda: "rung_gate_arrivals_total{" not in gate_of(site).page("metrics"), "and counts no more")
    assert burst(site, 6) == {3: 6}


def test_without_a_gate_the_status_says_what_is_missing(tmp_path: Path, api_server: ApiServer, namespace: str) -> None:
    with running_site(tmp_path, api_server, namespace) as site:
        site.publish(TASK, 1)
        site.make_pool(reflex="On")
        site.make_task(TASK)
        site.operator.start()
        site.wait_active(TASK, 1)
        site.wait(
            lambda: "reflex.enabled" in site.status("spool", "edge")["servers"][0].get("message", ""),
            "the pool's status tells",
        )
