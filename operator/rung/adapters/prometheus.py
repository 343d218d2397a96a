"""Reads the raw samples of a pool from Prometheus: one query a signal, whatever the number of servers.

prometheus-api-client is synchronous, and its timeout is one of silence: a server that sends a byte now and then would
hold it for ever, and a huge answer would fill the memory. So each signal has its own line (a session used by one query
at a time, in a thread), answers are bounded in size, and a query that passes its deadline has its sockets shut.
"""

from __future__ import annotations

import asyncio
import io
import json
import socket
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from math import ceil, inf, isfinite
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import requests
import urllib3
from prometheus_api_client import PrometheusConnect
from prometheus_api_client.exceptions import PrometheusApiClientException
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util.retry import Retry

from rung.core.signals import RawSeries
from rung.core.snapshot import Sample

CHUNK_BYTES = 65536
REGEX_SPECIALS = frozenset(r"\.+*?()|[]{}^$")


class MetricsUnavailable(Exception):  # noqa: N818 - it is a state of the world more than a fault
    """Prometheus gave no usable answer; the message is one sentence for a person."""


class CpuSource(StrEnum):
    """Where the CPU use of a server comes from."""

    AGENT = "Agent"
    CADVISOR = "CAdvisor"


@dataclass(frozen=True, slots=True)
class PoolSignals:
    """The raw series of a pool by pod; a pod without series is absent."""

    cpu_seconds: Mapping[str, tuple[RawSeries, ...]] = field(default_factory=dict)
    success: Mapping[str, tuple[RawSeries, ...]] = field(default_factory=dict)
    failure: Mapping[str, tuple[RawSeries, ...]] = field(default_factory=dict)
    pending: Mapping[str, tuple[RawSeries, ...]] = field(default_factory=dict)
    gate: Mapping[str, tuple[RawSeries, ...]] = field(default_factory=dict)
    """What the gates count; the label `__name__` tells which of `GATE_*` it is."""


GATE_ARRIVALS, GATE_LATE, GATE_WAITING = (
    "rung_gate_arrivals_total", "rung_gate_late_total", "rung_gate_waiting_requests",
)  # fmt: skip

_CPU = {
    CpuSource.AGENT: ("rung_agent_triton_cpu_seconds_total", ""),
    CpuSource.CADVISOR: ("container_cpu_usage_seconds_total", ',container="triton"'),
}
OVERLAP_SECONDS = {CpuSource.AGENT: 10, CpuSource.CADVISOR: 45}
"""No more than this of what was read before is read again: a rate needs the sample before it, and cAdvisor has few."""
SLACK_SECONDS = 0.5
"""Scrapes and queries are not made to the moment."""
_REQUESTS = {
    "success": "nv_inference_request_success",
    "failure": "nv_inference_request_failure",
    "pending": "nv_inference_pending_request_count",
}


class Prometheus:
    """One Prometheus, asked for the signals of pools. `read` calls must not overlap; one instance for each pool."""

    def __init__(
        self,
        url: str,
        *,
        cpu_source: CpuSource = CpuSource.AGENT,
        range_seconds: int = 30,
        gates: bool = False,
        deadline_seconds: float = 2.0,
        max_response_bytes: int = 32 * 1024 * 1024,
        verify: bool | str = True,
    ) -> None:
        """Open nothing yet. Raises ValueError when the URL is not http(s).

        `gates`: there is a gate in front of each server, so what it counts is read, too. `verify` is a CA bundle or a
        switch.
        """
        self._cpu_source = cpu_source
        self._gates = gates
        self._range_seconds = range_seconds
        self._read: tuple[float, frozenset[str]] | None = None
        """When the last call that had an answer began, and what it was for."""
        self._overlap_seconds = float(OVERLAP_SECONDS[cpu_source])
        """How much of what it read has to be read again."""
        self._deadline_seconds = deadline_seconds
        names = ("cpu_seconds", *_REQUESTS, *(["gate"] if gates else []))
        self._lines = {name: PrometheusLine(url, deadline_seconds, max_response_bytes, verify) for name in names}
        self._executor = ThreadPoolExecutor(max_workers=len(names), thread_name_prefix="prometheus")

    async def read(self, namespace: str, pods: Collection[str]) -> PoolSignals:
        """Return the raw samples of the given pods since the last call that had an answer, and of some seconds before.

        The first time, and when there are pods that were not asked for before, of the last `range_seconds`. Raises
        MetricsUnavailable when any of the signals can't be had within the deadline. A metric that nobody exports is no
        error: its pods are absent from the answer.
        """
        if not pods:
            return PoolSignals()
        began = time.monotonic()
        queries = self.queries(namespace, pods, self._span_seconds(pods, began))
        results = await asyncio.gather(*(self._ask(name, query) for name, query in queries.items()))
        wanted = frozenset(pods)
        self._read = (began, wanted)
        by_signal = {name: _by_pod(found, wanted) for name, found in zip(queries, results, strict=True)}
        self._overlap_seconds = overlap_seconds(by_signal.values(), OVERLAP_SECONDS[self._cpu_source])
        return PoolSignals(**by_signal)

    def _span_seconds(self, pods: Collection[str], now_monotonic: float) -> int:
        if self._read is None or not self._read[1].issuperset(pods):
            return self._range_seconds
        return min(self._range_seconds, ceil(now_monotonic - self._read[0] + self._overlap_seconds))

    def queries(self, namespace: str, pods: Collection[str], span_seconds: int) -> dict[str, str]:
        """Return the query of each signal (PromQL, an instant query of a range selector)."""
        metric, extra = _CPU[self._cpu_source]
        names = "|".join(_escape_regex(pod) for pod in sorted(pods))
        labels = f"namespace={_quote(namespace)},pod=~{_quote(names)}"
        span = f"[{span_seconds}s]"
        queries = {"cpu_seconds": f"{metric}{{{labels}{extra}}}{span}"}
        if self._gates:
            gate = "|".join((GATE_ARRIVALS, GATE_LATE, GATE_WAITING))
            queries["gate"] = f"{{__name__=~{_quote(gate)},{labels}}}{span}"
        return queries | {name: f"{counter}{{{labels}}}{span}" for name, counter in _REQUESTS.items()}

    async def close(self) -> None:
        """Shut every connection; queries under way end with MetricsUnavailable."""
        for line in self._lines.values():
            line.abort()
        self._executor.shutdown(wait=False, cancel_futures=True)
        for line in self._lines.values():
            line.close()

    async def _ask(self, name: str, query: str) -> list[RawSeries]:
        line = self._lines[name]
        if line.busy:
            raise MetricsUnavailable(f"Prometheus at {line.shown} still has not answered the query before.")
        line.busy = True
        try:
            future = asyncio.get_running_loop().run_in_executor(self._executor, line.query, query)
        except RuntimeError as error:
            line.busy = False
            raise MetricsUnavailable(f"Prometheus at {line.shown} is not asked any more: closed.") from error
        try:
            done, _ = await asyncio.wait({future}, timeout=self._deadline_seconds)
            if not done:
                raise MetricsUnavailable(
                    f"Prometheus at {line.shown} did not answer within {self._deadline_seconds:g} s."
                )
            return future.result()
        finally:
            if not future.done():
                line.abort()
                future.add_done_callback(_swallow)


class PrometheusLine:
    """One connection to Prometheus, used by one query at a time."""

    def __init__(self, url: str, deadline_seconds: float, max_bytes: int, verify: bool | str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            # Not repeated here: it may hold a password.
            raise ValueError("the address of Prometheus must start with http:// or https:// and name a host")
        self.shown = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))
        self.busy = False
        self._deadline_seconds = deadline_seconds
        self._adapter = _Adapter()
        self._session = _BoundedSession(deadline_seconds, max_bytes)
        self._session.verify = verify
        base = url.rstrip("/")
        self._client = PrometheusConnect(
            url=base, session=self._session, timeout=deadline_seconds, headers={"Accept-Encoding": "identity"}
        )
        # The client mounts an adapter that repeats failed requests for seconds; the longer prefix wins.
        self._session.mount(f"{base}/api/", self._adapter)

    def query(self, query: str) -> list[RawSeries]:
        """Ask; in a thread. Raises MetricsUnavailable."""
        try:
            return _series(self._client.custom_query(query))
        except (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError) as error:
            raise MetricsUnavailable(
                f"Prometheus at {self.shown} did not answer within {self._deadline_seconds:g} s."
            ) from error
        except PrometheusApiClientException as error:
            raise MetricsUnavailable(f"Prometheus at {self.shown} refused the query: {str(error)[:300]}") from error
        except requests.exceptions.JSONDecodeError as error:
            raise MetricsUnavailable(
                f"What answers at {self.shown} is no Prometheus: its answer is no JSON."
            ) from error
        except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError) as error:
            raise MetricsUnavailable(f"Prometheus at {self.shown} can't be read: {_root_cause(error)}.") from error
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError, AttributeError) as error:
            raise MetricsUnavailable(
                f"What answers at {self.shown} is no Prometheus: its answer has an unknown shape ({error!s:.100})."
            ) from error
        except OSError as error:
            raise MetricsUnavailable(f"Prometheus at {self.shown} can't be read: {error}.") from error
        finally:
            self.busy = False

    def abort(self) -> None:
        """Shut the sockets under a query that hangs, so that its thread ends."""
        for connected in list(self._adapter.sockets):
            with suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the session."""
        self._session.close()


class _BoundedSession(requests.Session):
    """A session whose answers end at a size and at a deadline, and that goes only where it was sent."""

    def __init__(self, deadline_seconds: float, max_bytes: int) -> None:
        super().__init__()
        self.trust_env = False
        self.max_redirects = 0
        self._deadline_seconds = deadline_seconds
        self._max_bytes = max_bytes

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        """Send, and read the whole body within the bounds."""
        ends = time.monotonic() + self._deadline_seconds
        response = super().send(request, **{**kwargs, "stream": True})
        if response.headers.get("Content-Encoding", "identity") != "identity":
            response.close()
            raise requests.exceptions.ContentDecodingError("it sent a compressed answer that nobody asked for")
        body = io.BytesIO()
        for chunk in response.raw.stream(CHUNK_BYTES, decode_content=False):
            body.write(chunk)
            if body.tell() > self._max_bytes:
                response.close()
                raise requests.exceptions.RequestException(f"its answer is larger than {self._max_bytes} bytes")
            if time.monotonic() > ends:
                response.close()
                raise requests.exceptions.ReadTimeout("the answer did not end in time")
        body.seek(0)
        response.raw = body
        return response


class _Adapter(HTTPAdapter):
    """An adapter that repeats nothing and knows the sockets it opened."""

    def __init__(self) -> None:
        self.sockets: list[socket.socket] = []
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=Retry(0, read=False, redirect=False))

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make a pool whose connections note their socket here, the newest only: one query at a time."""
        sockets = self.sockets

        class Plain(HTTPConnection):
            def connect(self) -> None:
                super().connect()
                sockets[:] = [self.sock] if self.sock is not None else []

        class Secure(HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                sockets[:] = [self.sock] if self.sock is not None else []

        class PlainPool(HTTPConnectionPool):
            ConnectionCls = Plain

        class SecurePool(HTTPSConnectionPool):
            ConnectionCls = Secure

        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}


def _series(result: object) -> list[RawSeries]:
    """Turn the answer of a range selector into series. Raises TypeError, ValueError or KeyError when it is none."""
    if not isinstance(result, list):
        raise TypeError("no list of series")
    found = []
    for entry in result:
        labels = entry["metric"]
        if not isinstance(labels, dict) or not all(isinstance(value, str) for value in labels.values()):
            raise TypeError("labels are no texts")
        samples = tuple(Sample(float(moment), float(value)) for moment, value in entry["values"])
        found.append(RawSeries(labels, samples))
    return found


def _by_pod(found: list[RawSeries], wanted: frozenset[str]) -> dict[str, tuple[RawSeries, ...]]:
    by_pod: dict[str, list[RawSeries]] = {}
    for series in found:
        pod = series.labels.get("pod", "")
        if pod in wanted:
            by_pod.setdefault(pod, []).append(series)
    return {pod: tuple(series) for pod, series in by_pod.items()}


def overlap_seconds(signals: Iterable[Mapping[str, Sequence[RawSeries]]], most_seconds: float) -> float:
    """Return how far back the next query must reach from when this one was made, to have every pod's newest sample.

    The newest sample of all may be as old as scrapes are apart; that of another pod is older by what is seen here. A
    pod that lags behind by more than `most_seconds` is not waited for.
    """
    newest: list[float] = []
    apart = 0.0
    for pods in signals:
        for series in pods.values():
            times = [s.time_seconds for s in max((one.samples for one in series), key=_last, default=())]
            if times and all(map(isfinite, times)):
                newest.append(times[-1])
                apart = max([apart, *(after - before for before, after in pairwise(times))])
    if apart <= 0.0:
        return most_seconds
    lags = (max(newest) - time for time in newest)
    return min(most_seconds, apart + max(lag for lag in lags if lag <= most_seconds) + SLACK_SECONDS)


def _last(samples: Sequence[Sample]) -> float:
    return samples[-1].time_seconds if samples else -inf


def _escape_regex(text: str) -> str:
    return "".join(f"\\{character}" if character in REGEX_SPECIALS else character for character in text)


def _quote(text: str) -> str:
    """Return a PromQL string; its escapes are those of JSON."""
    return json.dumps(text, ensure_ascii=False)


def _root_cause(error: BaseException) -> str:
    """Return the innermost cause in a few words: the outer layers repeat addresses of objects."""
    seen = 0
    while seen < 10 and (inner := getattr(error, "reason", None) or error.__cause__ or error.__context__) is not None:
        if not isinstance(inner, BaseException):
            break
        error, seen = inner, seen + 1
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__)[:200].rstrip(".")


def _swallow(future: asyncio.Future[list[RawSeries]]) -> None:
    """Take note of how an abandoned query ended, so that asyncio does not complain of it."""
    if not future.cancelled():
        future.exception()
