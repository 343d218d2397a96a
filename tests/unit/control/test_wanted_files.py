"""A server's worker looks at the files itself: what is wanted may be older than what the agent says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from rung.adapters.agent import Inventory
from rung.control.observation import Want
from rung.control.servers import ServerWorker
from rung.control.turns import LoadTurns
from rung.control.view import ServerPod
from rung.core.plan import Target

REGISTERED, OTHER = "0" * 64, "f" * 64
POD = ServerPod("n", "s1", "u1", None, "127.0.0.1", {}, ready=True, terminating=False, grpc_port=1, agent_port=2)


@pytest.fixture
async def worker() -> AsyncIterator[ServerWorker]:
    made = ServerWorker(POD, turns=LoadTurns(), load_deadline_seconds=30)
    yield made
    await made.stop()


def _sees(worker: ServerWorker, loaded: set[int], files: dict[int, str]) -> None:
    inventory = {
        "repository": {"reachable": True},
        "disk": {"budgetBytes": 1},
        "tasks": {
            "digits": {"config": "c", "versions": {n: {"state": "Available", "sha256": s} for n, s in files.items()}}
        },
    }
    worker.observation = replace(
        worker.observation,
        reachable=True,
        loaded={"digits": frozenset(loaded)},
        inventory=Inventory.model_validate(inventory),
    )


@pytest.mark.parametrize(
    ("loaded", "files", "begins"),
    [
        ({1}, {3: REGISTERED}, True),
        ({1}, {3: OTHER}, False),
        ({3}, {2: REGISTERED}, True),
        ({3}, {2: OTHER}, False),
        ({1, 3}, {3: OTHER}, True),
    ],
    ids=["the file", "another file", "a standby", "a standby of another file", "what is loaded needs no file"],
)
async def test_only_the_registered_file_is_loaded(
    worker: ServerWorker, loaded: set[int], files: dict[int, str], begins: bool
) -> None:
    _sees(worker, loaded, files)
    worker.want({"digits": Want(Target(3, (2,)), {2: REGISTERED, 3: REGISTERED})}, {})
    assert bool(worker.swapping()) is begins
