"""The few questions that the development cluster itself asks its API server. People and programs use kubectl."""

from __future__ import annotations

import base64
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

REQUEST_DEADLINE_SECONDS = 5.0


class ApiError(RuntimeError):
    """The API server refused, or did not answer in time."""


class ApiClient:
    """A client for the cluster of a kubeconfig that this package wrote."""

    def __init__(self, kubeconfig: Path) -> None:
        config = json.loads(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self._server: str = cluster["server"]
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        context = ssl.create_default_context(cadata=authority)
        with NamedTemporaryFile(dir=kubeconfig.parent) as pair:
            pair.write(base64.b64decode(user["client-certificate-data"]))
            pair.write(base64.b64decode(user["client-key-data"]))
            pair.flush()
            context.load_cert_chain(pair.name)
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )

    def get(self, path: str) -> dict[str, Any]:
        """Return the object or list at a path; raises ApiError."""
        return self._ask("GET", path, None)

    def create(self, path: str, thing: Mapping[str, object]) -> None:
        """Create an object in the collection at a path; raises ApiError."""
        self._ask("POST", path, thing)

    def _ask(self, method: str, path: str, body: Mapping[str, object] | None) -> dict[str, Any]:
        request = urllib.request.Request(  # noqa: S310 (the address is always https://127.0.0.1)
            f"{self._server}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Accept": "application/json"},
        )
        try:
            with self._opener.open(request, timeout=REQUEST_DEADLINE_SECONDS) as answer:
                result: dict[str, Any] = json.load(answer)
                return result
        except urllib.error.HTTPError as error:
            raise ApiError(f"{method} {path}: {error.code} {error.read(2000).decode(errors='replace')}") from error
        except (OSError, ValueError) as error:
            raise ApiError(f"{method} {path}: {error}") from error


def is_condition_true(thing: Mapping[str, Any], condition: str) -> bool:
    """Whether an object's status has this condition with the status True."""
    conditions = thing.get("status", {}).get("conditions") or ()
    return any(each["type"] == condition and each["status"] == "True" for each in conditions)
