"""Profiles a model that a server serves already: nothing is loaded or unloaded, no repository is needed.

Any Triton will do, in any model control mode, and whatever else it serves.
"""

from __future__ import annotations

import aiohttp

from rung.adapters.agent import AgentError
from rung.adapters.triton import State, TritonClient, TritonError
from rung_loadgen.kserve import Channel, RpcError, ServerError, TensorSpec, answered_version, failure_of
from rung_porting.profiler.conditions import Bench, Conditions
from rung_porting.profiler.document import ProfileDocument
from rung_porting.profiler.errors import ProfileError
from rung_porting.profiler.measure import Measured, Subject, VersionMeasurement
from rung_porting.profiler.result import configuration, document
from rung_porting.profiler.variants import batch_size_of, instances_of


async def served_subject(bench: Bench, channel: Channel, model: str, conditions: Conditions) -> tuple[Subject, int]:
    """Look at a model that is served; returns what is to be measured, and its batch size.

    Raises ProfileError that says what to do when the server is away, the model isn't ready or can't be measured.
    """
    async with TritonClient(bench.triton) as server:
        if not await server.live():
            raise ProfileError(
                f"nothing answers as a Triton at {bench.triton}; give the address of its gRPC API, HOST:8001 by default"
            )
        try:
            config = await server.config(model)
            specs = await channel.inputs(model, 5.0)
        except (TritonError, ServerError) as error:
            raise ProfileError(
                f"{model}: not ready on {bench.triton}: {error}; {await _ready(server, model)}"
            ) from None
    if config.model_transaction_policy.decoupled:
        raise ProfileError(f"{model}: it is decoupled, any number of answers to a request: that can't be measured here")
    if config.HasField("sequence_batching"):
        raise ProfileError(f"{model}: it takes sequences, whose requests depend on each other: can't be measured here")
    try:
        payloads = conditions.payloads(model, specs)
    except ServerError as error:
        raise ProfileError(str(error)) from None
    batch, instances = batch_size_of(config), instances_of(config)
    await _answers_once(channel, model, payloads[0], specs_told=_told(config.max_batch_size, specs, conditions))
    subject = Subject(
        channel,
        model,
        payloads,
        conditions.slo_seconds,
        gauge=bench.gauge,
        parallel=batch * instances,
        cpu_limit_cores=conditions.cpu_cores,
    )
    return subject, batch


async def profile_served(bench: Bench, model: str, conditions: Conditions) -> tuple[ProfileDocument, Measured]:
    """Measure a model as it is served. Raises ProfileError naming it."""
    channel = Channel(bench.triton)
    try:
        subject, batch = await served_subject(bench, channel, model, conditions)
        measurement = VersionMeasurement(subject, conditions.effort)
        # No memory: what is this model's of all that the server has can't be told without unloading it.
        await measurement.warm_up()
        measured = await measurement.measure()
    except ProfileError as error:
        text = str(error)
        raise type(error)(text if text.startswith(f"{model}: ") else f"{model}: {text}") from None
    except (TritonError, ServerError, AgentError, aiohttp.ClientError, TimeoutError) as error:
        raise ProfileError(f"{model}: {error or type(error).__name__}") from None
    finally:
        await channel.close()
    done = configuration(measured, batch, subject.parallel // batch)
    profile = document(conditions, [done])
    return profile.model_copy(update={"model": model, "version": measured.version}), measured


async def _ready(server: TritonClient, model: str) -> str:
    """Return what is served there, and why the model is not, as far as the server says."""
    try:
        index = await server.index()
    except TritonError as error:
        return f"what it has can't be listed: {error}"
    reasons = {entry.reason for entry in index if entry.model == model and entry.reason}
    ready = sorted({entry.model for entry in index if entry.state is State.READY})
    told = f"ready there: {', '.join(ready[:20]) or 'no model at all; load one'}"
    return f"its reason: {'; '.join(sorted(reasons))}; {told}" if reasons else told


async def _answers_once(channel: Channel, model: str, payload: bytes, *, specs_told: str) -> None:
    """Send one request: a model that can't take what is sent is told with what it takes."""
    try:
        answered_version(await channel.infer(payload, timeout=30.0))
    except (RpcError, ValueError) as error:
        code, details = failure_of(error)
        raise ProfileError(
            f"{model}: a single request failed: {code}: {details or error}; {specs_told}. "
            "Give real inputs with --data FILE.npz or free sizes with --shape NAME:SIZE,..."
        ) from None


def _told(max_batch_size: int, specs: tuple[TensorSpec, ...], conditions: Conditions) -> str:
    shapes = ", ".join(f"{spec.name} {spec.datatype} {list(spec.shape)}" for spec in specs)
    what = "of the given data" if conditions.data is not None else "of random values, 1 for each free size"
    return f"it takes {shapes} (max_batch_size {max_batch_size}), and was sent one {what}"
