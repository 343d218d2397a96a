"""The adapter against a real Triton, a hung one, a dead one, and an address where nobody is."""

from __future__ import annotations

import asyncio
import signal
import time

import aiohttp
import pytest

from rung.adapters.triton import (
    DeadlineExceeded,
    IndexEntry,
    Refused,
    State,
    TooLarge,
    TritonClient,
    TritonError,
    Unreachable,
)
from servers.models import config_text, write_task
from servers.ports import free_port
from servers.triton import TritonServer

pytestmark = pytest.mark.cluster

MODEL = "digits"


async def test_the_life_of_a_model_through_the_adapter(triton: TritonServer) -> None:
    text = write_task(triton.repository, MODEL, {1: 1, 2: 2})
    async with TritonClient(triton.address) as client:
        assert await client.live()
        assert await client.ready()
        assert await client.index() == ()
        await client.load(MODEL, frozenset({1, 2}), text, 30)
        assert await client.index() == (
            IndexEntry(MODEL, 1, State.READY),
            IndexEntry(MODEL, 2, State.READY),
        )
        assert await client.answering_version(MODEL, 5, config_text=text) == 2
        assert await client.answering_version(MODEL, 5, version=1, config_text=text) == 1
        assert await client.answering_version(MODEL, 5) == 2, "without a text the server is asked for its configuration"
        assert list((await client.metadata(MODEL)).versions) == ["1", "2"]
        assert (await client.config(MODEL)).max_batch_size == 8
        await client.unload(MODEL, 10)
        deadline = time.monotonic() + 20
        while any(entry.state is not State.UNAVAILABLE for entry in await client.index()):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        with pytest.raises(Refused, match="unknown model"):
            await client.answering_version(MODEL, 5, config_text=text)


async def test_requests_are_counted_from_the_moment_a_version_is_loaded(triton: TritonServer) -> None:
    text = write_task(triton.repository, MODEL, {1: 1})
    async with TritonClient(triton.address) as client:
        await client.load(MODEL, frozenset({1}), text, 30)
        async with aiohttp.ClientSession() as session, session.get(triton.metrics_url) as answer:
            page = await answer.text()
    # Nobody asked yet. That there are no counters at all is how the operator knows that nobody scrapes them.
    assert f'nv_inference_request_success{{model="{MODEL}",version="1"}} 0' in page.splitlines()


async def test_the_server_stays_ready_while_a_version_loads_and_unloads(triton: TritonServer) -> None:
    text = write_task(triton.repository, MODEL, {1: 1, 2: 1})
    async with TritonClient(triton.address) as client:
        await client.load(MODEL, frozenset({2}), text, 30)
        loading = asyncio.create_task(client.load(MODEL, frozenset({1, 2}), text, 30))
        seen = set()
        while not loading.done():
            assert await client.ready()
            seen |= {entry.state for entry in await client.index()}
        await loading
        await client.load(MODEL, frozenset({1}), text, 30)
        deadline = time.monotonic() + 20
        while IndexEntry(MODEL, 2, State.UNAVAILABLE, "unloaded") not in (index := await client.index()):
            assert await client.ready()
            assert time.monotonic() < deadline, index
            seen |= {entry.state for entry in index}
        assert seen >= {State.READY, State.LOADING, State.UNLOADING}


async def test_what_the_server_refuses_comes_with_its_words(triton: TritonServer) -> None:
    text = write_task(triton.repository, MODEL, {1: 1})
    async with TritonClient(triton.address) as client:
        with pytest.raises(Refused, match="at least one version must be available"):
            await client.load(MODEL, frozenset({7}), text, 10)
        with pytest.raises(Refused, match="nobody"):
            await client.load("nobody", frozenset({1}), config_text("nobody"), 10)
        with pytest.raises(Refused, match="nobody"):
            await client.config("nobody")
        assert await client.index() == ()


async def test_a_server_that_hangs_fails_in_bounded_time(triton: TritonServer) -> None:
    text = write_task(triton.repository, MODEL, {1: 1})
    async with TritonClient(triton.address) as client:
        await client.load(MODEL, frozenset({1}), text, 30)
        triton.signal_all(signal.SIGSTOP)
        try:
            async with asyncio.timeout(5):
                assert not await client.live(0.2)
                assert not await client.ready(0.2)
                for call in (
                    client.index(0.2),
                    client.load(MODEL, frozenset({1}), text, 0.2),
                    client.unload(MODEL, 0.2),
                    client.config(MODEL, 0.2),
                    client.metadata(MODEL, 0.2),
                    client.answering_version(MODEL, 0.2, config_text=text),
                ):
                    with pytest.raises(DeadlineExceeded, match=r"within 0\.2 s"):
                        await call
        finally:
            triton.signal_all(signal.SIGCONT)
        assert await client.live(10)


async def test_a_dead_server_is_unreachable_and_found_again_by_the_same_connection(triton: TritonServer) -> None:
    async with TritonClient(triton.address) as client:
        assert await client.index() == ()
        triton.kill()
        with pytest.raises(Unreachable):
            await client.index()
        assert not await client.live()
        triton.start()
        deadline = time.monotonic() + 10
        while not await client.live():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)


async def test_calls_under_way_end_when_the_server_dies(triton: TritonServer) -> None:
    text = write_task(triton.repository, MODEL, {1: 1})
    async with TritonClient(triton.address) as client:
        loading = asyncio.create_task(client.load(MODEL, frozenset({1}), text, 30))
        while not any(entry.state is State.LOADING for entry in await client.index()):
            assert not loading.done()
        triton.kill()
        with pytest.raises(Unreachable):
            await asyncio.wait_for(loading, 10)


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "no-such-host.invalid:8001"])
async def test_nobody_there(address: str) -> None:
    async with TritonClient(address.format(port=free_port())) as client:
        with pytest.raises(TritonError) as caught:
            await asyncio.wait_for(client.index(3), 10)
        assert isinstance(caught.value, Unreachable | DeadlineExceeded)


async def test_a_closed_connection_says_so(triton: TritonServer) -> None:
    text = write_task(triton.repository, MODEL, {1: 1})
    client = TritonClient(triton.address)
    loading = asyncio.create_task(client.load(MODEL, frozenset({1}), text, 30))
    while not any(entry.state is State.LOADING for entry in await client.index()):
        assert not loading.done()
    await client.close()
    with pytest.raises(Unreachable, match="closed"):
        await loading
    with pytest.raises(Unreachable, match="closed"):
        await client.index()


async def test_an_input_too_large_to_verify_with_is_not_sent(triton: TritonServer) -> None:
    text = f'name: "{MODEL}" input [ {{ name: "IMAGE" data_type: TYPE_FP32 dims: [ 3, 4096, 4096 ] }} ]'
    async with TritonClient(triton.address) as client:
        with pytest.raises(TooLarge, match="IMAGE"):
            await client.answering_version(MODEL, 1, config_text=text)
