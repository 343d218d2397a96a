"""Triton Inference Server over the KServe v2 gRPC API: what one server has loaded, and changing it.

Every call has a deadline and ends in an answer or in one of three errors, so that a dead or hung server costs bounded
time and nothing else. Source of the calls: the KServe v2 protocol and Triton's model repository extension.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from types import TracebackType
from typing import Any, Self

import grpc
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

VERIFICATION_LIMIT_BYTES = 4 * 1024 * 1024
"""A model whose input is larger than this is not verified by an inference: it would cost more than it tells."""

_CHANNEL_OPTIONS = (
    # A restarted server is found again within a second; the default waits up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),
)

_ELEMENT_BYTES = {
    "BOOL": 1, "UINT8": 1, "UINT16": 2, "UINT32": 4, "UINT64": 8, "INT8": 1, "INT16": 2, "INT32": 4, "INT64": 8,
    "FP16": 2, "BF16": 2, "FP32": 4, "FP64": 8, "BYTES": 4,
}  # fmt: skip
"""Size of one zero of each KServe v2 type; BYTES is a length of zero."""


class TritonError(Exception):
    """A call to a Triton server that did not succeed."""


class Unreachable(TritonError):  # noqa: N818 - read as a sentence where it is caught
    """Nothing answers at the server's address, or the connection broke during the call."""


class DeadlineExceeded(TritonError):  # noqa: N818
    """The server did not answer in time. What was asked for may still happen."""


class Refused(TritonError):  # noqa: N818
    """The server answered with an error, or what was to be sent to it is not valid; the message says which."""


class TooLarge(Refused):
    """A verification inference would cost more than it tells; not tried."""


class State(StrEnum):
    """State of a version in Triton's repository index. UNKNOWN: listed, and never loaded."""

    READY = "READY"
    LOADING = "LOADING"
    UNLOADING = "UNLOADING"
    UNAVAILABLE = "UNAVAILABLE"
    UNKNOWN = "UNKNOWN"


_STATES = {state.value: state for state in State}


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One version in a server's repository index, with the server's reason when it is not ready."""

    model: str
    number: int
    state: State
    reason: str = ""


@lru_cache(maxsize=1024)
def parse_config(config_text: str) -> model_config_pb2.ModelConfig:
    """Parse the text of a config.pbtxt. The result is shared: don't change it.

    Raises Refused when the text is not a model configuration.
    """
    try:
        return text_format.Parse(config_text, model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        raise Refused(f"config.pbtxt can't be read: {error}") from error


@lru_cache(maxsize=4096)
def config_override(config_text: str, versions: frozenset[int]) -> str:
    """Return the whole configuration as JSON, changed to serve exactly these versions.

    Triton takes an override as the complete configuration, so everything in `config_text` is in it.
    Raises Refused when the text is not a model configuration, ValueError when `versions` is empty.
    """
    if not versions:
        raise ValueError("a configuration that serves no version can't be loaded")
    config = model_config_pb2.ModelConfig()
    config.CopyFrom(parse_config(config_text))
    config.ClearField("version_policy")
    config.version_policy.specific.versions.extend(sorted(versions))
    return json_format.MessageToJson(config, preserving_proto_field_name=True, indent=None)


def _zeros(name: str, datatype: str, shape: Iterable[int]) -> tuple[Any, bytes]:
    sizes = [size if size > 0 else 1 for size in shape]
    tensor = service_pb2.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=sizes)
    size_bytes = math.prod(sizes) * _ELEMENT_BYTES.get(datatype, 4)
    if size_bytes > VERIFICATION_LIMIT_BYTES:
        raise TooLarge(f"input '{name}' takes {size_bytes} bytes: too large for a verification inference")
    return tensor, bytes(size_bytes)


def _verification_inputs(config: model_config_pb2.ModelConfig) -> list[tuple[Any, bytes]]:
    """Zero-filled inputs as the configuration describes them, a batch of one where the model batches."""
    batch = [1] if config.max_batch_size > 0 else []
    inputs = []
    for tensor in config.input:
        name = model_config_pb2.DataType.Name(tensor.data_type).removeprefix("TYPE_")
        inputs.append(_zeros(tensor.name, "BYTES" if name == "STRING" else name, [*batch, *tensor.dims]))
    return inputs


def _came_from_server(error: grpc.aio.AioRpcError) -> bool:
    """Whether a status was sent by the server: Triton says UNAVAILABLE of a model too, not only of itself."""
    return "received from peer" in (error.debug_error_string() or "")


class TritonClient:
    """The connection to one server. `address` is host:port of its gRPC API; close it, or use it in `async with`."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._closed = False
        self._channel = grpc.aio.insecure_channel(address, options=_CHANNEL_OPTIONS)
        self._stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; calls under way raise Unreachable."""
        self._closed = True
        await self._channel.close()

    async def _call(self, method: Callable[..., Awaitable[Any]], request: Any, deadline_seconds: float) -> Any:
        if self._closed:
            raise Unreachable(f"{self.address}: the connection was closed")
        try:
            return await method(request, timeout=deadline_seconds)
        except asyncio.CancelledError:
            # Closing a channel cancels its calls, which must not look as if the caller had been cancelled.
            task = asyncio.current_task()
            if self._closed and not (task and task.cancelling()):
                raise Unreachable(f"{self.address}: the connection was closed") from None
            raise
        except grpc.aio.AioRpcError as error:
            message = " ".join((error.details() or "no details").split())
            match error.code():
                case grpc.StatusCode.DEADLINE_EXCEEDED:
                    what = type(request).__name__.removesuffix("Request")
                    raise DeadlineExceeded(
                        f"{self.address} did not answer {what} within {deadline_seconds:g} s"
                    ) from error
                case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.CANCELLED if not _came_from_server(error):
                    raise Unreachable(f"{self.address}: {message}") from error
                case _:
                    raise Refused(message) from error

    async def live(self, deadline_seconds: float = 2.0) -> bool:
        """Whether the server's process answers. Raises nothing: False when it doesn't."""
        try:
            answer = await self._call(self._stub.ServerLive, service_pb2.ServerLiveRequest(), deadline_seconds)
        except TritonError:
            return False
        return bool(answer.live)

    async def ready(self, deadline_seconds: float = 2.0) -> bool:
        """Whether the server takes inferences. Raises nothing: False when it doesn't."""
        try:
            answer = await self._call(self._stub.ServerReady, service_pb2.ServerReadyRequest(), deadline_seconds)
        except TritonError:
            return False
        return bool(answer.ready)

    async def index(self, deadline_seconds: float = 2.0) -> tuple[IndexEntry, ...]:
        """Return the versions that are or were loaded, by model and number.

        Models and versions that were never loaded since the server's start have no number there and are left out.
        Raises Unreachable, DeadlineExceeded, Refused.
        """
        request = service_pb2.RepositoryIndexRequest()
        answer = await self._call(self._stub.RepositoryIndex, request, deadline_seconds)
        entries = [
            IndexEntry(
                model=entry.name,
                number=int(entry.version),
                state=_STATES.get(entry.state, State.UNKNOWN),
                reason=" ".join(entry.reason.split()),
            )
            for entry in answer.models
            if entry.version.isdigit()
        ]
        return tuple(sorted(entries, key=lambda entry: (entry.model, entry.number)))

    async def load(
        self,
        model: str,
        versions: frozenset[int],
        config_text: str,
        deadline_seconds: float,
        files: Mapping[str, bytes] | None = None,
    ) -> None:
        """Make exactly these versions loaded; returns when they are, and dropped ones no longer answer.

        With `files` (`NUMBER/model.onnx` to content) the model comes from the call, not from the server's repository.
        Versions that are loaded already and stay keep their process; dropped ones unload later (see `index`).
        Other loads of the same model wait for each other in the server.
        Raises Unreachable, DeadlineExceeded (the server goes on loading), Refused (with the server's message).
        """
        request = service_pb2.RepositoryModelLoadRequest(model_name=model)
        request.parameters["config"].string_param = config_override(config_text, versions)
        for path, content in (files or {}).items():
            request.parameters[f"file:{path}"].bytes_param = content
        await self._call(self._stub.RepositoryModelLoad, request, deadline_seconds)

    async def unload(self, model: str, deadline_seconds: float) -> None:
        """Drop every version of a model. Raises Unreachable, DeadlineExceeded, Refused."""
        request = service_pb2.RepositoryModelUnloadRequest(model_name=model)
        await self._call(self._stub.RepositoryModelUnload, request, deadline_seconds)

    async def config(self, model: str, deadline_seconds: float = 2.0) -> model_config_pb2.ModelConfig:
        """Return the configuration that the server completed. Raises Unreachable, DeadlineExceeded, Refused."""
        request = service_pb2.ModelConfigRequest(name=model)
        return (await self._call(self._stub.ModelConfig, request, deadline_seconds)).config

    async def metadata(self, model: str, deadline_seconds: float = 2.0) -> service_pb2.ModelMetadataResponse:
        """Return the model's inputs, outputs and versions. Raises Unreachable, DeadlineExceeded, Refused."""
        request = service_pb2.ModelMetadataRequest(name=model)
        return await self._call(self._stub.ModelMetadata, request, deadline_seconds)

    async def answering_version(
        self, model: str, deadline_seconds: float, *, version: int | None = None, config_text: str = ""
    ) -> int:
        """Infer once on zeros and return the number of the version that answered.

        Asks the server's choice, or `version`. With a `config_text` that names its inputs no other call is needed.
        The zeros wait in the queue as any request does. Raises Unreachable, DeadlineExceeded, Refused.
        """
        config = parse_config(config_text)
        if not config.input:
            config = await self.config(model, deadline_seconds)
        request = service_pb2.ModelInferRequest(model_name=model, model_version="" if version is None else str(version))
        for tensor, content in _verification_inputs(config):
            request.inputs.append(tensor)
            request.raw_input_contents.append(content)
        answer = await self._call(self._stub.ModelInfer, request, deadline_seconds)
        return int(answer.model_version)
