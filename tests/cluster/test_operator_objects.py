"""Objects that are odd, missing, or gone without a word: each is told to its owner, and the others never suffer."""

from __future__ import annotations

import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from rung.adapters.kubernetes import connect
from rung.api import ServingPool, parse_pool
from rung.control.sweep import sweep
from rung.control.view import ClusterView
from rung_devcluster.tools import ensure_tools
from servers.apiserver import ApiServer
from servers.site import POOL, Site

pytestmark = [pytest.mark.cluster, pytest.mark.paced]

SECONDS_TO_NOTICE = 30.0
CHART = Path(__file__).resolve().parents[2] / "charts/rung"


@pytest.fixture
def site(shared_site: Site) -> Site:
    """The shared site, without any object of an earlier test."""
    shared_site.clear()
    return shared_site


def _serve(site: Site, task: str, numbers: tuple[int, ...]) -> None:
    for number in numbers:
        site.publish(task, number, layers=number)
    site.make_pool()
    site.make_task(task)
    site.wait_active(task, max(numbers))


def _make_pool(site: Site, name: str, **spec: Any) -> None:
    body = {"serverSelector": {"app": name}, "metrics": {"prometheusUrl": "http://127.0.0.1:9"}, **spec}
    site.apply({"kind": "ServingPool", "metadata": {"name": name}, "spec": body})


def _make_dead_pod(site: Site, name: str) -> None:
    """Make a pod of the pool whose server never answers."""
    container = {"name": "triton", "image": "none", "ports": [{"name": "grpc", "containerPort": 9}]}
    metadata = {"name": name, "namespace": site.namespace, "labels": {"rung.dev/pool": POOL}}
    pods = f"/api/v1/namespaces/{site.namespace}/pods"
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container]}}
    assert site.api.send("POST", pods, pod)[0] == 201
    pod = site.api.send("GET", f"{pods}/{name}")[1] | {"status": {"podIP": "127.0.0.1", "phase": "Running"}}
    assert site.api.send("PUT", f"{pods}/{name}/status", pod)[0] == 200


def _servers(site: Site) -> list[str]:
    return [server["name"] for server in site.status("spool", POOL).get("servers", [])]


def _metrics(site: Site) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{site.operator_port}/metrics", timeout=5) as answer:
        page: str = answer.read().decode()
    return page


def _has_loop(site: Site, pool: str) -> bool:
    return f'rung_last_pass_timestamp_seconds{{pool="{site.namespace}/{pool}"}}' in _metrics(site)


def test_what_ended_while_no_watch_could_tell_is_seen_no_more(site: Site) -> None:
    _serve(site, "vanishing", (1, 2, 3))
    _make_pool(site, "brief")
    _make_pool(site, "again")
    site.wait(lambda: _has_loop(site, "brief") and _has_loop(site, "again"), "their loops")
    _make_dead_pod(site, "triton-1")
    site.wait(lambda: _servers(site) == ["triton-0", "triton-1"], "both servers")

    site.api.kill()
    kinds = f"/registry/rung.dev/{{}}/{site.namespace}/{{}}"
    site.api.delete_unseen(
        kinds.format("modelversions", "vanishing-3"),
        kinds.format("servingpools", "brief"),
        kinds.format("servingpools", "again"),
        f"/registry/pods/{site.namespace}/triton-1",
    )
    site.api.start()
    _make_pool(site, "again", mode="Recommend")

    took = site.wait_active("vanishing", 2)
    site.wait(lambda: _servers(site) == ["triton-0"], "the pod is gone", SECONDS_TO_NOTICE)
    site.wait(lambda: not _has_loop(site, "brief"), "the loop of the pool that is gone has ended", SECONDS_TO_NOTICE)
    site.wait(lambda: bool(site.status("spool", "again")), "the new pool of that name is followed", SECONDS_TO_NOTICE)
    print(f"seen {took:.1f} s after the API server was back")


def test_a_pool_that_nothing_can_be_asked_for_is_told_and_the_others_go_on(site: Site) -> None:
    _make_pool(site, "odd", metrics={"prometheusUrl": "http://:9090"})
    site.wait(
        lambda: (
            "spec.metrics.prometheusUrl can't be used"
            in site.condition("spool", "odd", "MetricsAvailable").get("message", "")
        ),
        "its owner is told",
        SECONDS_TO_NOTICE,
    )
    _serve(site, "sober", (1,))
    with urllib.request.urlopen(f"http://127.0.0.1:{site.operator_port}/healthz", timeout=5) as answer:
        assert answer.status == 200
    assert "rung_passes_failed_total{" not in _metrics(site)


def test_a_server_belongs_to_a_pool_by_any_label(site: Site) -> None:
    label = ("-n", site.namespace, "label", "pod", "triton-0")
    site.api.kubectl(*label, "rung.dev/pool-", "app=mine")
    try:
        site.make_pool(serverSelector={"app": "mine"})
        site.wait(lambda: site.status("spool", POOL).get("readyServers") == 1, "its server", SECONDS_TO_NOTICE)
    finally:
        site.api.kubectl(*label, f"rung.dev/pool={POOL}", "app-")


def test_a_task_without_a_pool_is_told_what_to_do_until_there_is_one(site: Site) -> None:
    site.publish("lost", 1, layers=1)
    site.make_task("lost")

    def ready() -> dict[str, Any]:
        return site.condition("itask", "lost", "Ready")

    site.wait(lambda: ready().get("reason") == "NoPool", "it has no pool", SECONDS_TO_NOTICE)
    assert ready()["status"] == "False"
    assert "create it, or name another in spec.poolRef.name" in ready()["message"]
    assert f"no ServingPool {POOL} that can be read" in site.rung("explain", "lost").stdout

    site.make_pool()
    site.wait_active("lost", 1)
    assert ready()["status"] == "True"
    site.api.kubectl("-n", site.namespace, "delete", "spool", POOL)
    site.wait(lambda: ready()["reason"] == "NoPool", "its pool is gone", SECONDS_TO_NOTICE)
    assert "activeVersion" not in site.status("itask", "lost")

    _make_pool(site, "other")
    site.patch("itask", "lost", {"spec": {"poolRef": {"name": "other"}}})
    site.wait(lambda: ready()["reason"] == "NothingAnswers", "another pool has it", SECONDS_TO_NOTICE)
    site.patch("itask", "lost", {"spec": {"poolRef": {"name": "nowhere"}}})
    site.wait(lambda: ready()["reason"] == "NoPool", "the other pool gave it up", SECONDS_TO_NOTICE)


def _created_pool(api_server: ApiServer, namespace: str, name: str) -> ServingPool:
    spec = {"serverSelector": {"a": "b"}, "metrics": {"prometheusUrl": "http://p"}}
    body = {"apiVersion": "rung.dev/v1alpha1", "kind": "ServingPool", "metadata": {"name": name}, "spec": spec}
    status, answer = api_server.send("POST", f"/apis/rung.dev/v1alpha1/namespaces/{namespace}/servingpools", body)
    assert status == 201, answer
    return parse_pool(answer)


async def test_an_api_server_that_hangs_hides_nothing(api_server: ApiServer, namespace: str) -> None:
    there = _created_pool(api_server, namespace, "edge")
    ended = there.model_copy(update={"metadata": there.metadata.model_copy(update={"uid": "of-one-that-ended"})})
    view = ClusterView(pools={(namespace, "edge"): [ended, there]})
    async with connect(api_server.kubeconfig, deadline_seconds=1.0) as cluster:
        api_server.pause()
        try:
            await sweep(view, cluster)
        finally:
            api_server.resume()
        assert view.pool((namespace, "edge")) is ended
        await sweep(view, cluster)
        assert view.pool((namespace, "edge")) is there


async def test_uids_are_listed_page_by_page(
    api_server: ApiServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {_created_pool(api_server, namespace, f"p{number}").uid for number in range(5)}
    monkeypatch.setattr("rung.adapters.kubernetes._PAGE", 2)
    async with connect(api_server.kubeconfig) as cluster:
        assert await cluster.list_uids("servingpools", namespace) == made
        assert await cluster.list_uids("servingpools") >= made
        assert await cluster.list_uids("pods", namespace) == frozenset()
        assert await cluster.list_uids("nodes") == frozenset()


def _rights(namespace: str) -> list[dict[str, Any]]:
    """What the chart lets the operator do, when it is installed in this namespace."""
    helm = ensure_tools(["helm"])["helm"]
    what = ["--kube-version=1.37.2", f"--namespace={namespace}", "--show-only=templates/rbac.yaml"]
    rendered = subprocess.run([helm, "template", "rung", CHART, *what], capture_output=True, text=True, check=True)
    return [document for document in yaml.safe_load_all(rendered.stdout) if document]


async def test_the_rights_that_the_chart_gives_suffice(api_server: ApiServer, namespace: str) -> None:
    rights = _rights(namespace)
    (account,) = {subject["name"] for right in rights for subject in right.get("subjects", [])}
    api_server.kubectl("apply", "-f", "-", manifest=rights)
    there = _created_pool(api_server, namespace, "edge")
    kubeconfig = api_server.kubeconfig_for(f"system:serviceaccount:{namespace}:{account}")
    api_server.wait_until_allowed(kubeconfig, "list", "nodes")
    api_server.wait_until_allowed(kubeconfig, "list", "servingpools.rung.dev", f"--namespace={namespace}")
    async with connect(kubeconfig) as cluster:
        assert await cluster.list_uids("servingpools", namespace) == {there.uid}
        for plural in ("inferencetasks", "modelversions", "pods"):
            assert await cluster.list_uids(plural, namespace) == frozenset()
        assert await cluster.list_uids("nodes") == frozenset()
