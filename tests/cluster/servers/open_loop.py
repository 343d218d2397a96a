"""A small open-loop client: requests leave at their Poisson moments whether or not earlier ones were answered."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

from servers.models import INPUT, WIDTH

MAX_IN_FLIGHT = 2000
REQUEST_DEADLINE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Answer:
    """One request: when it was due, sent and answered (monotonic seconds), by which version or with which error.

    `said` is the version that the answer itself holds, `number` the one that the server names beside it.
    """

    due: float
    sent: float
    done: float
    number: int | None
    said: int | None
    error: str = ""

    @property
    def latency_seconds(self) -> float:
        return self.done - self.due


@dataclass
class OpenLoop:
    """The load on one task; `answers` grows while it runs."""

    address: str
    model: str
    rate_rps: float
    answers: list[Answer] = field(default_factory=list)
    sent: int = 0
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def run(self, stop: asyncio.Event) -> None:
        """Send until `stop` is set, then wait for every answer."""
        random_source = random.Random(1)
        request = service_pb2.ModelInferRequest(model_name=self.model)
        request.inputs.add(name=INPUT, datatype="FP32", shape=[1, WIDTH])
        request.raw_input_contents.append(np.ones((1, WIDTH), np.float32).tobytes())
        async with grpc.aio.insecure_channel(self.address) as channel:
            stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            due = time.monotonic()
            while not stop.is_set():
                due += random_source.expovariate(self.rate_rps)
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                self.sent += 1
                if len(self._tasks) >= MAX_IN_FLIGHT:
                    now = time.monotonic()
                    self.answers.append(Answer(due, now, now, None, None, "too many in flight"))
                    continue
                task = asyncio.create_task(self._ask(stub, request, due))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            await asyncio.gather(*self._tasks)

    async def _ask(self, stub: Any, request: Any, due: float) -> None:
        sent = time.monotonic()
        try:
            answer = await stub.ModelInfer(request, timeout=REQUEST_DEADLINE_SECONDS)
        except grpc.aio.AioRpcError as error:
            self.answers.append(
                Answer(due, sent, time.monotonic(), None, None, f"{error.code().name}: {error.details()}")
            )
            return
        said = int(np.frombuffer(answer.raw_output_contents[0], np.int64)[0])
        self.answers.append(Answer(due, sent, time.monotonic(), int(answer.model_version), said))

    @property
    def failed(self) -> list[Answer]:
        return [answer for answer in self.answers if answer.error]

    @property
    def versions(self) -> set[int | None]:
        """The versions that gave answers; the answers' own word must agree with the server's."""
        assert all(answer.number == answer.said for answer in self.answers)
        return {answer.said for answer in self.answers}

    async def wait_for(self, number: int, *, after: float, seconds: float = 20.0) -> Answer:
        """Wait until a request that was due after a moment is answered by this version."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for answer in reversed(self.answers):
                if answer.said == number and answer.due > after:
                    return answer
            await asyncio.sleep(0.005)
        raise TimeoutError(f"version {number} gave no answer within {seconds} s; last: {self.answers[-3:]}")


@asynccontextmanager
async def open_loop(address: str, model: str, rate_rps: float) -> AsyncIterator[OpenLoop]:
    """Load a task for the length of the block; at its end every request has been answered or has failed."""
    load = OpenLoop(address, model, rate_rps)
    stop = asyncio.Event()
    running = asyncio.create_task(load.run(stop))
    try:
        yield load
    finally:
        stop.set()
        await asyncio.wait_for(running, REQUEST_DEADLINE_SECONDS + 10)
