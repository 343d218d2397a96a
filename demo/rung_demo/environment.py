"""From nothing to a pool that serves: cluster, images, versions, chart, profiles, tasks."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import yaml
from rich.markup import escape

from rung_demo.programs import DemoError, Kubernetes, end, finish, run, start
from rung_demo.stages import Stages
from rung_devcluster.tools import ToolError, ensure_tools

PROJECT = Path(__file__).parents[2]
CLUSTER = "rung-demo"
NAMESPACE = "rung-demo"
RELEASE = "rung"
POOL = "edge"
BUCKET_URI = "s3://models/rung"
S3_PORT = 7070
TASKS = ("digits", "parity")
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
    versions: Path | None = None
    """Ladders for the tasks that are there already; None makes the demo's own."""
    keep: bool = False
    tasks: tuple[str, ...] = TASKS
    """What is in the ladders."""
    manifest: str | Path = PROJECT / "examples/demo/tasks.yaml"
    """The InferenceTasks: a file, or YAML."""
    profile_slo: str = "400ms"
    """Versions are measured for this service level."""
    reflex: bool = True
    """Whether a gate stands in front of the server, and the pool's reflex is on."""
    values: tuple[str, ...] = ()
    """More values for Helm, NAME=VALUE each."""
    more_servers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Releases that bring more servers into the pool, with what is theirs alone of the values; RELEASE may be among
    them."""


@contextmanager
def environment(options: Options, stages: Stages) -> Iterator[Kubernetes]:
    """Bring everything up, as much as possible at the same time, and yield the cluster; remove it at the end.

    Whatever happens in the block or before it: unless the user keeps it, nothing is left. Raises DemoError.
    """
    if options.kubeconfig is None and os.geteuid() != 0:
        raise DemoError(
            "a cluster on this machine needs root: run `sudo make demo`, or set KUBECONFIG to any cluster "
            "(k3s, kind) that has the images (README, 'On your own cluster')"
        )
    kubernetes: Kubernetes | None = None
    try:
        with _ladders(options, stages) as ladders:
            kubernetes = _cluster(options, stages)
            _install(kubernetes, stages, options)
            _publish(kubernetes, ladders(), stages)
        _profile(kubernetes, stages, options)
        with stages.stage("Registering the versions and the tasks"):
            _register(kubernetes)
            kubernetes.apply(options.manifest)
        wait_until_serving(kubernetes, stages, tasks=len(options.tasks))
        yield kubernetes
    finally:
        if not options.keep:
            _remove(options, kubernetes, stages)


def _remove(options: Options, kubernetes: Kubernetes | None, stages: Stages) -> None:
    """Remove what was made. In a cluster of the user's own that is the release and the namespace.

    What can't be removed is told and raises nothing: the fault that led here is the one to hear of.
    """
    if options.kubeconfig is not None and kubernetes is None:
        return
    try:
        with stages.stage("Removing everything"):
            if options.kubeconfig is None or kubernetes is None:
                _devcluster("down", deadline_seconds=120)
            else:
                _uninstall(kubernetes)
                stages.say("Helm keeps CRDs. To remove them too: kubectl delete -f charts/rung/crds/")
    except (DemoError, KeyboardInterrupt) as error:
        stages.say(f"Not everything was removed: {escape(str(error)) or 'interrupted'}\n  By hand: {removal(options)}")


def removal(options: Options) -> str:
    """Return the command that removes what the demo made, for a person to type."""
    if options.kubeconfig is None:
        return f'make cluster-down ARGS="--name {CLUSTER}"'
    return f"helm -n {NAMESPACE} uninstall {RELEASE}; kubectl delete namespace {NAMESPACE}"


def _uninstall(kubernetes: Kubernetes) -> None:
    """Take the release away, its cluster roles included, and the namespace with all that the demo put there."""
    kubernetes.helm("uninstall", RELEASE, "--ignore-not-found", "--wait", "--timeout=90s")
    kubernetes.kubectl("delete", "namespace", kubernetes.namespace, "--ignore-not-found", deadline_seconds=180)


# ------------------------------------------------------------------------------------------------------------ cluster


def _cluster(options: Options, stages: Stages) -> Kubernetes:
    kubeconfig = options.kubeconfig
    with stages.stage("Programs"):
        try:
            tools = ensure_tools(["kubectl", "helm"])
        except ToolError as error:
            raise DemoError(str(error)) from error
    if kubeconfig is None:
        with stages.stage("A Kubernetes on this machine"):
            said = _devcluster("up", deadline_seconds=5400)
            kubeconfig = _kubeconfig_of(said)
        with stages.stage("Images"):
            _devcluster("images", deadline_seconds=1800)
    return Kubernetes(kubeconfig, tools["kubectl"], tools["helm"], NAMESPACE)


def _devcluster(command: str, *, deadline_seconds: float) -> str:
    """Run a command of the cluster on this machine. It tells what it does: the first time it may take long."""
    words = [sys.executable, "-m", "rung_devcluster", command, "--name", CLUSTER]
    return run(words, deadline_seconds=deadline_seconds, tells=True)


def _kubeconfig_of(said: str) -> Path:
    for line in said.splitlines():
        if line.startswith("export KUBECONFIG="):
            return Path(line.partition("=")[2])
    raise DemoError(f"the cluster did not say where its kubeconfig is:\n{said}")


# ----------------------------------------------------------------------------------------------------------- versions


@contextmanager
def _ladders(options: Options, stages: Stages) -> Iterator[Callable[[], Path]]:
    """Make the ladders beside the block; yields what waits for their folder. Leaving it early ends their making."""
    if options.versions is not None:
        folder = options.versions
        yield lambda: folder
        return
    program = PROJECT / ".venv-porting/bin/rung-port"
    if not program.exists():
        raise DemoError("the environment for porting is missing: run `make setup-porting`")

    def made() -> Path:
        with stages.stage("Versions of two networks: trained, pruned, exported"):
            finish(porting, deadline_seconds=1800)
        return out

    # What costs time is kept in rung-port's store and found again; the folder is only for publishing it.
    with (
        TemporaryDirectory(prefix="rung-demo-models-") as temporary,
        ThreadPoolExecutor(1, thread_name_prefix="ladders") as executor,
    ):
        out = Path(temporary)
        porting = start([program, "run", "digits", "parity", "--output", out])
        try:
            yield executor.submit(made).result
        finally:
            end(porting)


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


def _install(kubernetes: Kubernetes, stages: Stages, options: Options) -> None:
    with stages.stage("Prometheus, S3 and Rung (helm install)"):
        # What an earlier run left would be mixed with this one's.
        _uninstall(kubernetes)
        named = {"name": kubernetes.namespace}
        kubernetes.apply(yaml.safe_dump({"apiVersion": "v1", "kind": "Namespace", "metadata": named}))
        kubernetes.apply(PROJECT / "examples/demo/s3.yaml")
        kubernetes.apply(PROJECT / "examples/demo/prometheus.yaml")
        install_release(kubernetes, RELEASE, options)
        for name in options.more_servers:
            if name != RELEASE:
                install_release(kubernetes, name, options)
        kubernetes.kubectl("rollout", "status", "deployment/s3", "deployment/prometheus", "--timeout=60s")


def install_release(kubernetes: Kubernetes, name: str, options: Options) -> None:
    """Install or change one release and wait until it is ready. Raises DemoError."""
    reflex = f"reflex.enabled={str(options.reflex).lower()}"
    alone = () if name == RELEASE else ("operator.enabled=false", "pool.create=false", "balancer.enabled=false")
    values = (reflex, *options.values, *options.more_servers.get(name, ()), *alone)
    kubernetes.helm(
        "upgrade", "--install", name, str(PROJECT / "charts/rung"),
        "--values", str(PROJECT / "examples/demo/values.yaml"), *(f"--set={value}" for value in values),
        "--wait", "--timeout", "150s",
    )  # fmt: skip


def _profile(kubernetes: Kubernetes, stages: Stages, options: Options) -> None:
    """Measure every version on the very server that will serve it, from a Job beside it."""
    pods = json.loads(kubernetes.kubectl("get", "pods", "--selector", f"rung.dev/pool={POOL}", "--output", "json"))
    ready = [pod for pod in pods["items"] if pod["status"].get("podIP")]
    if not ready:
        raise DemoError("no Triton pod has an address; look at it: kubectl describe pods -l rung.dev/pool=edge")
    manifest = (PROJECT / "examples/profile/job.yaml").read_text(encoding="utf-8")
    with stages.stage("Profiling every version on its server"):
        for word, value in (
            ("SERVER", ready[0]["status"]["podIP"]), ("TASKS", ",".join(options.tasks)),
            ("--slo=400ms", f"--slo={options.profile_slo}"),
        ):  # fmt: skip
            manifest = manifest.replace(word, value)
        kubernetes.apply(manifest)
        _wait_for_job(kubernetes, "rung-profile", 900)


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


def wait_until_serving(
    kubernetes: Kubernetes,
    stages: Stages,
    choice: Literal["best", "cheapest", "wanted"] = "wanted",
    tasks: int = len(TASKS),
) -> None:
    """Wait until such a version of every task answers, and the pool has fresh metrics.

    What a policy wants without demand need not be the best: where a single inference takes half of the service level's
    latency, two requests in a row would be late.
    """
    missing: list[str] = []

    def serving() -> bool:
        found = json.loads(kubernetes.kubectl("get", "itask", "--output", "json"))["items"]
        pools = json.loads(kubernetes.kubectl("get", "spool", "--output", "json"))["items"]
        missing[:] = [fault for pool in pools if (fault := _fault(pool, "MetricsAvailable"))]
        missing.extend(fault for task in found if (fault := _fault(task, "Ready")))
        for task in found:
            status = task.get("status", {})
            target = status.get("targetVersion")
            wanted = target if choice == "wanted" else status.get("frontier", {}).get(f"{choice}Version")
            if wanted is None or not status.get("activeVersion") == target == wanted:
                missing.append(f"{task['metadata']['name']} is not on its {choice} version, {wanted or 'not known'}")
        return len(found) == tasks and not missing

    with stages.stage(f"The {choice} versions load"):
        _wait(serving, 120, lambda: f"not every task is served: {'; '.join(missing)}")


def _fault(resource: dict[str, Any], kind: str) -> str:
    """Say what a condition of an object lacks; empty when it holds, and for this very specification."""
    metadata, status = resource["metadata"], resource.get("status", {})
    found = next((c for c in status.get("conditions", []) if c["type"] == kind), None)
    if found is None or status.get("observedGeneration") != metadata["generation"]:
        return f"{metadata['name']}: the operator has not looked at it yet"
    return "" if found["status"] == "True" else f"{metadata['name']}: {kind}: {found['message']}"


def _wait(done: Callable[[], bool | None], deadline_seconds: float, fault: Callable[[], str]) -> None:
    deadline = time.monotonic() + deadline_seconds
    while not done():
        if time.monotonic() > deadline:
            raise DemoError(fault())
        time.sleep(1.0)
