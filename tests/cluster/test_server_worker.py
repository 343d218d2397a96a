"""Workers on real servers: one that is slow holds nobody up, and what goes wrong is told of the version that did it."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from rung.control.observation import REVIVE, Finished
from rung.control.swap import Outcome
from servers.models import config_text
from servers.s3 import S3Server
from servers.workers import order, running_workers

pytestmark = [pytest.mark.cluster, pytest.mark.paced]

MB = 1_000_000
DIGITS = {1: 1, 2: 8, 3: 16, 4: 24}


async def test_a_server_that_is_slow_to_load_one_model_holds_nobody_up_for_the_others(s3: S3Server) -> None:
    models = {name: {1: 1} for name in ("alpha", "beta", "gamma")}
    wanted = {name: order(versions, 1) for name, versions in models.items()}
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
        other = order({1: 1}, 1)
        server.worker.want({"other": other}, {})
        pid = await server.signal_stub("other", 1, signal.SIGSTOP)
        try:
            server.worker.want({"other": other, "digits": order(DIGITS, 3, 2, 1)}, {})
            await server.until_next_look()
            assert "digits" in server.worker.swapping(), "version 1 waits for its turn"
            server.worker.want({"other": other, "digits": order(DIGITS, 2, 1)}, {})
            await server.until(lambda: server.has("digits") == {2}, "version 2 answers", 10)
            assert not server.has("other")
        finally:
            os.kill(pid, signal.SIGCONT)
        await server.until(lambda: server.has("digits") == {1, 2} and server.has("other") == {1}, "all is as wanted")


async def test_a_load_that_hangs_is_named_and_no_other_version_is_blamed_for_it(s3: S3Server) -> None:
    async with running_workers(s3, {"digits": DIGITS}, load_deadline_seconds=2.0) as (server,):
        await server.start_with("digits", 2)
        hanging = asyncio.create_task(server.client.load("digits", frozenset({2, 3}), config_text("digits"), 60))
        try:
            # Triton never notices that the process that loads has died.
            await server.signal_stub("digits", 3, signal.SIGKILL)
            await server.until(lambda: server.is_loading("digits") == {3}, "version 3 is being loaded")
            server.worker.want({"digits": order(DIGITS, 4)}, {})
            await server.until(lambda: bool(server.ended), "it was tried")
            sentence = server.ended[0].outcome.sentence
            assert "behind a load of version 3 that does not end" in sentence
            assert "kubectl delete pod server-0 -n edge" in sentence
            await server.until(lambda: not server.worker.swapping(), "the swap has ended")
            for _ in range(3):
                await server.until_next_look()
                assert not server.worker.swapping(), "nothing more is queued behind the load that hangs"
            assert {broken.version for broken in server.worker.broken.all()} == {3}
            assert server.has("digits") == {2}
        finally:
            server.triton.kill()
            await asyncio.gather(hanging, return_exceptions=True)
        server.triton.start()
        server.worker.load_deadline_seconds = 60.0
        await server.until(lambda: server.has("digits") == {4}, "what is wanted is loaded after the restart")


async def test_a_standby_whose_process_died_is_named_and_what_answers_is_not_blamed(s3: S3Server) -> None:
    async with running_workers(s3, {"digits": DIGITS}) as (server,):
        await server.start_with("digits", 2, 3)
        server.worker.want({"digits": order(DIGITS, 3, 2)}, {})

        async def kill_standby() -> Finished:
            await server.signal_stub("digits", 2, signal.SIGKILL)
            server.worker.suspect({"digits": frozenset({2})})
            await server.until(lambda: bool(server.ended), "it was loaded again, or not")
            assert server.ended[0].kind == REVIVE
            return server.ended.pop()

        revived = await kill_standby()
        assert revived.outcome.sentence == "the process of version 2 had died; it was loaded again"
        await server.until(lambda: server.has("digits") == {2, 3}, "it is loaded")
        (server.triton.repository / "digits/2/model.onnx").write_bytes(b"this is no network")
        failed = await kill_standby()
        assert failed.outcome.outcome is Outcome.LOAD_FAILED
        assert "the process of version 2 died, and loading it again failed" in failed.outcome.sentence
        assert {broken.version for broken in server.worker.broken.all()} == {2}
        await server.until(lambda: server.has("digits") == {3}, "version 3 goes on")


async def test_memory_counts_what_was_loaded_since_it_was_measured_and_only_while_that_is_fresh(
    s3: S3Server, caplog: pytest.LogCaptureFixture
) -> None:
    """The agent measures every two seconds: what it said last is from before the first load."""
    models = {name: {1: 1} for name in ("alpha", "beta")}
    wanted = {name: order(versions, 1, memory_bytes=60 * MB) for name, versions in models.items()}
    async with running_workers(s3, models, memory_limit_bytes=100 * MB) as (server,):
        server.worker.want(wanted, {})
        await server.until(lambda: len(server.ended) == 2, "both were tried")
        first, second = server.ended
        assert first.outcome.ok
        assert second.outcome.outcome is Outcome.REFUSED_MEMORY
        assert "60 MB in use and 60 MB for version 1 together pass the limit of 100 MB" in second.outcome.sentence
        assert server.has(first.model) == {1}
        assert not server.has(second.model)
        await server.agent.aclose()
        await server.until(lambda: bool(server.worker.observation.inventory_message), "the agent is missed")
        server.clock.ahead_seconds = 60.0
        await server.until(lambda: server.has(second.model) == {1}, "nobody knows what is in use, so it is loaded")
    assert "so no load there is checked against it: the agent at 127.0.0.1" in caplog.text
