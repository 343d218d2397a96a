"""Porting jobs on a real API server: which Jobs the operator makes, and what it says as they end.

Nothing runs Jobs here; the tests end them as Kubernetes would. tests/e2e has the pods.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from rung.adapters.kubernetes import connect
from rung.api import parse_porting_job
from rung.control.metrics import Metrics
from rung.control.porting_loop import PortingLoop
from rung.control.porting_manifests import Templates
from rung.control.publish import Publisher
from rung.control.view import ClusterView
from servers.apiserver import ApiServer
from servers.manifests import manifest

pytestmark = pytest.mark.cluster

POD = {"containers": [{"name": "porting", "image": "none"}]}
SERVER = {"name": "triton", "image": "none", "restartPolicy": "Always"}
TEMPLATES = Templates(steps={"spec": POD}, profile={"spec": {**POD, "initContainers": [SERVER]}})
SPEC = {
    "budget": {"trials": 2, "parallel": 2},
    "cluster": {
        "retries": 1,
        "profiles": [
            {"hardwareClass": "fast", "cpu": "1", "sloLatency": "400ms"},
            {"hardwareClass": "slow", "cpu": "500m", "sloLatency": "400ms"},
        ],
    },
}
BASE = {"made": True, "versions": [{"accuracy": 0.95, "flops": 1000, "method": "base"}]}


class Site:
    """One namespace with a porting job, and an operator's loop that looks after it."""

    def __init__(self, api_server: ApiServer, namespace: str) -> None:
        self.api = api_server
        self.namespace = namespace

    def make(self, name: str = "one", **changes: Any) -> None:
        made = manifest("PortingJob", self.namespace, name, **{**SPEC, **changes})
        self.api.kubectl("create", "-f", "-", manifest=made)

    def read(self, kind: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.api.kubectl("get", kind, name, "-n", self.namespace, "-o", "json"))
        return found

    def status(self, name: str = "one") -> dict[str, Any]:
        found: dict[str, Any] = self.read("pjob", name).get("status", {})
        return found

    def jobs(self) -> set[str]:
        return set(self.api.kubectl("get", "jobs", "-n", self.namespace, "-o", "name").split())

    async def until(self, condition: Callable[[], bool], what: Callable[[], object], seconds: float = 30.0) -> None:
        began = time.monotonic()
        while not await asyncio.to_thread(condition):
            assert time.monotonic() - began < seconds, what()
            await asyncio.sleep(0.1)

    async def until_job(self, name: str) -> dict[str, Any]:
        await self.until(lambda: f"job.batch/{name}" in self.jobs(), lambda: (name, self.jobs(), self.status()))
        return self.read("job", name)

    async def until_message(self, text: str, name: str = "one") -> dict[str, Any]:
        await self.until(lambda: text in self.status(name).get("message", ""), lambda: self.status(name))
        return self.status(name)

    def end(self, name: str, *words: object, fails: str = "", failed_indexes: str = "") -> None:
        """End a Job: each of its pods that succeeded with its last words, or all of it with a reason."""
        job = self.read("job", name)
        labels = {**job["spec"]["template"]["metadata"]["labels"], "batch.kubernetes.io/job-name": name}
        for index, said in enumerate(words):
            labels["batch.kubernetes.io/job-completion-index"] = str(index)
            pod = {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": f"{name}-{index}", "namespace": self.namespace, "labels": labels},
                "spec": {**POD, "restartPolicy": "Never"},
            }
            self.api.kubectl("create", "-f", "-", manifest=pod)
            ended = {"exitCode": 0, "message": json.dumps(said)}
            container = {"name": "porting", "image": "none", "imageID": "", "ready": False, "restartCount": 0}
            state = {"phase": "Succeeded", "containerStatuses": [{**container, "state": {"terminated": ended}}]}
            self.patch("pod", f"{name}-{index}", state)
        now = "2026-03-04T05:06:07Z"
        kinds = ("FailureTarget", "Failed") if fails else ("SuccessCriteriaMet", "Complete")
        conditions = [
            {"type": kind, "status": "True", "reason": "Test", "message": fails, "lastTransitionTime": now}
            for kind in kinds
        ]
        status: dict[str, Any] = {"startTime": now, "conditions": conditions}
        if failed_indexes:
            status["failedIndexes"] = failed_indexes
        if not fails:
            count = job["spec"]["completions"]
            status |= {
                "completionTime": now,
                "succeeded": count,
                "completedIndexes": f"0-{count - 1}" if count > 1 else "0",
            }
        self.patch("job", name, status)

    def patch(self, kind: str, name: str, status: dict[str, Any]) -> None:
        text = json.dumps({"status": status})
        self.api.kubectl("patch", kind, name, "-n", self.namespace, "--subresource=status", "--type=merge", "-p", text)


@asynccontextmanager
async def looked_after(site: Site, *names: str, templates: Templates | None = TEMPLATES) -> AsyncIterator[None]:
    async with connect(site.api.kubeconfig) as cluster:
        jobs = [parse_porting_job(site.read("pjob", name)) for name in names]
        view = ClusterView(porting_jobs={(job.namespace, job.name): [job] for job in jobs})
        publisher = Publisher(cluster, Metrics())
        loop = PortingLoop(view, cluster, publisher, templates)
        tasks = [asyncio.create_task(publisher.run()), asyncio.create_task(loop.run())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def site(api_server: ApiServer, namespace: str) -> Site:
    return Site(api_server, namespace)


async def test_from_the_first_round_to_the_registered_versions(site: Site) -> None:
    site.make()
    async with looked_after(site, "one"):
        first = await site.until_job("one-search-0")
        assert first["metadata"]["ownerReferences"][0]["kind"] == "PortingJob"
        uid = site.read("pjob", "one")["metadata"]["uid"]
        plan = site.read("configmap", f"one-plan-{uid[:8]}")
        assert "task: digits" in plan["data"]["plan.yaml"]
        site.end("one-search-0", BASE)
        second = await site.until_job("one-search-1")
        assert second["spec"]["completions"] == 2
        pruned = {"made": True, "versions": [{"accuracy": 0.9, "flops": 100, "method": "l1"}]}
        site.end("one-search-1", pruned, fails="Job has failed indexes", failed_indexes="1")
        await site.until_job("one-publish")
        found = await site.until_message("checked and uploaded")
        assert found["trials"] == {"planned": 2, "made": 2, "failed": 1}
        assert [each["method"] for each in found["frontier"]] == ["base", "l1"]
        numbered = [{**BASE["versions"][0], "version": 1_095_000}]  # type: ignore[index]
        site.end("one-publish", {"versions": numbered})
        await site.until_job("one-profile-0")
        slow = await site.until_job("one-profile-1")
        pod = slow["spec"]["template"]["spec"]
        assert pod["nodeSelector"] == {"rung.dev/hardware-class": "slow"}
        assert pod["initContainers"][0]["resources"]["limits"] == {"cpu": "500m"}
        site.end("one-profile-0", {"message": "1 versions measured"})
        site.end("one-profile-1", {"message": "1 versions measured; 1 disturbed by neighbours"})
        await site.until_job("one-register")
        site.end("one-register", {})
        found = await site.until_message("published and registered")
    assert found["phase"] == "Succeeded"
    assert found["frontier"] == [{"version": 1_095_000, "accuracy": 0.95, "flops": 1000, "method": "base"}]
    assert found["profiles"][1] == {
        "hardwareClass": "slow", "phase": "Done", "message": "1 versions measured; 1 disturbed by neighbours"
    }  # fmt: skip
    assert {each["type"]: each["status"] for each in found["conditions"]} == {"Complete": "True", "Failed": "False"}
    events = json.loads(site.api.kubectl("get", "events.events.k8s.io", "-n", site.namespace, "-o", "json"))["items"]
    reasons = {each["reason"] for each in events if each["regarding"]["name"] == "one"}
    assert {"Searching", "Publishing", "Profiling", "Registering", "Succeeded"} <= reasons


async def test_an_operator_that_starts_again_goes_on_and_starts_nothing_twice(site: Site) -> None:
    site.make()
    async with looked_after(site, "one"):
        await site.until_job("one-search-0")
    uid = site.read("job", "one-search-0")["metadata"]["uid"]
    site.end("one-search-0", BASE)
    async with looked_after(site, "one"):
        await site.until_job("one-search-1")
        await site.until_message("round 2 of at most 2")
    assert site.read("job", "one-search-0")["metadata"]["uid"] == uid
    started = site.status()["startTime"]
    async with looked_after(site, "one"):
        await site.until_message("round 2 of at most 2")
    assert site.status()["startTime"] == started


async def test_jobs_of_an_earlier_one_of_its_name_are_waited_for(site: Site) -> None:
    site.make()
    async with looked_after(site, "one"):
        await site.until_job("one-search-0")
    site.api.kubectl("delete", "pjob", "one", "-n", site.namespace)  # nothing collects its Jobs here
    site.make()
    async with looked_after(site, "one"):
        await site.until_message("waits until Jobs of an earlier one of its name are gone")
        site.api.kubectl("delete", "job", "one-search-0", "-n", site.namespace, "--cascade=orphan", "--wait=false")
        site.api.kubectl(
            "patch",
            "job",
            "one-search-0",
            "-n",
            site.namespace,
            "--type=merge",
            '--patch={"metadata":{"finalizers":[]}}',
        )
        uid = site.read("pjob", "one")["metadata"]["uid"]

        def its_own() -> bool:
            jobs = json.loads(site.api.kubectl("get", "jobs", "-n", site.namespace, "-o", "json"))["items"]
            return [job["metadata"]["ownerReferences"][0]["uid"] for job in jobs] == [uid]

        await site.until(its_own, site.jobs)


async def test_porting_that_is_off_says_how_it_is_turned_on(site: Site) -> None:
    site.make()
    async with looked_after(site, "one", templates=None):
        found = await site.until_message("helm upgrade --set porting.enabled=true")
    assert found["phase"] == "Pending"
    assert site.jobs() == set()


async def test_one_that_the_api_server_refuses_does_not_stop_the_others(site: Site) -> None:
    site.make("bad")
    site.make("good")
    broken = Templates(steps={"spec": {**POD, "restartPolice": "x"}}, profile=TEMPLATES.profile)
    async with looked_after(site, "bad", templates=broken), looked_after(site, "good"):
        await site.until_job("good-search-0")
        await site.until_message('unknown field "spec.template.spec.restartPolice"', "bad")
    assert site.jobs() == {"job.batch/good-search-0"}
