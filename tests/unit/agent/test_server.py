from __future__ import annotations

import json
from pathlib import Path

from aiohttp.test_utils import TestClient, TestServer

from rung.agent.catalogue import Catalogue
from rung.agent.gate import GateFile
from rung.agent.metrics import Metrics
from rung.agent.processes import Usage
from rung.agent.server import make_app


async def no_triton() -> bytes:
    return b""


async def test_health_names_the_loop_that_stopped_moving() -> None:
    stuck: list[str] = []
    catalogue = Catalogue(100)
    app = make_app(catalogue, Metrics(catalogue, lambda: Usage(None, 0)), no_triton, lambda: stuck, lambda: None)
    async with TestClient(TestServer(app)) as client:
        assert (await client.get("/healthz")).status == 200
        stuck.append("mirror")
        answer = await client.get("/healthz")
        assert answer.status == 503
        assert "mirror" in await answer.text()


async def test_what_is_wanted_wakes_the_mirror_only_when_it_is_something_else() -> None:
    changes: list[object] = []
    catalogue = Catalogue(100)
    metrics = Metrics(catalogue, lambda: Usage(None, 0))
    app = make_app(catalogue, metrics, no_triton, list, lambda: changes.append(catalogue.wanted))
    async with TestClient(TestServer(app)) as client:
        for _ in range(3):
            answer = await client.put("/v1/wanted", json={"tasks": {"digits": [3, 1]}})
            assert answer.status == 204
    assert changes == [{"digits": (3, 1)}]


async def test_every_scrape_looks_anew_and_an_unknown_value_has_no_sample() -> None:
    looks = iter([Usage(None, 0), Usage(1.25, 2), Usage(2.5, 2)])
    metrics = Metrics(Catalogue(100), lambda: next(looks))
    name = "\nrung_agent_triton_cpu_seconds_total "
    assert name not in metrics.text().decode()
    assert f"{name}1.25\n" in metrics.text().decode()
    assert f"{name}2.5\n" in metrics.text().decode()


async def test_what_the_gate_shall_do_is_written_for_it_and_refused_where_there_is_none(tmp_path: Path) -> None:
    catalogue = Catalogue(100)
    metrics = Metrics(catalogue, lambda: Usage(None, 0))
    file = tmp_path / "tasks.json"
    task = {"sloSeconds": 0.4, "serviceSeconds": {"1": 0.01}}
    app = make_app(catalogue, metrics, no_triton, list, lambda: None, GateFile(file).write)
    async with TestClient(TestServer(app)) as client:
        assert (await client.put("/v1/reflex", json={"cores": 1.5, "tasks": {"digits": task}})).status == 204
        written = json.loads(file.read_text())
        assert written == {"cores": 1.5, "tasks": {"digits": {**task, "bestEffort": False}}}
        mistakes: list[object] = [
            {"tasks": {"digits": {**task, "sloSeconds": 0}}},
            {"cores": 0, "tasks": {"digits": task}},
            {"tasks": {"digits": {"slo": 1}}},
            [],
            "x",
        ]
        for wrong in mistakes:
            answer = await client.put("/v1/reflex", json=wrong)
            assert answer.status == 400
            assert "sloSeconds" in (await answer.json())["error"]
        assert json.loads(file.read_text()) == written
    async with TestClient(TestServer(make_app(catalogue, metrics, no_triton, list, lambda: None))) as client:
        assert (await client.put("/v1/reflex", json={"tasks": {}})).status == 204, "nothing is asked of it"
        answer = await client.put("/v1/reflex", json={"tasks": {"digits": task}})
        assert answer.status == 404
        assert "reflex.enabled" in await answer.text()
