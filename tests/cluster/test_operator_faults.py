"""What breaks beside the operator, and the operator itself: what served goes on serving, and the state converges.

Each test states the time within which things are well again; the status has to say what happened meanwhile.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import time
from pathlib import Path

import pytest

from servers.models import config_text, version_model
from servers.site import SECONDS_TO_CONVERGE, SECONDS_TO_NOTICE, Site

pytestmark = [pytest.mark.cluster, pytest.mark.paced]


def test_operator_killed_in_the_middle_of_a_swap(site: Site) -> None:
    site.serve("killed")
    site.wait(lambda: site.status("itask", "killed")["servers"][0].get("standby") == [2], "the standby is there")
    with site.load("killed") as load:
        # Version 1 is cold: the operator is loading it when it dies.
        site.patch("itask", "killed", {"spec": {"mode": "Pinned", "pinnedVersion": 1}})
        site.wait(lambda: site.status("itask", "killed")["servers"][0]["phase"] == "Swapping", "the swap has begun")
        site.operator.end(signal.SIGKILL)
        site.operator.start()
        took = site.wait_active("killed", 1, SECONDS_TO_CONVERGE)
    assert not load.failed
    assert load.versions <= {1, 2, 3}
    print(f"converged {took:.1f} s after the operator was started again")


def test_operator_stopped_in_the_middle_of_a_swap(site: Site) -> None:
    site.serve("stopped")
    with site.load("stopped") as load:
        site.patch("itask", "stopped", {"spec": {"mode": "Pinned", "pinnedVersion": 1}})
        site.wait(lambda: site.status("itask", "stopped").get("targetVersion") == 1, "it knows of the change")
        began = time.monotonic()
        assert site.operator.end(signal.SIGTERM) == 0
        took = time.monotonic() - began
        assert len(site.triton.stub_pids()) > 0
        site.operator.start()
        again = site.wait_active("stopped", 1, SECONDS_TO_CONVERGE)
    assert not load.failed
    assert load.versions <= {1, 2, 3}
    print(f"stopped within {took:.1f} s, converged {again:.1f} s after it was started again")


def test_operator_that_starts_again_never_takes_back_what_the_status_says(site: Site, tmp_path: Path) -> None:
    site.serve("told")
    site.operator.end(signal.SIGKILL)
    log = tmp_path / "versions"
    with site.watching("itask", "told", "{.status.activeVersion}{'\\n'}", log):
        site.wait(lambda: log.read_text() == "3\n", "the watch has begun")
        site.operator.start()
        # A change that the new operator carries out: its first statuses come before it, or with it.
        site.patch("itask", "told", {"spec": {"mode": "Pinned", "pinnedVersion": 2}})
        site.wait(lambda: log.read_text().endswith("2\n"), "the new operator told of version 2", SECONDS_TO_CONVERGE)
    assert set(log.read_text().splitlines()) == {"3", "2"}


def test_triton_killed_gets_its_allocation_back(site: Site) -> None:
    site.serve("restarted")
    site.patch("itask", "restarted", {"spec": {"mode": "Pinned", "pinnedVersion": 2}})
    site.wait_active("restarted", 2)
    site.triton.kill()
    site.wait(lambda: site.status("itask", "restarted")["servers"][0]["phase"] == "NotReady", "told", SECONDS_TO_NOTICE)
    assert site.condition("itask", "restarted", "Ready")["status"] == "False"
    site.triton.start()
    took = site.wait(
        lambda: site.status("itask", "restarted")["servers"][0].get("active") == 2, "served again", SECONDS_TO_CONVERGE
    )
    with site.load("restarted") as load:
        pass
    assert not load.failed
    assert load.versions == {2}
    print(f"served again {took:.1f} s after Triton was ready")


def test_a_version_whose_process_died_is_loaded_again(site: Site) -> None:
    site.serve("stubborn")
    site.wait(lambda: site.status("itask", "stubborn")["servers"][0].get("standby") == [2], "the standby is there")
    stubs = site.triton.stub_pids().items()
    (pid,) = [pid for pid, command in stubs if "/stubborn/3/model.onnx" in command]
    os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()
    with site.load("stubborn", 5.0) as load:
        site.wait(lambda: any(a.said == 3 for a in load.answers), "version 3 answers again", SECONDS_TO_CONVERGE)
        took = next(answer.done for answer in load.answers if answer.said == 3) - killed
    assert {answer.said for answer in load.answers if not answer.error} <= {2, 3}
    site.wait(lambda: any(reason == "Revived" for reason, _ in site.events("stubborn")), "an event tells of it")
    print(f"answered again {took:.1f} s after its process was killed")


def test_triton_that_hangs_is_left_alone_and_taken_back(site: Site) -> None:
    site.serve("hung")
    # A Triton that is stopped in the middle of a load may not survive it.
    site.wait(lambda: site.status("itask", "hung")["servers"][0].get("standby") == [2], "the standby is there")
    site.triton.signal_all(signal.SIGSTOP)
    try:
        site.wait(lambda: site.status("itask", "hung")["servers"][0]["phase"] == "NotReady", "told", SECONDS_TO_NOTICE)
        assert "did not answer" in site.status("itask", "hung")["servers"][0]["message"]
        # The loop goes on: what is asked for now is carried out when the server is back.
        site.patch("itask", "hung", {"spec": {"mode": "Pinned", "pinnedVersion": 2}})
        site.wait(lambda: site.status("spool", "edge")["readyServers"] == 0, "the pool says so")
    finally:
        site.triton.signal_all(signal.SIGCONT)
    took = site.wait_active("hung", 2, SECONDS_TO_CONVERGE)
    print(f"the change was carried out {took:.1f} s after Triton went on")


def test_a_version_of_garbage_is_never_served_and_named(site: Site) -> None:
    site.serve("garbled")
    with site.load("garbled") as load:
        site.publish("garbled", 4, content=b"this is no network" * 100)
        took = site.wait(
            lambda: site.condition("mver", "garbled-4", "Valid").get("status") == "False", "told", SECONDS_TO_CONVERGE
        )
        assert site.status("mver", "garbled-4")["brokenOn"][0]["server"] == "triton-0"
        site.wait(lambda: any(reason == "SwapFailed" for reason, _ in site.events("garbled")), "an event names it")
        site.wait_active("garbled", 3, SECONDS_TO_CONVERGE)
    assert not load.failed
    assert load.versions == {3}
    print(f"the garbage was named {took:.1f} s after it was published")


def test_a_file_that_is_not_the_registered_one_is_never_served_and_named(site: Site) -> None:
    site.serve("mistaken")
    mirrored = version_model(4, layers=1)
    asyncio.run(site.s3.publish("mistaken", 4, mirrored, config=config_text("mistaken")))
    site.register("mistaken", 4, throughput=900.0, content=b"trained again")
    with site.load("mistaken") as load:
        took = site.wait(lambda: site.condition("mver", "mistaken-4", "Available").get("reason") == "OtherFile", "told")
        message = site.condition("mver", "mistaken-4", "Available")["message"]
        assert f"triton-0 has {hashlib.sha256(mirrored).hexdigest()[:12]}..." in message
        site.patch("itask", "mistaken", {"spec": {"mode": "Pinned", "pinnedVersion": 4}})
        site.wait(
            lambda: "pinned to 4" in site.condition("itask", "mistaken", "Ready").get("message", ""), "it waits for it"
        )
        assert site.condition("itask", "mistaken", "Ready")["reason"] == "VersionUnavailable"
        assert load.versions == {3}
        # Registered as it is published, it is served: nothing but the sha256 stood in its way.
        site.api.kubectl("-n", site.namespace, "delete", "mver", "mistaken-4")
        site.register("mistaken", 4, throughput=900.0, content=mirrored)
        site.wait_active("mistaken", 4, SECONDS_TO_CONVERGE)
    assert not load.failed
    print(f"the other file was named {took:.1f} s after it was registered")


def test_an_object_that_cannot_be_read_never_stops_the_others(site: Site) -> None:
    site.serve("healthy")
    # An older schema: the CRD is relaxed for a moment, so that an object which is invalid today gets in.
    site.api.kubectl(
        "patch", "crd", "inferencetasks.rung.dev", "--type=json", "--patch",
        '[{"op": "replace", "path": "/spec/versions/0/schema/openAPIV3Schema", "value": '
        '{"type": "object", "x-kubernetes-preserve-unknown-fields": true}}]',
    )  # fmt: skip
    try:
        site.wait(lambda: _accepted(site), "the relaxed schema takes the object")
        took = site.wait(
            lambda: any(reason == "Invalid" for reason, _ in site.events("ancient")), "an event names the field"
        )
        site.patch("itask", "healthy", {"spec": {"mode": "Pinned", "pinnedVersion": 1}})
        site.wait_active("healthy", 1)
        print(f"told {took:.1f} s after it was accepted")
    finally:
        site.api.kubectl("-n", site.namespace, "delete", "itask", "ancient", "--ignore-not-found")
        site.api.apply_crds()


def _accepted(site: Site) -> bool:
    manifest = {"kind": "InferenceTask", "metadata": {"name": "ancient"}, "spec": {"poolRef": {"name": "edge"}}}
    site.apply(manifest)
    return True
