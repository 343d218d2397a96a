"""Real servers, one of each for the whole run. More of them: in the modules under `servers/`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from servers.apiserver import ApiServer
from servers.triton import TritonServer, running_triton


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A real API server with Rung's CRDs; `api_server.kubeconfig` is an administrator's."""
    server = ApiServer(tmp_path_factory.mktemp("apiserver"))
    try:
        server.start().apply_crds()
        yield server
    finally:
        server.stop()


@pytest.fixture
def namespace(api_server: ApiServer) -> str:
    """A namespace of this test's own."""
    return api_server.make_namespace()


@pytest.fixture
def triton(tmp_path: Path) -> Iterator[TritonServer]:
    """A Triton server of this test's own, with an empty repository; it starts in half a second."""
    with running_triton(tmp_path / "triton") as server:
        yield server
