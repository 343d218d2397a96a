"""One cluster for all tests that install the chart."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

import pytest

from installed.cluster import Cluster, running_cluster


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share the cluster come last, so that it does not run beside those that bring up their own."""
    here = Path(__file__).parent
    items.sort(key=lambda item: here in item.path.parents and "cluster" in getattr(item, "fixturenames", ()))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A Kubernetes with the project's images: KUBECONFIG's, else an embedded one, gone at the end whatever happens."""
    if not os.environ.get("KUBECONFIG") and os.geteuid() != 0:
        pytest.skip("needs a cluster: run as root for the embedded one, or set KUBECONFIG to one that has the images")

    def ended(_number: int, _frame: FrameType | None) -> NoReturn:
        pytest.exit("ended by SIGTERM; the cluster is taken down", returncode=143)

    before = signal.signal(signal.SIGTERM, ended)
    try:
        with running_cluster() as running:
            yield running
    finally:
        signal.signal(signal.SIGTERM, before)
