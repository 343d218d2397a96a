"""Workers on real servers: one that is slow holds nobody up, and what goes wrong is told of the version that did it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from rung.control.observation import Want
from rung.core.plan import Target
from servers.s3 import S3Server, running_s3
from servers.workers import running_workers

pytestmark = pytest.mark.cluster

DIGITS = {1: 1, 2: 8, 3: 16, 4: 24}


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    with running_s3(tmp_path) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


async def test_a_server_that_is_slow_to_load_one_model_holds_nobody_up_for_the_others(s3: S3Server) -> None:
    models = {name: {1: 1} for name in ("alpha", "beta", "gamma")}
    wanted = {name: Want(Target(1)) for name in models}
    async with running_workers(s3, models, servers=2) as (slow, quick):
        slow.worker.want(wanted, {})
        pid = await slow.signal_stub("alpha", 1, signal.SIGSTOP)
        try:
            await slow.until(lambda: slow.worker.swapping() == set(wanted), "the others wait for alpha there")
            quick.worker.want(wanted, {})
            await quick.until(lambda: quick.has("beta") == quick.has("gamma") == {1}, "they are loaded elsewhere", 10)
            assert not slow.has("beta") | slow.has("gamma")
            assert not quick.has("alpha"), "at most one server loads it at a time"
        finally:
            os.kill(pid, signal.SIGCONT)
        for server in (slow, quick):
            await server.until(lambda server=server: all(server.has(m) == {1} for m in wanted), "all is loaded")  # type: ignore[misc]


async def test_a_warm_step_down_does_not_wait_for_the_turn_of_a_standby(s3: S3Server) -> None:
    async with running_workers(s3, {"digits": DIGITS, "other": {1: 1}}) as (server,):
        await server.start_with("digits", 2, 3)
        other = Want(Target(1))
        server.worker.want({"other": other}, {})
        pid = await server.signal_stub("other", 1, signal.SIGSTOP)
        try:
            server.worker.want({"other": other, "digits": Want(Target(3, (2, 1)))}, {})
            await server.until_next_look()
            assert "digits" in server.worker.swapping(), "version 1 waits for its turn"
            server.worker.want({"other": other, "digits": Want(Target(2, (1,)))}, {})
            await server.until(lambda: server.has("digits") == {2}, "version 2 answers", 10)
            assert not server.has("other")
        finally:
            os.kill(pid, signal.SIGCONT)
        await server.until(lambda: server.has("digits") == {1, 2} and server.has("other") == {1}, "all is as wanted")
