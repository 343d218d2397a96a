"""What is told of a porting job, from its Jobs and the last words of their pods."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from rung.adapters.jobs import JobPod, JobState, count_indexes
from rung.api import PortingPhase, StepPhase, parse_porting_job
from rung.control.porting_loop import plan_of, status_of, step_states
from rung.core.porting_steps import next_steps

NOW = datetime(2026, 3, 1, tzinfo=UTC)
JOB = parse_porting_job(
    {
        "metadata": {"name": "digits", "namespace": "edge", "uid": "u-1", "generation": 4},
        "spec": {
            "task": "digits",
            "model": {"builtin": "residual"},
            "data": {"builtin": "digits"},
            "input": [1, 8, 8],
            "budget": {"trials": 3, "parallel": 2},
            "cluster": {"profiles": [{"hardwareClass": "n100", "sloLatency": "100ms"}]},
        },
    }
)


def job(step: str, *, complete: bool = True, failed: bool = False, message: str = "", indexes: int = 0) -> JobState:
    name = f"digits-{step}"
    return JobState(name, "u-1", {"rung.dev/porting-step": step}, complete, failed, 0, message, indexes)


def pod(step: str, words: object, index: int = 0, phase: str = "Succeeded") -> JobPod:
    text = words if isinstance(words, str) else json.dumps(words)
    return JobPod(f"digits-{step}-{index}-x", f"digits-{step}", index, phase, text)


def version(accuracy: float, flops: int, method: str = "l1") -> dict[str, object]:
    return {"accuracy": accuracy, "flops": flops, "method": method}


BASE = (job("search-0"), pod("search-0", {"made": True, "versions": [version(0.95, 1000, "base")]}))


def told(jobs: list[JobState], pods: list[JobPod]) -> tuple[PortingPhase, str, tuple[int, int, int], list[float]]:
    plan, states = plan_of(JOB), step_states(jobs, pods)
    status = status_of(JOB, plan, states, next_steps(plan, states), NOW)
    count = status.trials
    assert status.observed_generation == 4
    return (
        status.phase, status.message, (count.planned, count.made, count.failed),
        [each.accuracy for each in status.frontier],
    )  # fmt: skip


def test_progress_is_counted_and_the_frontier_so_far_is_shown() -> None:
    pods = [
        BASE[1],
        pod("search-1", {"made": True, "versions": [version(0.9, 300), version(0.8, 400)]}),
        pod("search-1", {"made": True, "failure": "the loss became nan"}, index=1),
    ]
    found = told([BASE[0], job("search-1")], pods)
    assert found == (
        PortingPhase.SEARCHING, "round 3 of at most 3, 1 trial", (3, 2, 1), [0.95, 0.9],
    )  # fmt: skip


def test_what_waits_says_why() -> None:
    waits = pod("search-0", "0/2 nodes are available: 2 Insufficient memory.", phase="Pending")
    _, message, _, _ = told([job("search-0", complete=False)], [waits])
    assert message == (
        "round 1 of at most 3, the unpruned network; waits: 0/2 nodes are available: 2 Insufficient memory."
    )


def test_a_failure_shows_the_pods_last_lines_and_what_kubernetes_says() -> None:
    ended = job("search-0", complete=False, failed=True, message="Job has failed indexes")
    phase, message, _, _ = told([ended], [pod("search-0", "Error: model mine:Net: no\nsuch module", phase="Failed")])
    assert phase is PortingPhase.FAILED
    assert message == "the unpruned network: Error: model mine:Net: no such module; Job has failed indexes"


@pytest.mark.parametrize(
    "words",
    ["", "no JSON", "[1]", "null", '{"made": "perhaps"}', '{"versions": [{"accuracy": 7, "flops": 1, "method": "l1"}]}',
     "[" * 4000, '{"versions": ' + "9" * 3000 + "}"],
)  # fmt: skip
def test_last_words_that_can_not_be_read_count_for_nothing(words: str) -> None:
    _, _, count, frontier = told([job("search-0"), job("search-1", complete=False)], [pod("search-0", words)])
    assert (count, frontier) == ((3, 0, 0), [])


def test_a_job_without_a_pod_says_where_to_look() -> None:
    _, message, _, _ = told([job("search-0", complete=False)], [])
    assert message.endswith("waits: it has no pod; kubectl describe job digits-search-0 says why")


def test_a_class_says_what_disturbed_it() -> None:
    done = [BASE[0], job("search-1"), job("search-2"), job("publish"), job("profile-n100")]
    plan = plan_of(JOB)
    states = step_states(done, [BASE[1], pod("profile-n100", {"message": "7 versions measured; 1 disturbed"})])
    status = status_of(JOB, plan, states, next_steps(plan, states), NOW)
    (progress,) = status.profiles
    assert (progress.phase, progress.message) == (StepPhase.DONE, "7 versions measured; 1 disturbed")
    assert status.phase is PortingPhase.REGISTERING


def test_the_end_has_its_time() -> None:
    steps = ("search-0", "search-1", "search-2", "publish", "profile-n100", "register")
    plan, states = plan_of(JOB), step_states([job(step) for step in steps], [BASE[1]])
    status = status_of(JOB, plan, states, next_steps(plan, states), NOW)
    assert (status.phase, status.completion_time) == (PortingPhase.SUCCEEDED, NOW)


def test_indexes_as_kubernetes_writes_them() -> None:
    assert [count_indexes(text) for text in ("", "3", "1,3-5,7", "0-9")] == [0, 1, 5, 10]
