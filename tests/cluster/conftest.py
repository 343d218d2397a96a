"""Real servers, one of each for the whole run. More of them: in the modules under `servers/`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from servers.apiserver import ApiServer


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
