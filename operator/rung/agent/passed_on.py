"""What the agent passes on of its neighbours' metrics: Triton's request counters, and all of the gate's.

A Prometheus that goes by annotations scrapes one port of a pod, so all that the operator needs of a server stands on
the agent's page. A server whose own page is scraped as well is not counted twice (`rung.core.signals`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import aiohttp
from yarl import URL

log = logging.getLogger(__name__)

DEADLINE_SECONDS = 0.5
"""Half of the shortest scrape: a neighbour that hangs must not make the agent's own page late."""
OF_TRITON = ("nv_inference_request_success", "nv_inference_request_failure", "nv_inference_pending_request_count")
OF_GATE = ("rung_gate_",)


class PassedOn:
    """Reads the metrics of one neighbour in the pod.

    Args:
        whose: the neighbour, for people.
        address: host and port of its metrics.
        names: what is passed on: metrics whose names start so.
    """

    def __init__(self, whose: str, address: tuple[str, int], names: Sequence[str]) -> None:
        host, port = address
        self._whose = whose
        self._url = URL.build(scheme="http", host=host, port=port, path="/metrics")
        self._starts = tuple(f"{start}{name}".encode() for name in names for start in ("# HELP ", "# TYPE ", ""))
        self._session: aiohttp.ClientSession | None = None
        self._silent = False

    async def close(self) -> None:
        """Close the connection."""
        if self._session is not None:
            await self._session.close()

    async def page(self) -> bytes:
        """Prometheus text of this moment; empty when it is not given in time, rather than that of before."""
        try:
            page = await self._ask()
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            if not self._silent:
                what = str(error) or f"no answer within {DEADLINE_SECONDS:g} s"
                log.warning("demand is not known until %s gives its metrics at %s: %s", self._whose, self._url, what)
            self._silent = True
            return b""
        self._silent = False
        return b"".join(line for line in page.splitlines(keepends=True) if line.startswith(self._starts))

    async def _ask(self) -> bytes:
        if self._session is None:
            self._session = aiohttp.ClientSession()
        async with (
            asyncio.timeout(DEADLINE_SECONDS),
            self._session.get(self._url, allow_redirects=False) as answer,
        ):
            answer.raise_for_status()
            return await answer.read()
