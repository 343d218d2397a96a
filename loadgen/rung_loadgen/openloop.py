"""The open loop: every request leaves at its own time, whatever became of the ones before.

Latency counts from the intended time of sending, so neither a slow server nor a slow client can hide a wait
(coordinated omission). What the client itself was late is measured beside it.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rung_loadgen.arrivals import TimesArray
from rung_loadgen.kserve import Channel, RpcError, answered_version, failure_of
from rung_loadgen.lines import LoadLine
from rung_loadgen.result import (
    BAD_ANSWER,
    CLIENT_OVERLOAD,
    OK,
    PENDING,
    ClientCost,
    Result,
    StreamResult,
    count_failures,
    count_versions,
    percentiles_milliseconds,
)

OnSecond = Callable[[Sequence[LoadLine]], None]


class LoadError(ValueError):
    """A run that was refused before anything was sent; the message says which bound it breaks."""


@dataclass(frozen=True, slots=True)
class Stream:
    """The requests of one task: when each leaves (seconds from the start, sorted) and what is sent, in turn."""

    name: str
    arrivals_seconds: TimesArray
    payloads: tuple[bytes, ...]
    slo_seconds: float


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a run. Nothing is dropped in silence: past `max_in_flight` a request fails as client_overload."""

    request_deadline_seconds: float = 10.0
    max_in_flight: int = 4096
    max_requests: int = 5_000_000
    max_seconds: float = 24 * 3600.0

    def check(self, streams: Sequence[Stream]) -> None:
        """Raise LoadError when the streams pass the bounds or can't be sent."""
        if len({stream.name for stream in streams}) != len(streams):
            raise LoadError("two streams of one name; name each task once")
        for stream in streams:
            times = stream.arrivals_seconds
            if not stream.payloads:
                raise LoadError(f"{stream.name}: nothing to send; give it at least one request")
            if times.size and (times[0] < 0 or not np.isfinite(times).all() or (np.diff(times) < 0).any()):
                raise LoadError(f"{stream.name}: arrival times must be finite, sorted and 0 or more")
            if times.size and times[-1] > self.max_seconds:
                raise LoadError(
                    f"{stream.name}: lasts {times[-1]:.0f} s, more than the bound of {self.max_seconds:.0f} s"
                )
        total = sum(stream.arrivals_seconds.size for stream in streams)
        if total > self.max_requests:
            raise LoadError(f"{total} requests are more than the bound of {self.max_requests}; scale the trace down")


class _Book:
    """The growing record of one stream."""

    def __init__(self, stream: Stream) -> None:
        count = stream.arrivals_seconds.size
        self.stream = stream
        self.finished = np.full(count, np.nan)
        self.lateness = np.zeros(count)
        self.outcome = np.full(count, PENDING, dtype=np.int16)
        self.version = np.zeros(count, dtype=np.int64)
        self.in_flight = 0
        self.sent = 0
        self.reported_sent = 0
        self.settled: list[int] = []
        """Requests that were answered or failed since the last line."""


class OpenLoop:
    """One run. Made, started once, and then only read."""

    def __init__(self, channels: Sequence[Channel], streams: Sequence[Stream], limits: Limits) -> None:
        limits.check(streams)
        if not channels:
            raise LoadError("no channel to send through")
        self._calls = [channel.infer for channel in channels]
        self._limits = limits
        self._books = [_Book(stream) for stream in streams]
        self._failure_codes: dict[str, int] = {}
        self._in_flight = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._stop = asyncio.Event()
        self._clock = time.perf_counter
        self._start = 0.0
        self._started_at = 0.0

    def stop(self) -> None:
        """Send nothing more; the run ends when what is in flight is answered or past its deadline."""
        self._stop.set()

    @property
    def stopped(self) -> bool:
        """Whether the run was ended before its time."""
        return self._stop.is_set()

    async def run(self, on_second: OnSecond | None = None) -> Result:
        """Send everything, wait for the answers, return what was measured; `on_second` gets each second's lines."""
        self._started_at = time.time()
        self._start = self._clock()
        cpu_before = time.process_time()
        reporter = asyncio.create_task(self._report(on_second)) if on_second else None
        try:
            await self._send_all()
            if self._tasks:
                # grpc ends each call at its own deadline; the second one is for calls that it forgot.
                await asyncio.wait(self._tasks, timeout=self._limits.request_deadline_seconds + 2)
        finally:
            for task in tuple(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            wall_seconds = self._clock() - self._start
            cpu_seconds = time.process_time() - cpu_before
            if reporter is not None:
                await self._finish_report(reporter, on_second)
        return self._result(wall_seconds, cpu_seconds)

    async def _send_all(self) -> None:
        times, stream_index, request_index = _merge([book.stream for book in self._books])
        loop = asyncio.get_running_loop()
        calls = len(self._calls)
        behind = 0
        for position, due in enumerate(times):
            wait = self._start + due - self._clock()
            if wait > 0:
                await self._sleep(wait)
                behind = 0
            else:
                behind += 1
                if behind % 16 == 0:
                    await asyncio.sleep(0)  # let what was started so far leave
            if self._stop.is_set():
                return
            book, index = self._books[stream_index[position]], int(request_index[position])
            book.sent = index + 1
            if self._in_flight >= self._limits.max_in_flight:
                book.lateness[index] = self._clock() - self._start - due
                self._settle(book, index, CLIENT_OVERLOAD)
                continue
            book.in_flight += 1
            self._in_flight += 1
            task = loop.create_task(self._send(book, index, position % calls))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _sleep(self, seconds: float) -> None:
        if seconds < 0.25:
            await asyncio.sleep(seconds)
            return
        # Long pauses end early when the run is stopped.
        try:
            await asyncio.wait_for(self._stop.wait(), seconds)
        except TimeoutError:
            return

    async def _send(self, book: _Book, index: int, call: int) -> None:
        stream = book.stream
        book.lateness[index] = self._clock() - self._start - stream.arrivals_seconds[index]
        failure: str | None = "DEADLINE_EXCEEDED"
        try:
            answer = await self._calls[call](
                stream.payloads[index % len(stream.payloads)], timeout=self._limits.request_deadline_seconds
            )
            book.finished[index] = self._clock() - self._start
            book.version[index] = answered_version(answer)
            failure = None
        except RpcError as error:
            failure = failure_of(error)[0]
        except ValueError:
            failure = BAD_ANSWER
        finally:
            if failure is not None:
                book.finished[index] = self._clock() - self._start
            book.in_flight -= 1
            self._in_flight -= 1
            self._settle(book, index, failure)

    def _settle(self, book: _Book, index: int, failure: str | None) -> None:
        book.outcome[index] = (
            OK if failure is None else self._failure_codes.setdefault(failure, len(self._failure_codes) + 1)
        )
        book.settled.append(index)

    @property
    def _failure_names(self) -> tuple[str, ...]:
        return tuple(self._failure_codes)

    async def _report(self, on_second: OnSecond) -> None:
        second = 0
        cpu_before, wall_before = time.process_time(), self._clock()
        while True:
            second += 1
            await asyncio.sleep(max(0.0, self._start + second - self._clock()))
            cpu, wall = time.process_time(), self._clock()
            share = (cpu - cpu_before) / max(wall - wall_before, 1e-9)
            cpu_before, wall_before = cpu, wall
            on_second(self._lines(second, share))

    async def _finish_report(self, reporter: asyncio.Task[None], on_second: OnSecond | None) -> None:
        failed = reporter.done() and not reporter.cancelled() and reporter.exception()
        reporter.cancel()
        await asyncio.gather(reporter, return_exceptions=True)
        if failed:
            raise failed
        last = math.ceil(self._clock() - self._start)
        if on_second is not None and any(book.settled or book.sent > book.reported_sent for book in self._books):
            on_second(self._lines(last, 0.0))

    def _lines(self, second: int, cpu_share: float) -> list[LoadLine]:
        return [self._line(book, second, cpu_share) for book in self._books]

    def _line(self, book: _Book, second: int, cpu_share: float) -> LoadLine:
        settled = np.array(book.settled, dtype=np.int64)
        book.settled = []
        outcome = book.outcome[settled]
        answered = settled[outcome == OK]
        latencies = book.finished[answered] - book.stream.arrivals_seconds[answered]
        lateness = book.lateness[book.reported_sent : book.sent]
        book.reported_sent = book.sent
        before, after = np.searchsorted(book.stream.arrivals_seconds, (second - 1, second))
        percentiles = percentiles_milliseconds(latencies)
        return LoadLine(
            time_seconds=round(self._started_at + second, 3),
            elapsed_seconds=second,
            task=book.stream.name,
            slo_milliseconds=book.stream.slo_seconds * 1e3,
            offered=int(after - before),
            completed=int(answered.size),
            late=int((latencies > book.stream.slo_seconds).sum()),
            in_flight=book.in_flight,
            failed=count_failures(outcome, self._failure_names),
            versions=count_versions(book.version[answered]),
            latency_p50_milliseconds=percentiles["p50"],
            latency_p95_milliseconds=percentiles["p95"],
            latency_p99_milliseconds=percentiles["p99"],
            latency_max_milliseconds=percentiles["max"],
            client_cpu_share=round(cpu_share, 4),
            client_lateness_p99_milliseconds=round(float(np.percentile(lateness, 99)) * 1e3, 3)
            if lateness.size
            else 0.0,
        )

    def _result(self, wall_seconds: float, cpu_seconds: float) -> Result:
        lateness = np.concatenate([book.lateness[: book.sent] for book in self._books] or [np.zeros(0)])
        return Result(
            streams=tuple(
                StreamResult(
                    name=book.stream.name,
                    slo_seconds=book.stream.slo_seconds,
                    intended_seconds=book.stream.arrivals_seconds[: book.sent],
                    finished_seconds=book.finished[: book.sent],
                    lateness_seconds=book.lateness[: book.sent],
                    outcome=book.outcome[: book.sent],
                    version=book.version[: book.sent],
                    failure_names=self._failure_names,
                )
                for book in self._books
            ),
            client=ClientCost(
                cpu_seconds=cpu_seconds,
                wall_seconds=wall_seconds,
                requests=int(lateness.size),
                lateness_p99_seconds=float(np.percentile(lateness, 99)) if lateness.size else 0.0,
                lateness_max_seconds=float(lateness.max()) if lateness.size else 0.0,
            ),
            started_at_seconds=self._started_at,
        )


def _merge(
    streams: Sequence[Stream],
) -> tuple[TimesArray, np.ndarray[tuple[int], np.dtype[np.int64]], np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Return all arrivals in order of time, with the stream and the place in the stream of each."""
    if not streams:
        return np.zeros(0), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    sizes = [stream.arrivals_seconds.size for stream in streams]
    times = np.concatenate([stream.arrivals_seconds for stream in streams])
    stream_index = np.repeat(np.arange(len(streams), dtype=np.int64), sizes)
    request_index = np.concatenate([np.arange(size, dtype=np.int64) for size in sizes])
    order = np.argsort(times, kind="stable")
    return times[order], stream_index[order], request_index[order]


async def run(
    target: str,
    streams: Sequence[Stream],
    *,
    limits: Limits | None = None,
    channels: int = 1,
    round_robin: bool = False,
    on_second: OnSecond | None = None,
) -> Result:
    """Send the streams to `target` (host:port) through connections of their own and return what was measured.

    Raises LoadError before anything is sent when the streams pass the limits. A server that is away is no error here:
    its requests fail by name (UNAVAILABLE), as a client's would.
    """
    opened = [Channel(target, round_robin=round_robin) for _ in range(channels)]
    try:
        return await OpenLoop(opened, streams, limits or Limits()).run(on_second)
    finally:
        await asyncio.gather(*(channel.close() for channel in opened))
