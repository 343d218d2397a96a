"""The operator on a real site: it finds its server, serves the tasks, obeys its modes, and says why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from servers.apiserver import ApiServer
from servers.site import Site, running_site

pytestmark = [pytest.mark.cluster, pytest.mark.paced]


@pytest.fixture
def site(tmp_path: Path, api_server: ApiServer, namespace: str) -> Iterator[Site]:
    with running_site(tmp_path, api_server, namespace) as running:
        yield running


def test_serves_what_is_registered_and_obeys_its_modes_at_once(site: Site) -> None:
    for number, layers in ((1, 1), (2, 4), (3, 16)):
        site.publish("alpha", number, layers=layers)
    site.make_pool()
    site.make_task("alpha")
    site.operator.start()

    site.wait_active("alpha", 3)
    status = site.status("itask", "alpha")
    assert status["normalizedAccuracy"] == 1.0
    assert status["lastDecision"]["code"]
    site.wait(lambda: site.status("itask", "alpha")["servers"][0]["standby"] == [2], "the rung below stands by")

    site.patch("itask", "alpha", {"spec": {"mode": "Pinned", "pinnedVersion": 1}})
    site.wait_active("alpha", 1)
    site.patch("itask", "alpha", {"spec": {"mode": "Recommend", "pinnedVersion": None}})
    site.wait(lambda: site.status("itask", "alpha").get("recommendedVersion") == 3, "it recommends the best")
    assert site.status("itask", "alpha")["activeVersion"] == 1
    site.patch("itask", "alpha", {"spec": {"mode": "Auto"}})
    site.wait_active("alpha", 3)
    site.wait(lambda: any(reason == "Swapped" for reason, _ in site.events("alpha")), "an event tells of the swap")
    site.wait(lambda: site.condition("spool", "edge", "MetricsAvailable")["status"] == "True", "metrics are fresh")
    with site.load("alpha"):
        site.wait(lambda: site.status("itask", "alpha").get("demand", 0) > 0, "one scraped port tells of demand")

    explained = site.rung("explain", "alpha").stdout
    assert f"{site.namespace}/alpha: version 3 answers" in explained
    assert "> 3 " in explained
    assert "Pinned: alpha is pinned to 1" in explained
    assert site.rung("tasks").stdout.splitlines()[1].split()[:4] == ["alpha", "edge", "Auto", "3"]
    wrong = site.rung("explain", "alhpa")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert "there is alpha" in wrong.stderr
