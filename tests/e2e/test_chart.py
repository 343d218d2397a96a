"""The chart as a user has it: installed, asked, loaded, changed, broken, removed, installed again.

The tests share one release and run in the order of this file; each leaves the task on its best version.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from installed.cluster import CHART, Cluster, Namespace, until
from installed.ladder import BEST, CHEAPEST, MIDDLE, serve_ladder
from rung_demo.environment import PROJECT, image
from rung_demo.replay import JOB, Replay, job_manifest
from rung_loadgen.trace import parse_trace

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

HOME, FAR = "rung-e2e", "rung-e2e-far"
TASK = "digits"
DEMO = PROJECT / "examples/demo"
RATE_RPS, LOAD_SECONDS = 30, 20
FAR_LABEL = "rung.dev/e2e-far"


@dataclass(frozen=True)
class Site:
    """The release, and a second namespace that stays empty until a test needs it."""

    cluster: Cluster
    home: Namespace
    far: Namespace


@pytest.fixture(scope="module")
def site(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(cluster, cluster.namespaced(HOME), cluster.namespaced(FAR))
    try:
        make_with_stores(made.home)
        install(made.home, "install")
        made.home.kubectl("rollout", "status", "deployment/s3", "deployment/prometheus", "--timeout=60s")
        serve_ladder(made.home, tmp_path_factory.mktemp("ladder"), TASK)
        made.home.kubectl("apply", "--filename", str(PROJECT / "examples/first-task/task.yaml"))
        yield made
    finally:
        for namespace, release in ((made.far, "far"), (made.home, "rung")):
            namespace.helm("uninstall", release, "--ignore-not-found")
            namespace.remove()
        made.home.kubectl("label", "node", "--all", f"{FAR_LABEL}-")


def make_with_stores(namespace: Namespace) -> None:
    """Make a namespace with an S3 and a Prometheus of its own."""
    namespace.make()
    namespace.kubectl("apply", f"--filename={DEMO / 's3.yaml'}", f"--filename={DEMO / 'prometheus.yaml'}")


def install(namespace: Namespace, verb: str, *sets: str, chart: Path = CHART) -> str:
    """Install or upgrade the release with the demo's values; `pool.policy` is Static Best unless set otherwise."""
    return namespace.helm(
        verb, "rung", str(chart), f"--values={DEMO / 'values.yaml'}", "--set=pool.policy.name=Static",
        *(f"--set={each}" for each in sets), "--wait", "--timeout=120s",
    )  # fmt: skip


def test_what_helm_says_after_the_installation_works(site: Site) -> None:
    notes = site.home.helm("get", "notes", "rung")
    assert f"looks after {HOME}" in notes
    for line in notes.splitlines():
        if line.strip().startswith("kubectl"):
            site.home.kubectl(*line.replace("TASK", TASK).split()[1:])
    assert "succeeded" in site.home.helm("test", "rung").lower()


def test_nobody_is_root_and_nothing_can_be_changed(site: Site) -> None:
    (operator,) = site.home.pods("operator")
    (triton,) = site.home.pods("triton")
    for pod, container in ((operator, "operator"), (triton, "triton"), (triton, "agent")):
        name = pod["metadata"]["name"]
        script = "id -u; if touch /x /usr/x /etc/x 2>/dev/null; then echo writable; fi; cat /proc/self/status"
        uid, *rest = site.home.inside(name, container, script).splitlines()
        facts = dict(line.split(":\t", 1) for line in rest if ":\t" in line)
        assert uid != "0"
        assert "writable" not in rest
        assert facts["CapEff"] == facts["CapBnd"] == "0" * 16
        assert facts["NoNewPrivs"] == "1"
        assert facts["Seccomp"] == "2", "the container runtime's filter of system calls is not on"
    name = triton["metadata"]["name"]
    assert "denied" in site.home.inside(name, "triton", "touch /models/x 2>&1 || echo denied")
    secrets = "test -e /var/run/secrets/kubernetes.io && echo a token is there || true"
    assert site.home.inside(name, "triton", secrets) + site.home.inside(name, "agent", secrets) == ""


MAY = {
    HOME: (
        "list pods", "watch pods", "list inferencetasks.rung.dev", "watch modelversions.rung.dev",
        "list servingpools.rung.dev", "patch inferencetasks.rung.dev/status", "patch modelversions.rung.dev/status",
        "patch servingpools.rung.dev/status", "create events.events.k8s.io", "patch events.events.k8s.io",
    ),
    "": ("list nodes", "watch nodes", "list namespaces", "list customresourcedefinitions.apiextensions.k8s.io"),
}  # fmt: skip
MAY_NOT = {
    HOME: (
        "create pods", "delete pods", "patch pods", "create pods/exec", "get pods/log", "get secrets", "list secrets",
        "get configmaps", "patch deployments.apps", "patch daemonsets.apps", "patch inferencetasks.rung.dev",
        "delete inferencetasks.rung.dev", "patch servingpools.rung.dev", "delete modelversions.rung.dev",
        "create modelversions.rung.dev", "delete events.events.k8s.io", "create rolebindings.rbac.authorization.k8s.io",
        "create serviceaccounts/token",
    ),
    "default": (
        "list pods", "list inferencetasks.rung.dev", "patch servingpools.rung.dev/status", "create events.events.k8s.io"
    ),
    "": ("patch nodes", "delete namespaces", "patch customresourcedefinitions.apiextensions.k8s.io"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("namespace", "what", "allowed"),
    [(namespace, what, True) for namespace, several in MAY.items() for what in several]
    + [(namespace, what, False) for namespace, several in MAY_NOT.items() for what in several],
)
def test_the_operator_may_do_what_it_needs_and_nothing_else(
    site: Site, namespace: str, what: str, allowed: bool
) -> None:
    assert site.home.may("rung-operator", what, namespace or HOME) is allowed


def test_pool_is_ready_with_metrics_and_the_best_version_is_served(site: Site) -> None:
    site.home.wait_for_active(TASK, BEST)
    wanted = {"Ready", "MetricsAvailable", "CapacityKnown"}
    until(
        lambda: {kind for kind in wanted if site.home.condition("spool", "edge", kind) == "True"} == wanted,
        lambda: yaml.safe_dump(site.home.get("spool", "edge")["status"]),
    )
    (server,) = site.home.get("spool", "edge")["status"]["servers"]
    assert server["capacity"] == "1"
    assert server["hardwareClass"] == "default"


def test_no_request_fails_while_versions_are_swapped(site: Site) -> None:
    home = site.home
    begin_load(home)
    swapped = [MIDDLE, CHEAPEST, BEST, CHEAPEST]
    for version in swapped:
        home.pin(TASK, version)
        home.wait_for_active(TASK, version)
    during = load_lines(home)
    told = end_load(home)
    assert during[-1]["kind"] == "load", "the load ended before the versions were swapped"
    assert {int(version) for version in told["versions"]} == {BEST, MIDDLE, CHEAPEST}
    home.unpin(TASK)
    home.wait_for_active(TASK, BEST)


def begin_load(namespace: Namespace, service: str = "rung-triton") -> None:
    """Have requests come through the Service, and wait for the first answers."""
    trace = parse_trace("\n".join([str(RATE_RPS)] * LOAD_SECONDS), TASK)
    replay = Replay({TASK: trace}, {TASK: 400.0}, f"{service}:8001", image("rung-loadgen"), 1, LOAD_SECONDS)
    namespace.kubectl("apply", "--filename", "-", text=job_manifest(replay))
    until(lambda: bool(load_lines(namespace)), lambda: "the load did not start")


def end_load(namespace: Namespace) -> dict[str, Any]:
    """Wait for the load's end and return what it tells; every request has to be answered."""
    until(
        lambda: load_lines(namespace)[-1]["kind"] == "load_summary",
        lambda: namespace.kubectl("logs", f"job/{JOB}"),
        90,
    )
    summary = load_lines(namespace)[-1]
    told: dict[str, Any]
    (told,) = summary["tasks"]
    assert summary["complete"]
    assert told["failed"] == {}
    assert told["answered"] == told["offered"] > RATE_RPS * LOAD_SECONDS / 2
    assert sum(told["versions"].values()) == told["answered"]
    namespace.kubectl("delete", "job,configmap", JOB)
    return told


def load_lines(namespace: Namespace) -> list[dict[str, Any]]:
    """Return what the load has printed so far; fails when it ended badly."""
    job = namespace.get("job", JOB)
    if job.get("status", {}).get("failed"):
        pytest.fail(namespace.kubectl("logs", f"job/{JOB}", "--tail=20"))
    printed = namespace.kubectl("logs", f"job/{JOB}").splitlines()
    return [json.loads(line) for line in printed if line.startswith("{")]


def test_it_says_what_it_does_and_why(site: Site) -> None:
    explained = site.home.explain(TASK)
    assert f"{HOME}/{TASK}: version {BEST} answers, accuracy 90.00% (100.00% of the best)" in explained
    assert f"> {BEST}" in explained
    table = site.home.kubectl("exec", "deploy/rung-operator", "--", "rung", "tasks").splitlines()
    assert table[0].split()[:4] == ["TASK", "POOL", "MODE", "ACTIVE"]
    assert table[1].split()[:4] == [TASK, "edge", "Auto", str(BEST)]
    events = site.home.get("events", f"--field-selector=involvedObject.kind=InferenceTask,involvedObject.name={TASK}")
    assert any(str(CHEAPEST) in event["message"] for event in events["items"]), events
    listed = site.home.kubectl("get", "spool,itask,mver")
    for word in ("servingpool.rung.dev/edge", f"inferencetask.rung.dev/{TASK}", f"modelversion.rung.dev/{TASK}-{BEST}"):
        assert word in listed


def test_upgrade_and_rollback_take_effect_without_restarting_anything(site: Site) -> None:
    pods = site.home.uids("operator") | site.home.uids("triton")
    install(site.home, "upgrade", "pool.policy.static.choice=Cheapest")
    site.home.wait_for_active(TASK, CHEAPEST)
    site.home.helm("rollback", "rung", "--wait")
    site.home.wait_for_active(TASK, BEST)
    assert site.home.uids("operator") | site.home.uids("triton") == pods


def test_a_new_version_of_the_chart_alone_restarts_nothing(site: Site, tmp_path: Path) -> None:
    newer = tmp_path / "rung"
    shutil.copytree(CHART, newer)
    about = yaml.safe_load((newer / "Chart.yaml").read_text())
    (newer / "Chart.yaml").write_text(yaml.safe_dump({**about, "version": "0.99.0"}))
    pods = site.home.uids("operator") | site.home.uids("triton")
    install(site.home, "upgrade", "pool.policy.name=Stepwise", chart=newer)
    assert site.home.get("spool", "edge")["metadata"]["labels"]["helm.sh/chart"] == "rung-0.99.0"
    assert site.home.uids("operator") | site.home.uids("triton") == pods


def test_an_operator_that_is_restarted_remembers(site: Site) -> None:
    def memory() -> dict[str, Any]:
        found: dict[str, Any] = site.home.get("spool", "edge")["status"]["policyMemory"]
        return found

    install(site.home, "upgrade", "pool.policy.name=Stepwise")
    until(lambda: memory()["policyName"] == "Stepwise", lambda: str(memory()))
    before = memory()["policy"]
    (operator,) = site.home.pods("operator")
    site.home.kubectl("delete", "pod", operator["metadata"]["name"])
    # Only the successor can answer a spec that is newer than its predecessor.
    site.home.patch("spool", "edge", {"spec": {"interval": "900ms"}})

    def caught_up() -> bool:
        pool = site.home.get("spool", "edge")
        return bool(pool["status"]["observedGeneration"] == pool["metadata"]["generation"])

    until(caught_up, lambda: "the new operator did not look at the pool")
    assert memory()["policy"] == before
    site.home.wait_for_active(TASK, BEST)


@pytest.mark.parametrize("how", ["the chart changes it", "its pod is deleted"])
def test_a_new_server_gets_its_allocation_back(site: Site, how: str) -> None:
    site.home.pin(TASK, CHEAPEST)
    site.home.wait_for_active(TASK, CHEAPEST)
    (before,) = site.home.pods("triton")
    if how == "its pod is deleted":
        site.home.kubectl("delete", "pod", before["metadata"]["name"])
    else:
        # On a full node as well, where the new one has to wait for the old one's place.
        install(site.home, "upgrade", "triton.podAnnotations.changed=yes")

    def back() -> bool:
        names = {pod["metadata"]["name"] for pod in site.home.pods("triton")} - {before["metadata"]["name"]}
        servers = site.home.get("itask", TASK)["status"]["servers"]
        return bool(names) and [(each["name"], each.get("active")) for each in servers] == [(names.pop(), CHEAPEST)]

    until(back, lambda: site.home.explain(TASK))
    site.home.unpin(TASK)
    site.home.wait_for_active(TASK, BEST)


def test_requests_come_through_the_gate_and_what_it_counts_is_the_demand(site: Site) -> None:
    home = site.home
    assert home.get("spool", "edge")["spec"]["reflex"] == "On"
    (pod,) = home.pods("triton")
    assert {each["name"] for each in pod["spec"]["containers"]} == {"triton", "agent", "gate"}

    def page() -> str:
        look = "import urllib.request as u; print(u.urlopen('http://localhost:8090/metrics').read().decode())"
        return home.kubectl("exec", pod["metadata"]["name"], "--container=agent", "--", "python", "-c", look)

    known = f'rung_gate_service_seconds{{model="{TASK}",version="{BEST}"}}'
    until(lambda: known in page(), lambda: "the gate was not told of the task")
    before = arrivals(page())
    begin_load(home)
    until(lambda: home.get("itask", TASK)["status"].get("demand", 0) > 1, lambda: home.explain(TASK))
    told = end_load(home)
    assert arrivals(page()) - before == told["offered"]


def arrivals(page: str) -> float:
    """Return what a gate's page says of the requests that came; none before the first."""
    samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
    return sum(s.value for s in samples if (s.name, s.labels) == ("rung_gate_arrivals_total", {"model": TASK}))


def test_without_the_reflex_there_is_no_gate_and_triton_itself_is_asked(site: Site) -> None:
    home = site.home
    # As the test before left the pods, so that the next one finds them so.
    as_before = "triton.podAnnotations.changed=yes"
    install(home, "upgrade", as_before, "reflex.enabled=false")
    home.wait_for_active(TASK, BEST)
    assert home.get("spool", "edge")["spec"]["reflex"] == "Off"
    (pod,) = home.pods("triton")
    assert {each["name"] for each in pod["spec"]["containers"]} == {"triton", "agent"}
    begin_load(home)
    until(lambda: home.get("itask", TASK)["status"].get("demand", 0) > 1, lambda: home.explain(TASK))
    end_load(home)
    install(home, "upgrade", as_before)
    home.wait_for_active(TASK, BEST)
    assert home.get("spool", "edge")["spec"]["reflex"] == "On"


def test_behind_the_balancer_servers_that_load_take_turns_and_get_no_requests_meanwhile(site: Site) -> None:
    home = site.home
    as_before = "triton.podAnnotations.changed=yes"
    install(
        home, "upgrade", as_before, "balancer.enabled=true", "triton.replicas=2", "triton.readinessGate=true",
        "triton.resources.requests.cpu=100m",
    )  # fmt: skip

    def answering() -> list[int | None]:
        return [each.get("active") for each in home.get("itask", TASK)["status"].get("servers", [])]

    until(lambda: answering() == [BEST, BEST], lambda: home.explain(TASK))

    def serving() -> list[str]:
        return [
            each["status"]
            for pod in home.pods("triton")
            for each in pod["status"]["conditions"]
            if each["type"] == "rung.dev/serving"
        ]

    until(lambda: serving() == ["True", "True"], lambda: f"their readiness is {serving()}")
    home.pin(TASK, CHEAPEST)
    until(lambda: answering() == [CHEAPEST, CHEAPEST], lambda: home.explain(TASK))
    begin_load(home, "rung-balancer")
    home.unpin(TASK)
    until(lambda: answering() == [BEST, BEST], lambda: home.explain(TASK))
    told = end_load(home)
    assert set(told["versions"]) <= {str(CHEAPEST), str(BEST)}
    servers = [pod["metadata"]["name"] for pod in home.pods("triton")]
    page = home.kubectl("get", "--raw", f"/api/v1/namespaces/{HOME}/services/rung-operator:http/proxy/metrics")
    for server in servers:
        line = f'rung_drains_total{{outcome="drained",pool="{HOME}/edge",server="{server}"}}'
        assert any(each.startswith(line) for each in page.splitlines()), page
    install(home, "upgrade", as_before)
    home.wait_for_active(TASK, BEST)


def test_one_operator_looks_after_servers_of_another_release_on_labelled_nodes(site: Site, tmp_path: Path) -> None:
    make_with_stores(site.far)
    servers = site.home.uids("triton")
    install(site.home, "upgrade", f"operator.watchNamespaces={{{HOME},{FAR}}}", "triton.podAnnotations.changed=yes")
    assert site.home.uids("triton") == servers
    assert site.home.may("rung-operator", "patch inferencetasks.rung.dev/status", FAR)
    assert not site.home.may("rung-operator", "get secrets", FAR)
    values = {
        "operator": {"enabled": False},
        "pool": {"name": "far", "policy": {"name": "Static"}},
        "prometheus": {"url": f"http://prometheus.{FAR}:9090"},
        "triton": {
            "kind": "DaemonSet",
            "nodeSelector": {"rung.dev/serve": None, FAR_LABEL: "true"},
            "hardwareClass": "far",
            "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}},
        },
    }
    (tmp_path / "far.yaml").write_text(yaml.safe_dump(values))
    site.far.helm(
        "install", "far", str(CHART), f"--values={DEMO / 'values.yaml'}", f"--values={tmp_path / 'far.yaml'}", "--wait",
        "--timeout=60s",
    )  # fmt: skip
    assert site.far.pods("triton", "far") == []
    node = site.home.get("nodes")["items"][0]["metadata"]["name"]
    site.far.kubectl("label", "node", node, f"{FAR_LABEL}=true")
    serve_ladder(site.far, tmp_path, "parity")
    task = {"poolRef": {"name": "far"}, "slo": {"latency": "400ms"}}
    manifest = {
        "apiVersion": "rung.dev/v1alpha1",
        "kind": "InferenceTask",
        "metadata": {"name": "parity"},
        "spec": task,
    }
    site.far.kubectl("apply", "--filename", "-", text=yaml.safe_dump(manifest))
    site.far.wait_for_active("parity", BEST)
    (server,) = site.far.get("spool", "far")["status"]["servers"]
    assert (server["node"], server["hardwareClass"]) == (node, "far")
    assert "succeeded" in site.far.helm("test", "far").lower()
    site.far.kubectl("label", "node", node, f"{FAR_LABEL}-")
    until(
        lambda: site.far.get("spool", "far")["status"]["servers"] == [],
        lambda: yaml.safe_dump(site.far.get("spool", "far")["status"]),
    )
    assert site.home.active(TASK) == BEST


def test_uninstalling_keeps_the_tasks_and_installing_again_serves_them(site: Site) -> None:
    site.home.helm("uninstall", "rung", "--wait", "--timeout=60s")
    assert site.home.get("itask,mver,spool")["items"]
    assert {item["kind"] for item in site.home.get("itask,mver,spool")["items"]} == {"InferenceTask", "ModelVersion"}
    assert all("finalizers" not in item["metadata"] for item in site.home.get("itask,mver")["items"])
    install(site.home, "install")
    (triton,) = site.home.pods("triton")
    until(
        lambda: (
            [each["name"] for each in site.home.get("itask", TASK)["status"]["servers"]] == [triton["metadata"]["name"]]
        ),
        lambda: site.home.explain(TASK),
    )
    site.home.wait_for_active(TASK, BEST)


def test_nothing_hangs_when_everything_is_removed(site: Site) -> None:
    """With the operator running, and again without it, a namespace with tasks goes at once."""
    site.far.remove(seconds=60)
    site.home.helm("uninstall", "rung", "--wait", "--timeout=60s")
    site.home.remove(seconds=60)
    left = site.home.kubectl("get", "clusterrole,clusterrolebinding", "--output", "name")
    assert f"{HOME}-rung" not in left
    if site.cluster.embedded:
        site.home.kubectl("delete", "--filename", str(CHART / "crds"), "--timeout=30s")
