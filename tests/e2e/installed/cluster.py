"""A cluster to install into, and what tests ask of it: the same programs as a user has, kubectl and helm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rung_demo.environment import PROJECT
from rung_demo.programs import DemoError, Kubernetes, run
from rung_devcluster.tools import ensure_tools

CHART = PROJECT / "charts/rung"
UP_SECONDS = 900.0
IMAGES_SECONDS = 1500.0
SETTLE_SECONDS = 60.0
POLL_SECONDS = 0.25


@dataclass(frozen=True)
class Cluster:
    """One Kubernetes with the project's images in it."""

    kubernetes: Kubernetes
    embedded: bool
    """False: a cluster of the user's own, in which only what the tests made may be touched."""

    def namespaced(self, namespace: str) -> Namespace:
        """Speak to one namespace of it."""
        return Namespace(replace(self.kubernetes, namespace=namespace))


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """Give the cluster that KUBECONFIG names; without one, bring up an embedded one and take it down at the end."""
    tools = ensure_tools(["kubectl", "helm"])
    own = os.environ.get("KUBECONFIG")
    if own:
        yield Cluster(Kubernetes(Path(own), tools["kubectl"], tools["helm"]), embedded=False)
        return
    with embedded_cluster(f"e2e-{os.getpid()}") as cluster:
        yield cluster


@contextmanager
def embedded_cluster(name: str, *options: str) -> Iterator[Cluster]:
    """Bring up an embedded cluster with the project's images, and take it down at the end."""
    tools = ensure_tools(["kubectl", "helm"])
    devcluster = [sys.executable, "-m", "rung_devcluster"]
    try:
        said = run([*devcluster, "up", "--name", name, *options], deadline_seconds=UP_SECONDS)
        kubeconfig = next(line for line in said.splitlines() if line.startswith("export KUBECONFIG="))
        run([*devcluster, "images", "--name", name], deadline_seconds=IMAGES_SECONDS)
        kubernetes = Kubernetes(Path(kubeconfig.partition("=")[2]), tools["kubectl"], tools["helm"])
        yield Cluster(kubernetes, embedded=True)
    finally:
        run([*devcluster, "down", "--name", name], deadline_seconds=120)


@dataclass(frozen=True)
class Namespace:
    """One namespace, and what is in it."""

    kubernetes: Kubernetes

    @property
    def name(self) -> str:
        return self.kubernetes.namespace

    def kubectl(self, *arguments: str, text: str | None = None, seconds: float = 60.0) -> str:
        return self.kubernetes.kubectl(*arguments, text=text, deadline_seconds=seconds)

    def helm(self, *arguments: str, seconds: float = 180.0) -> str:
        return self.kubernetes.helm(*arguments, deadline_seconds=seconds)

    def make(self) -> None:
        self.kubectl("create", "namespace", self.name)

    def remove(self, seconds: float = 60.0) -> None:
        """Delete the namespace and wait until it is gone: a finalizer that hangs fails here."""
        self.kubectl("delete", "namespace", self.name, "--ignore-not-found", "--wait=true", f"--timeout={seconds:.0f}s",
                     seconds=seconds + 10)  # fmt: skip

    def get(self, *arguments: str) -> dict[str, Any]:
        """Return one object, or a list of them, as JSON."""
        found: dict[str, Any] = json.loads(self.kubectl("get", *arguments, "--output", "json"))
        return found

    def pods(self, component: str, release: str = "rung") -> list[dict[str, Any]]:
        """Return the pods of a part of a release that are not on their way out."""
        labels = f"app.kubernetes.io/component={component},app.kubernetes.io/instance={release}"
        items = self.get("pods", f"--selector={labels}")["items"]
        return [pod for pod in items if "deletionTimestamp" not in pod["metadata"]]

    def uids(self, component: str, release: str = "rung") -> set[str]:
        """Return the identities of those pods: a pod that was restarted by a rollout has another one."""
        return {pod["metadata"]["uid"] for pod in self.pods(component, release)}

    def active(self, task: str) -> int | None:
        """Return the version of a task that answers, by its status."""
        found = self.get("itask", task).get("status", {}).get("activeVersion")
        return None if found is None else int(found)

    def condition(self, kind: str, name: str, condition: str) -> str:
        """Return a condition's status: True, False, Unknown, or empty when there is none."""
        conditions = self.get(kind, name).get("status", {}).get("conditions", [])
        return next((str(each["status"]) for each in conditions if each["type"] == condition), "")

    def pin(self, task: str, version: int) -> None:
        self.patch("itask", task, {"spec": {"mode": "Pinned", "pinnedVersion": version}})

    def unpin(self, task: str) -> None:
        self.patch("itask", task, {"spec": {"mode": "Auto", "pinnedVersion": None}})

    def patch(self, kind: str, name: str, patch: Mapping[str, Any]) -> None:
        self.kubectl("patch", kind, name, "--type=merge", f"--patch={json.dumps(patch)}")

    def wait_for_active(self, task: str, version: int, seconds: float = SETTLE_SECONDS) -> None:
        seen: list[int | None] = [None]

        def answers() -> bool:
            seen[0] = self.active(task)
            return seen[0] == version

        until(answers, lambda: f"{task} is on {seen[0]}, not on {version}:\n{self.explain(task)}", seconds)

    def explain(self, task: str) -> str:
        return self.kubectl("exec", "deploy/rung-operator", "--", "rung", "explain", task)

    def inside(self, pod: str, container: str, script: str) -> str:
        """Run a shell script in a container and return what it printed."""
        return self.kubectl("exec", pod, f"--container={container}", "--", "sh", "-c", script)

    def may(self, account: str, what: str, namespace: str) -> bool:
        """Ask the API server whether a service account of this namespace may do `VERB RESOURCE[/SUBRESOURCE]` there."""
        verb, _, whole = what.partition(" ")
        resource, _, part = whole.partition("/")
        words = ["auth", "can-i", verb, resource, f"--as=system:serviceaccount:{self.name}:{account}"]
        done = subprocess.run(
            [self.kubernetes.kubectl_path, f"--namespace={namespace}", *words, f"--subresource={part}"],
            env={**os.environ, "KUBECONFIG": str(self.kubernetes.kubeconfig)},
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        answer = done.stdout.strip()
        assert answer in {"yes", "no"}, done.stdout + done.stderr
        assert "doesn't have a resource type" not in done.stderr, done.stderr
        return answer == "yes"


def until(done: Callable[[], bool], fault: Callable[[], str], seconds: float = SETTLE_SECONDS) -> None:
    """Poll until it is done; a kubectl that fails meanwhile counts as not yet."""
    deadline = time.monotonic() + seconds
    problem = ""
    while True:
        try:
            if done():
                return
            problem = ""
        except DemoError as error:
            problem = f"\n{error}"
        assert time.monotonic() < deadline, fault() + problem
        time.sleep(POLL_SECONDS)
