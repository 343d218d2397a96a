"""The demo as a user starts it, in the cluster of the tests: from an empty namespace to the report, or to Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from installed.cluster import Cluster, Namespace, until
from installed.ladder import BEST, CHEAPEST, write_ladder
from rung_demo.environment import NAMESPACE, RELEASE, TASKS
from rung_demo.outcome import outcome_of
from rung_demo.record import read_run

LONGEST_SECONDS = 600

pytestmark = [pytest.mark.e2e, pytest.mark.quiet, pytest.mark.timeout(LONGEST_SECONDS + 60)]

LADDER = {CHEAPEST: 100, BEST: 1200}
"""What each version costs: even the cheapest enough that few requests a second make a load."""
TRACE = (*[5] * 10, *(5 * 20 ** (second / 40) for second in range(40)), *[100] * 10, *[5] * 50)
"""Requests a second, by second: quiet, a climb by a steady factor to twenty times as much, and quiet again."""


@pytest.fixture
def home(cluster: Cluster) -> Iterator[Namespace]:
    """The namespace that the demo makes for itself."""
    home = cluster.namespaced(NAMESPACE)
    try:
        yield home
    finally:
        home.helm("uninstall", RELEASE, "--ignore-not-found")
        home.remove()


@pytest.fixture(scope="module")
def ladders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ladders")
    for task in TASKS:
        write_ladder(folder, task, LADDER, one_matrix=True)
    return folder / "models"


def start(home: Namespace, log: Path, *arguments: str | Path) -> subprocess.Popen[bytes]:
    """Start the demo; what it says is in the log."""
    environment = {**os.environ, "KUBECONFIG": str(home.kubernetes.kubeconfig)}
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "rung_demo", *arguments],
            env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip


def nothing_is_left(home: Namespace) -> bool:
    roles = home.get("clusterroles,clusterrolebindings", f"--selector=app.kubernetes.io/instance={RELEASE}")["items"]
    namespaces = home.get("namespaces", f"--field-selector=metadata.name={NAMESPACE}")["items"]
    return not namespaces and not [role for role in roles if role["metadata"]["name"].startswith(NAMESPACE)]


def test_a_trace_climbs_and_versions_step_down_and_up(home: Namespace, ladders: Path, tmp_path: Path) -> None:
    trace, log, out = tmp_path / "climb.txt", tmp_path / "log", tmp_path / "report"
    trace.write_text("\n".join(map(str, TRACE)))
    demo = start(home, log, "--versions", ladders, "--trace", trace, "--out", out)
    try:
        status = demo.wait(LONGEST_SECONDS)
    finally:
        demo.kill()
    said = log.read_text()
    assert status == 0, said
    run = outcome_of(read_run(out / "frontier+reflex.jsonl"))
    assert run.sentence() in said
    assert run.complete
    assert run.requests > 1000
    assert run.failed == 0
    assert min(run.steps_down, run.steps_up) >= 1
    assert sum(run.swaps.values()) >= 2
    page = (out / "report.html").read_text()
    assert "climb.txt" in page
    assert "steps down" in page, "the reasons are in the report"
    assert nothing_is_left(home), said
    print(run.sentence())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing(
    home: Namespace, ladders: Path, tmp_path: Path, number: signal.Signals
) -> None:
    log = tmp_path / "log"
    demo = start(home, log, "--versions", ladders)
    try:
        until(lambda: "Profiling every version" in log.read_text(), lambda: f"not installed:\n{log.read_text()}", 120)
        demo.send_signal(number)
        assert demo.wait(120) == 130, log.read_text()
    finally:
        demo.kill()
    said = log.read_text()
    assert "Stopped." in said
    assert "Traceback" not in said
    assert nothing_is_left(home), said


def test_a_trace_that_cannot_be_read_is_told_before_anything_is_made(home: Namespace, tmp_path: Path) -> None:
    trace, log = tmp_path / "bad.txt", tmp_path / "log"
    trace.write_text("1\n2\nmany\n")
    assert start(home, log, "--trace", trace).wait(60) == 1
    assert "line 3: 'many' is no number" in log.read_text()
    assert nothing_is_left(home)
