"""How a call to the API server ends: in an answer within its deadline, or in one of four errors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Mapping
from typing import Any

import aiohttp
from kubernetes.aio.client import ApiClient, ApiException

JSON = "application/json"


class KubernetesError(Exception):
    """A call to the API server that did not succeed; the message says what was tried and why it failed."""


class NotFound(KubernetesError):  # noqa: N818 - read as a sentence where it is caught
    """The object, its namespace or its kind does not exist."""


class Conflict(KubernetesError):  # noqa: N818
    """The object was changed or replaced by someone else in the meantime: read it again."""


class Unavailable(KubernetesError):  # noqa: N818
    """No answer within the deadline, no connection, or a server that is overloaded: try again later."""


class Refused(KubernetesError):  # noqa: N818
    """The API server said no (invalid, forbidden, not authorised); trying again does not help."""


async def send(
    client: Any, method: str, path: str, query: Mapping[str, object], body: object = None, accept: str = JSON,
    content_type: str = JSON,
) -> object:  # fmt: skip
    """Send what the client has no function for, or whose models would drop what is newer than they are: plain JSON."""
    request = await client.param_serialize(
        method=method,
        resource_path=path,
        query_params=[(name, value) for name, value in query.items() if value],
        header_params={"Accept": accept, "Content-Type": content_type},
        body=body,
        auth_settings=["BearerToken"],
    )
    response = await client.call_api(*request)
    await response.read()
    answer: object = client.response_deserialize(response, {"200": "object", "201": "object"}).data
    return answer


async def answered(what: str, call: Awaitable[object], deadline_seconds: float) -> dict[str, Any]:
    """Wait for an answer, a JSON object. Raises KubernetesError; `what` is the beginning of its sentence."""
    try:
        async with asyncio.timeout(deadline_seconds):
            answer = await call
    except TimeoutError:
        raise Unavailable(f"{what}: no answer within {deadline_seconds:g} s") from None
    except ApiException as error:
        raise _error_of(what, error) from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise Unavailable(f"{what}: {error or type(error).__name__}") from None
    if not isinstance(answer, dict):
        raise Unavailable(f"{what}: the answer is no JSON object; is something else at that address?")
    return answer


class ApiPart:
    """Some kinds of one API server.

    Args:
        client: a client of it.
        deadline_seconds: of each call.
    """

    def __init__(self, client: ApiClient, deadline_seconds: float) -> None:
        self._client = client
        self._deadline_seconds = deadline_seconds

    async def _send(
        self, what: str, method: str, path: str, query: Mapping[str, object] | None = None, body: object = None,
        content_type: str = JSON,
    ) -> dict[str, Any]:  # fmt: skip
        """Send something and wait for the answer. Raises KubernetesError, whose sentence begins with `what`."""
        call = send(self._client, method, path, query or {}, body, content_type=content_type)
        return await answered(what, call, self._deadline_seconds)


def _error_of(what: str, error: ApiException) -> KubernetesError:
    """Map an HTTP status to one of the four errors, with the API server's own sentence."""
    sentence = str(error.reason or "")
    try:
        sentence = json.loads(error.body or "")["message"]
    except (ValueError, KeyError, TypeError):
        sentence = sentence or str(error.body or "no reason given")[:500]
    status = int(error.status or 0)
    kinds: dict[int, type[KubernetesError]] = {404: NotFound, 409: Conflict, 410: Conflict}
    if status in kinds:
        return kinds[status](f"{what}: {sentence}")
    if status == 429 or status >= 500 or status < 400:
        return Unavailable(f"{what}: the API server can't now ({status}): {sentence}")
    return Refused(f"{what}: {sentence}")
