"""What `helm test` asks: does the operator answer, does Triton?"""

from __future__ import annotations

import asyncio
import time

import aiohttp

from rung.adapters.triton import TritonClient

PAUSE_SECONDS = 1.0


async def check_operator(url: str, deadline_seconds: float) -> str:
    """Return what is wrong with the operator's `/healthz` at the deadline; empty when it answers well before."""
    end = time.monotonic() + deadline_seconds
    fault = ""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
        while time.monotonic() < end:
            try:
                async with session.get(f"{url.rstrip('/')}/healthz") as answer:
                    if answer.status == 200:
                        return ""
                    fault = (await answer.text()).strip() or f"status {answer.status}"
            except (aiohttp.ClientError, TimeoutError) as error:
                fault = str(error) or type(error).__name__
            await asyncio.sleep(PAUSE_SECONDS)
    return f"the operator at {url} is not well: {fault}"


async def check_triton(address: str, deadline_seconds: float) -> str:
    """Return what is wrong when no Triton is live at the deadline; empty when one is before."""
    end = time.monotonic() + deadline_seconds
    async with TritonClient(address) as client:
        while time.monotonic() < end:
            if await client.live():
                return ""
            await asyncio.sleep(PAUSE_SECONDS)
    return f"no Triton answers at {address}"
