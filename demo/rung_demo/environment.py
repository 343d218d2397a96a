"""From nothing to a pool that serves: cluster, images, versions, chart, profiles, tasks."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import yaml

from rung_demo.jobs import job
from rung_demo.programs import DemoError, Kubernetes, run
from rung_demo.stages import Stages
from rung_devcluster.tools import ToolError, ensure_tools

PROJECT = Path(__file__).parents[2]
CLUSTER = "rung-demo"
RELEASE = "rung"
POOL = "edge"
BUCKET_URI = "s3://models/rung"
S3_PORT = 7070
TASKS = ("digits", "parity")
SLO = "400ms"
HARDWARE_CLASS = "default"
FORWARD_TRIES = 3
S3_ENV = {
    "AWS_ACCESS_KEY_ID": "rung-demo",
    "AWS_SECRET_ACCESS_KEY": "rung-demo-secret",
    "AWS_REGION": "us-east-1",
}
"""The credentials of the demo's own S3 server, as in examples/demo/s3.yaml."""


@dataclass(frozen=True)
class Options:
    """What the user asked for."""

    kubeconfig: Path | None
    """A cluster of the user's own; None makes one on this machine."""
    profile_again: bool = False


def prepare(options: Options, stages: Stages) -> Kubernetes:
    """Bring everything up, as much as possible at the same time, and return the cluster. Raises DemoError."""
    with ThreadPoolExecutor(max_workers=2, thread_name_prefix="demo") as executor:
        versions = executor.submit(_make_versions, stages)
        kubernetes = _cluster(options, stages)
        try:
            _install(kubernetes, stages)
        finally:
            ladders = versions.result()
    _publish(kubernetes, ladders, stages)
    _profile(kubernetes, stages, again=options.profile_again)
    with stages.stage("Registering the versions and the tasks"):
        _register(kubernetes)
        kubernetes.apply(PROJECT / "examples/demo/tasks.yaml")
    wait_until_serving(kubernetes, stages)
    return kubernetes


def tear_down(options: Options, kubernetes: Kubernetes | None, stages: Stages) -> None:
    """Remove what `prepare` made. In a cluster of the user's own that is the release and the namespace."""
    with stages.stage("Removing everything"):
        if options.kubeconfig is None:
            run([sys.executable, "-m", "rung_devcluster", "down", "--name", CLUSTER], deadline_seconds=120)
        elif kubernetes is not None:
            kubernetes.kubectl("delete", "namespace", kubernetes.namespace, "--ignore-not-found", deadline_seconds=180)


# ------------------------------------------------------------------------------------------------------------ cluster


def _cluster(options: Options, stages: Stages) -> Kubernetes:
    with stages.stage("Programs"):
        try:
            tools = ensure_tools(["kubectl", "helm"])
        except ToolError as error:
            raise DemoError(str(error)) from error
    kubeconfig = options.kubeconfig
    if kubeconfig is None:
        if os.geteuid() != 0:
            raise DemoError(
                "a cluster on this machine needs root: run `sudo make demo`, or set KUBECONFIG to any cluster "
                "(k3s, kind) that has the images (README, 'On your own cluster')"
            )
        with stages.stage("A Kubernetes on this machine"):
            said = run([sys.executable, "-m", "rung_devcluster", "up", "--name", CLUSTER], deadline_seconds=5400)
            kubeconfig = _kubeconfig_of(said)
        with stages.stage("Images"):
            run([sys.executable, "-m", "rung_devcluster", "images", "--name", CLUSTER], deadline_seconds=1800)
    return Kubernetes(kubeconfig, tools["kubectl"], tools["helm"])


def _kubeconfig_of(said: str) -> Path:
    for line in said.splitlines():
        if line.startswith("export KUBECONFIG="):
            return Path(line.partition("=")[2])
    raise DemoError(f"the cluster did not say where its kubeconfig is:\n{said}")


# ----------------------------------------------------------------------------------------------------------- versions


def _make_versions(stages: Stages) -> Path:
    """Train, prune and export the demo's ladders; what was made before is found again."""
    program = PROJECT / ".venv-porting/bin/rung-port"
    if not program.exists():
        raise DemoError("the environment for porting is missing: run `make setup-porting`")
    out = PROJECT / "out/models"
    with stages.stage("Versions of two networks: trained, pruned, exported"):
        run([program, "run", "--output", out], deadline_seconds=1800)
    return out


def _publish(kubernetes: Kubernetes, ladders: Path, stages: Stages) -> None:
    with stages.stage("Publishing the versions to S3"):
        _rung_port(kubernetes, "publish", str(ladders), BUCKET_URI)


def _register(kubernetes: Kubernetes) -> None:
    _rung_port(kubernetes, "register", BUCKET_URI, "--namespace", kubernetes.namespace)


def _rung_port(kubernetes: Kubernetes, *arguments: str) -> None:
    """Run rung-port against the S3 in the cluster. Both commands may be repeated: what is done stays done."""
    env = {**S3_ENV, "KUBECONFIG": str(kubernetes.kubeconfig)}
    program = Path(sys.executable).parent / "rung-port"
    for left in range(FORWARD_TRIES - 1, -1, -1):
        # A port-forward ends when one of its connections is cut, so each try has one of its own.
        with kubernetes.forwarded("service/s3", S3_PORT) as address:
            try:
                run([program, *arguments, "--endpoint", f"http://{address}"], deadline_seconds=300, env=env)
            except DemoError:
                if not left:
                    raise
            else:
                return


# ------------------------------------------------------------------------------------------------------------ install


def _install(kubernetes: Kubernetes, stages: Stages) -> None:
    with stages.stage("Prometheus, S3 and Rung (helm install)"):
        # What an earlier run left would be mixed with this one's.
        kubernetes.kubectl("delete", "namespace", kubernetes.namespace, "--ignore-not-found", deadline_seconds=180)
        named = {"name": kubernetes.namespace}
        kubernetes.apply(yaml.safe_dump({"apiVersion": "v1", "kind": "Namespace", "metadata": named}))
        kubernetes.apply(PROJECT / "examples/demo/s3.yaml")
        kubernetes.apply(PROJECT / "examples/demo/prometheus.yaml")
        kubernetes.helm(
            "upgrade", "--install", RELEASE, str(PROJECT / "charts/rung"),
            "--values", str(PROJECT / "examples/demo/values.yaml"), "--wait", "--timeout", "150s",
        )  # fmt: skip
        kubernetes.kubectl("rollout", "status", "deployment/s3", "deployment/prometheus", "--timeout=60s")


def _profile(kubernetes: Kubernetes, stages: Stages, *, again: bool) -> None:
    """Measure every version on the very server that will serve it, from a Job beside it."""
    pods = json.loads(kubernetes.kubectl("get", "pods", "--selector", f"rung.dev/pool={POOL}", "--output", "json"))
    ready = [pod for pod in pods["items"] if pod["status"].get("podIP")]
    if not ready:
        raise DemoError("no Triton pod has an address; look at it: kubectl describe pods -l rung.dev/pool=edge")
    address = ready[0]["status"]["podIP"]
    arguments = [
        "profile", f"--triton={address}:8001", f"--agent=http://{address}:8090", f"--repository={BUCKET_URI}",
        f"--endpoint=http://s3:{S3_PORT}", f"--hardware-class={HARDWARE_CLASS}", "--cpu=1", f"--slo={SLO}",
        f"--tasks={','.join(TASKS)}",
    ]  # fmt: skip
    if not again:
        # What is measured stays measured: a second try of the Job does only what the first could not.
        arguments.append("--skip-existing")
    manifest = profile_job(arguments, tries=1 if again else 3)
    with stages.stage("Profiling every version on its server"):
        kubernetes.kubectl("delete", "job", "rung-profile", "--ignore-not-found")
        kubernetes.apply(manifest)
        _wait_for_job(kubernetes, "rung-profile", 900)


def profile_job(arguments: Sequence[str], *, tries: int) -> str:
    """Return the Job that profiles, as YAML; it writes to S3, and is tried again where it leaves something out."""
    more = {
        "envFrom": [{"secretRef": {"name": "s3-credentials"}}],
        "env": [{"name": "AWS_REGION", "value": S3_ENV["AWS_REGION"]}],
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 - inside the pod
    }
    return yaml.safe_dump(
        job(
            "rung-profile",
            image("rung-loadgen"),
            ["rung-port", *arguments],
            container=more,
            volumes=[{"name": "tmp", "emptyDir": {}}],
            tries=tries,
            deadline_seconds=1800,
        )
    )


def image(name: str) -> str:
    """Return the reference of one of the project's images, with the version of the chart."""
    chart = yaml.safe_load((PROJECT / "charts/rung/Chart.yaml").read_text(encoding="utf-8"))
    return f"localhost/rung/{name}:{chart['appVersion']}"


def _wait_for_job(kubernetes: Kubernetes, name: str, deadline_seconds: float) -> None:
    def ended() -> bool | None:
        status = json.loads(kubernetes.kubectl("get", "job", name, "--output", "json")).get("status", {})
        if any(c["type"] == "Failed" and c["status"] == "True" for c in status.get("conditions") or []):
            logs = kubernetes.kubectl("logs", f"job/{name}", "--tail=20")
            raise DemoError(f"the Job {name} failed; it said:\n{logs}")
        return bool(status.get("succeeded"))

    _wait(ended, deadline_seconds, lambda: f"the Job {name} did not end within {deadline_seconds:.0f} s")


def wait_until_serving(kubernetes: Kubernetes, stages: Stages) -> None:
    """Wait until every task has a version that answers and the pool has fresh metrics."""
    last: dict[str, str] = {}

    def serving() -> bool:
        tasks = json.loads(kubernetes.kubectl("get", "itask", "--output", "json"))["items"]
        pools = json.loads(kubernetes.kubectl("get", "spool", "--output", "json"))["items"]
        wanted = [(task, "Ready") for task in tasks] + [(pool, "MetricsAvailable") for pool in pools]
        last.clear()
        for resource, kind in wanted:
            conditions = resource.get("status", {}).get("conditions", [])
            found = next((c for c in conditions if c["type"] == kind), None)
            if found is None or found["status"] != "True":
                last[resource["metadata"]["name"]] = f"{kind}: {found['message'] if found else 'not known yet'}"
        settled = all(
            task.get("status", {}).get("activeVersion") == task.get("status", {}).get("targetVersion") for task in tasks
        )
        return len(tasks) == len(TASKS) and not last and settled

    with stages.stage("The best versions load"):
        _wait(serving, 120, lambda: f"not every task is served: {last}")


def _wait(done: Callable[[], bool | None], deadline_seconds: float, fault: Callable[[], str]) -> None:
    deadline = time.monotonic() + deadline_seconds
    while not done():
        if time.monotonic() > deadline:
            raise DemoError(fault())
        time.sleep(1.0)
