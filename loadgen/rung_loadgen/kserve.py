"""The little of KServe v2 over gRPC that a load generator needs. All untyped third-party calls stand here.

Requests are serialised once and sent as bytes; of an answer only the version is read. The channel is grpc's own, so
reconnects, HTTP/2 and deadlines are as in any client; its name resolution and balancing can be chosen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
import numpy as np
import numpy.typing as npt
from tritonclient.grpc import service_pb2
from tritonclient.utils import serialize_byte_tensor, triton_to_np_dtype

_SERVICE = "/inference.GRPCInferenceService/"
_CHANNEL_OPTIONS = (
    # Each channel has connections of its own; by default channels to one address share a single connection.
    ("grpc.use_local_subchannel_pool", 1),
    # A retry would be a second request: it would hide a failure and add load.
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    # A server that comes back is found within a second.
    ("grpc.initial_reconnect_backoff_ms", 100),
    # This is how long one attempt to connect may take: a busy server needs more than a moment to shake hands.
    ("grpc.min_reconnect_backoff_ms", 5000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
)


class ServerError(RuntimeError):
    """The server can't be loaded as asked; the message says which server, which model and why."""


class InferCall(Protocol):
    """Sends serialised request bytes with a deadline in seconds and returns the serialised answer."""

    def __call__(self, request: bytes, *, timeout: float) -> Awaitable[bytes]:
        """Send one request."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input of a model as its server describes it: KServe datatype (FP32, ...) and shape, -1 where free."""

    name: str
    datatype: str
    shape: tuple[int, ...]


def _same(message: bytes) -> bytes:
    return message


class Channel:
    """One grpc channel to a server. `target` is grpc's: `host:port`, or `dns:///name:port` for every address."""

    def __init__(self, target: str, *, round_robin: bool = False) -> None:
        balance = (("grpc.lb_policy_name", "round_robin"),) if round_robin else ()
        self.target = target
        self._channel: Any = grpc.aio.insecure_channel(target, options=(*_CHANNEL_OPTIONS, *balance))
        self.infer: InferCall = self.method("ModelInfer")

    def method(self, name: str) -> InferCall:
        """Return a call of one method of the inference service; bytes in, bytes out."""
        call: InferCall = self._channel.unary_unary(
            _SERVICE + name, request_serializer=_same, response_deserializer=_same
        )
        return call

    async def inputs(self, model: str, timeout_seconds: float) -> tuple[TensorSpec, ...]:
        """Ask the server what the model takes. Raises ServerError when there is no answer or no such model."""
        request = service_pb2.ModelMetadataRequest(name=model).SerializeToString()
        try:
            answer = await self.method("ModelMetadata")(request, timeout=timeout_seconds)
        except grpc.RpcError as error:
            code, details = failure_of(error)
            raise ServerError(f"{self.target}: no description of model {model!r}: {code}: {details}") from None
        metadata = service_pb2.ModelMetadataResponse.FromString(answer)
        return tuple(TensorSpec(i.name, i.datatype, tuple(int(n) for n in i.shape)) for i in metadata.inputs)

    async def wait_for_model(self, model: str, deadline_seconds: float) -> tuple[TensorSpec, ...]:
        """Wait until the server describes the model; raises ServerError with the last answer after the deadline."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + deadline_seconds
        while True:
            try:
                return await self.inputs(model, min(5.0, max(0.1, deadline - loop.time())))
            except ServerError as error:
                if loop.time() + 0.25 >= deadline:
                    raise ServerError(f"{error} (waited {deadline_seconds:.0f} s)") from None
            await asyncio.sleep(0.25)

    async def close(self) -> None:
        """Close the connections at once; unanswered requests are cancelled."""
        await self._channel.close(None)


def failure_of(error: BaseException) -> tuple[str, str]:
    """Return a failed call's status name (UNAVAILABLE, DEADLINE_EXCEEDED, ...) and the server's words."""
    code: Any = getattr(error, "code", lambda: None)()
    details: Any = getattr(error, "details", lambda: "")()
    name = code.name if code is not None else type(error).__name__
    return str(name), str(details or "").strip()[:400]


RpcError: type[Exception] = grpc.RpcError


def answered_version(answer: bytes) -> int:
    """Return the version that answered. Raises ValueError for an answer that is no ModelInferResponse."""
    try:
        response = service_pb2.ModelInferResponse.FromString(answer)
    except Exception as error:  # protobuf's DecodeError has a different home in each of its implementations
        raise ValueError(f"not a ModelInferResponse: {error}") from None
    if not response.outputs:
        raise ValueError("an answer without outputs")
    return int(response.model_version)


def serialise_request(model: str, specs: Sequence[TensorSpec], tensors: dict[str, npt.NDArray[Any]]) -> bytes:
    """Return the bytes of one ModelInferRequest for the version that the server chooses.

    `tensors` maps each input's name to its array, batch dimension included. Raises ServerError naming the input whose
    array is missing or has another datatype or shape than the model takes.
    """
    request = service_pb2.ModelInferRequest(model_name=model)
    for spec in specs:
        array = tensors.get(spec.name)
        if array is None:
            raise ServerError(f"model {model!r} takes input {spec.name!r}, which the data doesn't have")
        if array.ndim != len(spec.shape) or any(
            want not in (-1, have) for want, have in zip(spec.shape, array.shape, strict=True)
        ):
            raise ServerError(f"input {spec.name!r} of {model!r} takes shape {spec.shape}, the data has {array.shape}")
        request.inputs.add(name=spec.name, datatype=spec.datatype, shape=array.shape)
        request.raw_input_contents.append(_raw(np.ascontiguousarray(array, dtype=numpy_dtype(spec, model)), spec))
    return bytes(request.SerializeToString())


def _raw(array: npt.NDArray[Any], spec: TensorSpec) -> bytes:
    """Return the bytes of a tensor as KServe v2 has them: little-endian, text with its length before it."""
    if spec.datatype == "BYTES":
        return bytes(serialize_byte_tensor(array).item()) if array.size else b""
    return array.tobytes()


def numpy_dtype(spec: TensorSpec, model: str) -> np.dtype[Any]:
    """Return the numpy type of an input: object for BYTES. Raises ServerError for unknown types."""
    kind: Any = triton_to_np_dtype(spec.datatype)
    if kind is None:
        raise ServerError(f"input {spec.name!r} of {model!r} has datatype {spec.datatype}, which is not supported")
    dtype: np.dtype[Any] = np.dtype(kind)
    return dtype
