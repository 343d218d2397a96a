"""What the operator depends on is away: Prometheus, S3, the API server. What served goes on serving meanwhile.

Each test states the time within which things are well again; the status has to say what happened meanwhile.
"""

from __future__ import annotations

import signal
import time
import urllib.request

import pytest

from servers.models import version_model
from servers.site import POOL, SECONDS_TO_CONVERGE, SECONDS_TO_NOTICE, Site

pytestmark = [pytest.mark.cluster, pytest.mark.paced]


def _signal_age_seconds(site: Site) -> float | None:
    with urllib.request.urlopen(f"http://127.0.0.1:{site.operator_port}/metrics", timeout=5) as answer:
        page: str = answer.read().decode()
    line = f'rung_signal_age_seconds{{pool="{site.namespace}/{POOL}",signal="cpu"}} '
    return next((float(each.removeprefix(line)) for each in page.splitlines() if each.startswith(line)), None)


def test_prometheus_gone_for_half_a_minute(site: Site) -> None:
    site.serve(
        "blind",
        policy={"name": "Stepwise", "stepwise": {"settle": "1s", "judge": "3s", "upAfter": "4s"}},
        fallback={"after": "15s", "behavior": "Cheapest"},
    )
    with site.load("blind", 10.0) as load:
        site.prometheus.end(signal.SIGKILL)
        began = time.monotonic()
        try:
            told = site.wait(
                lambda: site.condition("spool", "edge", "MetricsAvailable")["status"] == "False", "told", 20
            )
            assert "127.0.0.1" in site.condition("spool", "edge", "MetricsAvailable")["message"]
            assert site.status("itask", "blind")["activeVersion"] == 3, "until the fallback the allocation is held"
            site.wait_active("blind", 1, 15 + SECONDS_TO_CONVERGE)
            fell_back = time.monotonic() - began
            assert site.status("itask", "blind")["lastDecision"]["code"] == "Fallback"
            site.wait(lambda: time.monotonic() - began >= 30.0, "it was gone for 30 s")
            assert (_signal_age_seconds(site) or 0.0) > 15.0, "the alert of docs/operations.md fires"
        finally:
            site.prometheus.start()
        took = site.wait_active("blind", 3, SECONDS_TO_CONVERGE)
    assert not load.failed
    site.wait(lambda: any(reason == "MetricsMissing" for reason, _ in site.events("edge")), "an event told of it")
    print(f"told after {told:.1f} s, fell back after {fell_back:.1f} s; best again {took:.1f} s after it was back")


def test_s3_gone_before_a_cold_load(site: Site) -> None:
    site.serve("offline")
    site.s3.kill()
    try:
        # What is mirrored loads without S3.
        site.patch("itask", "offline", {"spec": {"mode": "Pinned", "pinnedVersion": 1}})
        site.wait_active("offline", 1, SECONDS_TO_CONVERGE)
        # What is not mirrored waits, and says so; what serves goes on.
        site.register("offline", 4, throughput=10.0, content=version_model(4, layers=32))
        site.patch("itask", "offline", {"spec": {"mode": "Pinned", "pinnedVersion": 4}})
        site.wait(
            lambda: site.condition("mver", "offline-4", "Available").get("status") == "False", "told", SECONDS_TO_NOTICE
        )
        site.wait(lambda: "4" in site.condition("itask", "offline", "Ready").get("message", ""), "the reason names it")
        with site.load("offline") as load:
            pass
        assert load.versions == {1}
    finally:
        site.s3.start()
    site.publish("offline", 4, layers=32)
    took = site.wait_active("offline", 4, SECONDS_TO_CONVERGE)
    print(f"the missing version answered {took:.1f} s after it was published")


def test_api_server_restarted(site: Site) -> None:
    site.serve("orphaned")
    with site.load("orphaned") as load:
        site.api.kill()
        deadline = time.monotonic() + 10.0
        answered = len(load.answers)
        while time.monotonic() < deadline:
            assert site.operator.process is not None
            assert site.operator.process.poll() is None, "the operator outlives its API server"
            if len(load.answers) > answered + 200:
                break
            time.sleep(0.2)
        site.api.start()
        site.patch("itask", "orphaned", {"spec": {"mode": "Pinned", "pinnedVersion": 2}})
        took = site.wait_active("orphaned", 2, 60)
    assert not load.failed
    print(f"a change was carried out {took:.1f} s after the API server was back")


def test_api_server_that_hangs_never_stops_the_loop(site: Site) -> None:
    site.serve("patient")
    site.api.pause()
    try:
        deadline = time.monotonic() + 15.0
        while time.monotonic() < deadline:
            time.sleep(0.5)
            passed = site.last_pass_seconds_ago("edge")
            assert passed < 10.0, f"no pass for {passed:.0f} s"
    finally:
        site.api.resume()
    site.patch("itask", "patient", {"spec": {"mode": "Pinned", "pinnedVersion": 2}})
    took = site.wait_active("patient", 2, 60)
    print(f"a change was carried out {took:.1f} s after the API server went on")
