"""What the agent passes on of Triton's own metrics: the counters that the operator reads.

A Prometheus that goes by annotations scrapes one port of a pod, so all that the operator needs of a server stands on
the agent's page. A server whose own page is scraped as well is not counted twice (`rung.core.signals`).
"""

from __future__ import annotations

import asyncio
import logging

import aiohttp
from yarl import URL

log = logging.getLogger(__name__)

DEADLINE_SECONDS = 0.5
"""Half of the shortest scrape: a Triton that hangs must not make the agent's own page late."""
PASSED_ON = ("nv_inference_request_success", "nv_inference_request_failure", "nv_inference_pending_request_count")

_LINE_STARTS = tuple(
    start.encode() for name in PASSED_ON for start in (f"# HELP {name} ", f"# TYPE {name} ", f"{name}{{")
)


class TritonMetrics:
    """Reads the metrics of one Triton.

    Args:
        address: host and port of Triton's metrics.
    """

    def __init__(self, address: tuple[str, int]) -> None:
        host, port = address
        self._url = URL.build(scheme="http", host=host, port=port, path="/metrics")
        self._session: aiohttp.ClientSession | None = None
        self._silent = False

    async def close(self) -> None:
        """Close the connection."""
        if self._session is not None:
            await self._session.close()

    async def passed_on(self) -> bytes:
        """Prometheus text of this moment; empty when Triton does not give it in time, rather than that of before."""
        try:
            page = await self._page()
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            if not self._silent:
                what = str(error) or f"no answer within {DEADLINE_SECONDS:g} s"
                log.warning("demand is not known until Triton gives its metrics at %s: %s", self._url, what)
            self._silent = True
            return b""
        self._silent = False
        return b"".join(line for line in page.splitlines(keepends=True) if line.startswith(_LINE_STARTS))

    async def _page(self) -> bytes:
        if self._session is None:
            self._session = aiohttp.ClientSession()
        async with (
            asyncio.timeout(DEADLINE_SECONDS),
            self._session.get(self._url, allow_redirects=False) as answer,
        ):
            answer.raise_for_status()
            return await answer.read()
