"""Real servers, one of each for the whole run. More of them: in the modules under `servers/`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from servers.apiserver import ApiServer
from servers.s3 import S3Server, running_s3
from servers.site import Site, running_site
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


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """An S3 server of this test's own, its credentials in the environment, as an agent finds them."""
    with running_s3(tmp_path / "s3") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture(scope="module")
def shared_site(tmp_path_factory: pytest.TempPathFactory, api_server: ApiServer) -> Iterator[Site]:
    """A whole site for the tests of one module, with its operator."""
    with running_site(tmp_path_factory.mktemp("site"), api_server, api_server.make_namespace()) as running:
        running.operator.start()
        yield running


@pytest.fixture
def site(shared_site: Site) -> Iterator[Site]:
    """The shared site with everything that an earlier test broke started again, and no object in it."""
    shared_site.clear()
    shared_site.triton.ensure()
    yield shared_site
    shared_site.api.resume()
    if shared_site.operator.process is None:
        shared_site.operator.start()
