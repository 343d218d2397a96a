"""A whole site on loopback without a kubelet: API server, Triton, agent, S3, Prometheus, and the operator as a process.

The only thing made by hand is the Pod object: it says that the server's address is 127.0.0.1, with the real ports.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rung_devcluster.tools import ensure_tools
from servers.apiserver import ApiServer
from servers.chart import annotated_port
from servers.gate import Gate
from servers.models import config_text, version_model
from servers.open_loop import OpenLoop
from servers.ports import free_port
from servers.s3 import S3Server
from servers.triton import TritonServer

POOL = "edge"
RUNGS = ((1, 1), (2, 4), (3, 16))
"""Version and layers: the best one is served, the one below it stands by, the last one is cold."""
POD = "triton-0"
SETTLE_SECONDS = 60.0
SECONDS_TO_NOTICE = 20.0
SECONDS_TO_CONVERGE = 30.0


@dataclass
class Process:
    """A program that a test may kill, stop and start again, with its log."""

    name: str
    command: list[str]
    folder: Path
    env: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    def start(self) -> Process:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, env={**os.environ, **self.env}, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                cwd=self.folder,
            )  # fmt: skip
        return self

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def end(self, number: signal.Signals = signal.SIGKILL, patience_seconds: float = 15.0) -> int | None:
        """End it and return its exit status."""
        if self.process is None:
            return None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(number)
        try:
            status = self.process.wait(patience_seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        self.process = None
        return status


@dataclass
class Site:
    """Everything of one site. Versions are named by their numbers; the higher, the better and the slower."""

    folder: Path
    api: ApiServer
    namespace: str
    triton: TritonServer
    s3: S3Server
    agent: Process
    prometheus: Process
    operator: Process
    prometheus_port: int
    operator_port: int
    gate: Gate | None = None

    # ------------------------------------------------------------------ what is in it

    def publish(self, task: str, number: int, *, layers: int = 1, content: bytes | None = None) -> None:
        """Publish one version in S3 and register it. `content` replaces the ONNX file (garbage, for one)."""
        body = content if content is not None else version_model(number, layers=layers)
        self.publish_as(task, number, throughput=1000.0 / layers, content=body)

    def publish_as(self, task: str, number: int, *, throughput: float, content: bytes) -> None:
        """Publish a version with this file, and register it with this profile."""
        asyncio.run(self.s3.publish(task, number, content, config=config_text(task)))
        self.register(task, number, throughput=throughput, content=content)

    def register(self, task: str, number: int, *, throughput: float, content: bytes) -> None:
        self.apply(self.version_manifest(task, number, throughput=throughput, content=content))

    @staticmethod
    def version_manifest(task: str, number: int, *, throughput: float, content: bytes = b"nowhere") -> dict[str, Any]:
        """Return the object of a version whose file has this content; the default is of one that is never published."""
        artifact = {
            "uri": f"s3://models/demo/{task}/{number}/model.onnx",
            "sha256": hashlib.sha256(content).hexdigest(),
            "bytes": len(content),
        }
        profile = {
            "hardwareClass": "default",
            "sloLatency": "400ms",
            "maxThroughput": throughput,
            "cpuSecondsPerInference": 1.0 / throughput,
        }
        return {
            "apiVersion": "rung.dev/v1alpha1",
            "kind": "ModelVersion",
            "metadata": {"name": f"{task}-{number}"},
            "spec": {
                "taskRef": {"name": task},
                "version": number,
                "artifact": artifact,
                "accuracy": {"metric": "top1", "value": 0.90 + number / 1000, "samples": 100, "dataset": "made"},
                "profiles": [profile],
            },
        }

    def create(self, manifests: list[dict[str, Any]]) -> None:
        """Create many objects, four requests at a time."""
        plurals = {"InferenceTask": "inferencetasks", "ModelVersion": "modelversions"}
        with ThreadPoolExecutor(4) as pool:
            answers = pool.map(
                lambda body: self.api.send(
                    "POST", f"/apis/rung.dev/v1alpha1/namespaces/{self.namespace}/{plurals[body['kind']]}", body
                ),
                manifests,
            )
            assert {status for status, _ in answers} <= {201}

    def listed(self, kind: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.api.kubectl("-n", self.namespace, "get", kind, "-o", "json"))[
            "items"
        ]
        return found

    def make_pool(self, **spec: Any) -> None:
        body: dict[str, Any] = {
            "serverSelector": {"rung.dev/pool": POOL},
            "metrics": {"prometheusUrl": f"http://127.0.0.1:{self.prometheus_port}"},
            "policy": {"name": "Static", "static": {"choice": "Best"}},
        }
        self.apply({"kind": "ServingPool", "metadata": {"name": POOL}, "spec": {**body, **spec}})

    def make_task(self, name: str, **spec: Any) -> None:
        body = {"poolRef": {"name": POOL}, "slo": {"latency": "400ms"}}
        self.apply({"kind": "InferenceTask", "metadata": {"name": name}, "spec": {**body, **spec}})

    def serve(self, task: str, rungs: Sequence[tuple[int, int]] = RUNGS, **pool: Any) -> None:
        """Publish versions (number, layers), and wait until the best one is served and the metrics are fresh."""
        for number, layers in rungs:
            self.publish(task, number, layers=layers)
        self.make_pool(**pool)
        self.make_task(task)
        self.wait_active(task, max(number for number, _ in rungs))
        self.wait(lambda: self.condition("spool", POOL, "MetricsAvailable").get("status") == "True", "fresh metrics")

    def apply(self, manifest: Mapping[str, Any]) -> None:
        whole = {"apiVersion": "rung.dev/v1alpha1", **manifest}
        self.api.kubectl("-n", self.namespace, "apply", "-f", "-", manifest=whole)

    def patch(self, kind: str, name: str, patch: Mapping[str, Any]) -> None:
        self.api.kubectl("-n", self.namespace, "patch", kind, name, "--type=merge", "--patch", json.dumps(patch))

    def make_pod(self) -> None:
        """Make the Pod object of the server, ready, with the real ports on loopback."""
        container = {
            "name": "triton",
            "image": "none",
            "ports": [{"name": "grpc", "containerPort": self.triton.grpc_port}],
            "resources": {"limits": {"cpu": "1", "memory": "2Gi"}},
        }
        agent = {"name": "agent", "image": "none", "ports": [{"name": "agent", "containerPort": self.agent_port}]}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": POD, "namespace": self.namespace, "labels": {"rung.dev/pool": POOL}},
            "spec": {"containers": [container, agent]},
        }
        self.api.kubectl("apply", "-f", "-", manifest=pod)
        self.set_ready(True)

    def set_ready(self, ready: bool) -> None:
        word = "True" if ready else "False"
        status = {
            "podIP": "127.0.0.1",
            "podIPs": [{"ip": "127.0.0.1"}],
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": word, "lastTransitionTime": "2026-01-01T00:00:00Z"}],
        }
        self.api.kubectl(
            "-n", self.namespace, "patch", "pod", POD, "--subresource=status", "--type=merge", "--patch",
            json.dumps({"status": status}),
        )  # fmt: skip

    @property
    def agent_port(self) -> int:
        return int(self.agent.env["RUNG_AGENT_LISTEN"].rpartition(":")[2])

    @contextlib.contextmanager
    def load(self, task: str, rate_rps: float = 30.0) -> Iterator[OpenLoop]:
        """Load a task for the length of the block, from a thread of its own; through the gate if there is one."""
        load = OpenLoop((self.gate or self.triton).address, task, rate_rps)
        loop = asyncio.new_event_loop()
        stop = asyncio.Event()
        thread = threading.Thread(target=loop.run_until_complete, args=(load.run(stop),), daemon=True)
        thread.start()
        try:
            self.wait(lambda: any(not answer.error for answer in load.answers), f"an answer for {task}")
            yield load
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join(60)
            loop.close()

    def clear(self) -> None:
        """Remove every object of the project; the server keeps what it has loaded."""
        for kind in ("itask", "mver", "spool"):
            self.api.kubectl("-n", self.namespace, "delete", kind, "--all", "--wait=true")

    # ------------------------------------------------------------------ what is seen

    def get(self, kind: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.api.kubectl("-n", self.namespace, "get", kind, name, "-o", "json"))
        return found

    def status(self, kind: str, name: str) -> dict[str, Any]:
        return dict(self.get(kind, name).get("status") or {})

    def condition(self, kind: str, name: str, condition: str) -> dict[str, Any]:
        found = self.status(kind, name).get("conditions", [])
        return next((c for c in found if c["type"] == condition), {})

    def events(self, name: str) -> list[tuple[str, str]]:
        listed = json.loads(self.api.kubectl("-n", self.namespace, "get", "events.events.k8s.io", "-o", "json"))
        return [(e["reason"], e.get("note", "")) for e in listed["items"] if e["regarding"].get("name") == name]

    @contextlib.contextmanager
    def watching(self, kind: str, name: str, jsonpath: str, log: Path) -> Iterator[None]:
        """Write what an object says to a file, now and at each change, for the length of the block."""
        flags = [f"--kubeconfig={self.api.kubeconfig}", "-n", self.namespace]
        with log.open("wb") as output:
            watch = subprocess.Popen(
                [self.api.tools["kubectl"], *flags, "get", kind, name, "--watch", f"--output=jsonpath={jsonpath}"],
                stdout=output, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        try:
            yield
        finally:
            watch.kill()
            watch.wait()

    def rung(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the `rung` command as a person would."""
        command = [self.operator.command[0], *arguments, f"--namespace={self.namespace}"]
        environment = {**os.environ, **self.operator.env}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    def last_pass_seconds_ago(self, pool: str) -> float:
        """Ask the operator's own metrics when the loop last ended a pass."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.operator_port}/metrics", timeout=5) as answer:
            for line in answer.read().decode().splitlines():
                if line.startswith(f'rung_last_pass_timestamp_seconds{{pool="{self.namespace}/{pool}"}}'):
                    return time.time() - float(line.rpartition(" ")[2])
        raise AssertionError(f"the operator has no loop for {pool}")

    def wait(self, condition: Callable[[], bool], what: str, seconds: float = SETTLE_SECONDS) -> float:
        """Wait until a condition holds and return how long it took; a fault shows the operator's log."""
        began = time.monotonic()
        while True:
            with contextlib.suppress(subprocess.CalledProcessError):
                if condition():
                    return time.monotonic() - began
            if time.monotonic() - began > seconds:
                tail = "\n".join(self.operator.log.read_text(errors="replace").splitlines()[-30:])
                raise AssertionError(f"not within {seconds:g} s: {what}\nthe operator said:\n{tail}")
            time.sleep(0.1)

    def wait_active(self, task: str, number: int, seconds: float = SETTLE_SECONDS) -> float:
        return self.wait(
            lambda: self.status("itask", task).get("activeVersion") == number, f"{task} on {number}", seconds
        )


def prometheus_config(ports: Mapping[str, int], namespace: str) -> str:
    """Scrape the server once a second as a Prometheus does that goes by the annotations of pods: one port of it.

    Args:
        ports: of the server, by their names in the chart.
        namespace: a label, as a cluster's scrape configuration adds it.
    """
    name, path = annotated_port()
    target = {"targets": [f"127.0.0.1:{ports[name]}"], "labels": {"namespace": namespace, "pod": POD}}
    job = {"job_name": "pods", "metrics_path": path, "static_configs": [target]}
    return yaml.safe_dump({"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": [job]})


@contextlib.contextmanager
def running_site(folder: Path, api: ApiServer, namespace: str, *, gated: bool = False) -> Iterator[Site]:
    """Run a site, gated or not. The operator is started by the test, when everything it wants is there."""
    folder.mkdir(parents=True, exist_ok=True)
    tools = ensure_tools(["prometheus"])
    binaries = Path(sys.executable).parent
    with contextlib.ExitStack() as stack:
        s3 = S3Server(folder / "s3")
        s3.folder.mkdir()
        stack.callback(s3.kill)
        s3.start()
        triton = TritonServer(folder / "triton")
        triton.folder.mkdir()
        stack.callback(triton.kill)
        triton.start()
        gate = None
        if gated:
            gate = Gate(triton, folder / "gate")
            stack.callback(gate.kill)
            gate.start()
        agent_port, prometheus_port, operator_port = free_port(), free_port(), free_port()
        agent = Process(
            "agent",
            [str(binaries / "rung-agent")],
            folder,
            {
                **s3.environment,
                "RUNG_AGENT_REPOSITORY": s3.uri,
                "RUNG_AGENT_ENDPOINT": s3.endpoint,
                "RUNG_AGENT_MODELS_DIR": str(triton.repository),
                "RUNG_AGENT_LISTEN": f"127.0.0.1:{agent_port}",
                "RUNG_AGENT_TRITON": triton.address,
                "RUNG_AGENT_TRITON_METRICS": f"127.0.0.1:{triton.metrics_port}",
                "RUNG_AGENT_POLL_INTERVAL": "1s",
                "RUNG_AGENT_DEADLINE": "3s",
                **(gate.agent_environment if gate else {}),
            },
        )
        stack.callback(agent.end)
        agent.start()
        config = folder / "prometheus.yml"
        ports = {"agent": agent_port, "metrics": triton.metrics_port}
        config.write_text(prometheus_config(ports, namespace))
        prometheus = Process(
            "prometheus",
            [
                str(tools["prometheus"]), f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{prometheus_port}",
            ],
            folder,
        )  # fmt: skip
        stack.callback(prometheus.end)
        prometheus.start()
        operator = Process(
            "operator",
            [
                str(binaries / "rung"), "operator", f"--namespaces={namespace}", f"--listen=127.0.0.1:{operator_port}",
                "--log-level=INFO",
            ],
            folder,
            {"KUBECONFIG": str(api.kubeconfig)},
        )  # fmt: skip
        stack.callback(operator.end)
        site = Site(
            folder, api, namespace, triton, s3, agent, prometheus, operator, prometheus_port, operator_port, gate
        )
        site.make_pod()
        yield site
