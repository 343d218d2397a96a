"""Sees each version of a folder load and answer on a real Triton, before anything of it is published."""

from __future__ import annotations

import asyncio
import contextlib

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from rung.adapters.triton import (
    DeadlineExceeded,
    Refused,
    TooLarge,
    TritonClient,
    TritonError,
    Unreachable,
    parse_config,
)
from rung_porting.errors import PortingError
from rung_porting.repository.folder import LocalTask

LOAD_DEADLINE_SECONDS = 120.0
ANSWER_DEADLINE_SECONDS = 30.0


async def check_on_server(task: LocalTask, server: TritonClient) -> dict[int, str]:
    """Load one version after the other from its file, as `rung-check-TASK`, and infer on zeros.

    Nothing that the server serves is touched, and nothing of this stays.

    Returns:
        Why a version may not be published, by its number.

    Raises:
        PortingError: the server does not answer, so nothing was found out.
    """
    name = f"rung-check-{task.name}"
    try:
        config = _renamed(await asyncio.to_thread(task.config.read_text, encoding="utf-8"), name)
    except Refused as error:
        return {version.number: str(error) for version in task.versions}
    refused: dict[int, str] = {}
    try:
        for version in task.versions:
            content = await asyncio.to_thread(version.model.read_bytes)
            try:
                files = {f"{version.number}/model.onnx": content}
                await server.load(name, frozenset({version.number}), config, LOAD_DEADLINE_SECONDS, files)
                answered = await server.answering_version(name, ANSWER_DEADLINE_SECONDS, config_text=config)
                if answered != version.number:
                    refused[version.number] = f"version {answered} answered on {server.address} in its place"
            except TooLarge:
                pass  # it loads; an answer would cost more than it tells
            except (Refused, DeadlineExceeded) as error:
                refused[version.number] = f"it does not work on {server.address}: {error}"
    except Unreachable as error:
        raise PortingError(f"the versions can't be checked: {error}") from None
    finally:
        with contextlib.suppress(TritonError):  # it was never loaded, or the server is gone, which was said
            await server.unload(name, ANSWER_DEADLINE_SECONDS)
    return refused


def _renamed(config_text: str, name: str) -> str:
    """Return the configuration under another name: Triton wants that of the model."""
    config = model_config_pb2.ModelConfig()
    config.CopyFrom(parse_config(config_text))
    config.name = name
    return text_format.MessageToString(config)
