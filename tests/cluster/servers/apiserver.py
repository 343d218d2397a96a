"""A real API server over a real etcd, on loopback: RBAC on, no nodes, no controllers.

Nothing runs pods and nobody cleans up after a deleted namespace; objects are stored, defaulted, validated and watched
as in any cluster. The service-account admission is off, so that tests may create pods.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rung_devcluster.cluster.pki import Authority, KeyPair
from rung_devcluster.tools import ensure_tools
from servers.ports import free_port

CRDS = Path(__file__).resolve().parents[3] / "crds"
START_SECONDS = 60.0
_SERIAL = itertools.count(1)


@dataclass
class ApiServer:
    """etcd and kube-apiserver. `kill` and `start` again: the same address, the same objects."""

    folder: Path
    tools: Mapping[str, Path] = field(default_factory=lambda: ensure_tools(["etcd", "kube-apiserver", "kubectl"]))
    etcd_port: int = field(default_factory=free_port)
    etcd_peer_port: int = field(default_factory=free_port)
    port: int = field(default_factory=free_port)
    _processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _has_crds: bool = False

    def __post_init__(self) -> None:
        self.authority = Authority(self.folder / "pki")
        self.serving = self.authority.issue("apiserver", "kube-apiserver", server_names=["127.0.0.1", "localhost"])
        self.tokens = self.authority.issue("service-accounts", "service-accounts")
        self._administrator = self.authority.issue("administrator", "admin", groups=["system:masters"])
        self.kubeconfig = self.kubeconfig_for("admin", groups=["system:masters"])

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def kubeconfig_for(self, user: str, *, groups: list[str] | None = None) -> Path:
        """Write a kubeconfig for a user of that name; without the group system:masters it may do what RBAC lets it."""
        pair = self.authority.issue(f"user-{next(_SERIAL)}", user, groups=groups or [])
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": "test",
                    "cluster": {"server": self.url, "certificate-authority-data": _encoded(self.authority.certificate)},
                }
            ],
            "users": [{"name": user, "user": _client_certificate(pair)}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": user, "namespace": "default"}}],
            "current-context": "test",
        }
        path = pair.key.with_suffix(".kubeconfig")
        path.write_text(json.dumps(config))
        return path

    def start(self) -> ApiServer:
        """Start what does not run and wait until it is ready; RuntimeError with the end of the log otherwise."""
        try:
            if "etcd" not in self._processes:
                self._spawn("etcd", self._etcd_flags())
                self._wait("etcd", lambda: self._get(f"http://127.0.0.1:{self.etcd_port}/health"))
            if "kube-apiserver" not in self._processes:
                self._spawn("kube-apiserver", self._apiserver_flags())
                self._wait("kube-apiserver", lambda: self._get(f"{self.url}/readyz"))
            if self._has_crds:
                self.wait_until_served()
        except BaseException:
            self.stop()
            raise
        return self

    def apply_crds(self) -> None:
        """Apply the generated CRDs and wait until they are served, short names and explain texts included."""
        self.kubectl("apply", "-f", str(CRDS))
        self.kubectl("wait", "--for=condition=Established", "--timeout=30s", "-f", str(CRDS))
        self._has_crds = True
        self.wait_until_served()
        deadline = time.monotonic() + START_SECONDS
        for short_name in ("itask", "mver", "spool"):
            while True:
                # What kubectl remembers of the API is older than the CRDs.
                shutil.rmtree(self.folder / ".kube", ignore_errors=True)
                try:
                    self.kubectl("explain", f"{short_name}.status")
                    break
                except subprocess.CalledProcessError as error:
                    if time.monotonic() > deadline:
                        raise RuntimeError(f"the API server does not serve {short_name}: {error.stderr}") from None
                    time.sleep(0.1)

    def wait_until_served(self) -> None:
        """Wait until Rung's kinds can be listed: not yet the case when a server is ready or a CRD has just changed."""
        deadline = time.monotonic() + START_SECONDS
        for plural in ("inferencetasks", "modelversions", "servingpools"):
            while (got := self.send("GET", f"/apis/rung.dev/v1alpha1/{plural}?limit=1"))[0] != 200:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"the API server does not serve {plural}: {got[1]}")
                time.sleep(0.05)

    def wait_until_allowed(self, kubeconfig: Path, *what: str) -> None:
        """Wait until the rights that a user was just given count: the API server watches roles, too."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(subprocess.CalledProcessError):
                self.kubectl("auth", "can-i", *what, kubeconfig=kubeconfig)
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"{' '.join(what)} is not allowed")
            time.sleep(0.1)

    def kill(self) -> None:
        """Kill the API server; etcd and the objects stay. `start` brings it back."""
        self._end("kube-apiserver", signal.SIGKILL)

    def delete_unseen(self, *keys: str) -> None:
        """Delete objects by their keys in etcd, while the API server is down: no watch will ever tell of it."""
        assert "kube-apiserver" not in self._processes, "kill it before"
        for key in keys:
            body = json.dumps({"key": base64.b64encode(key.encode()).decode()}).encode()
            url = f"http://127.0.0.1:{self.etcd_port}/v3/kv/deleterange"
            with urllib.request.urlopen(urllib.request.Request(url, data=body), timeout=10) as answer:
                assert json.load(answer).get("deleted") == "1", key

    def pause(self) -> None:
        """Make the API server hang: connections are accepted and nothing answers, until `resume`."""
        self._processes["kube-apiserver"].send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._processes["kube-apiserver"].send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End both; safe to call twice."""
        # Killed, not asked: nothing is kept, and a graceful end waits for every open watch.
        for name in ("kube-apiserver", "etcd"):
            self._end(name, signal.SIGKILL)

    def kubectl(self, *arguments: str, manifest: Any = None, kubeconfig: Path | None = None) -> str:
        """Run kubectl and return what it prints; CalledProcessError (with `stderr`) when it fails.

        `manifest`, an object or a list of objects, goes to its standard input; give `-f -` among the arguments.
        """
        if isinstance(manifest, list):
            manifest = {"apiVersion": "v1", "kind": "List", "items": manifest}
        command = [str(self.tools["kubectl"]), f"--kubeconfig={kubeconfig or self.kubeconfig}", *arguments]
        done = subprocess.run(
            command,
            input=json.dumps(manifest) if manifest is not None else None,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "HOME": str(self.folder)},  # its discovery cache
        )
        if done.returncode:
            raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
        return done.stdout

    def send(self, method: str, path: str, body: Any = None) -> tuple[int, dict[str, Any]]:
        """Send one request as the administrator, quicker than kubectl; returns the HTTP status and the JSON answer."""
        request = urllib.request.Request(
            f"{self.url}{path}",
            method=method,
            data=json.dumps(body).encode() if body is not None else None,
            headers={"Content-Type": "application/json"},
        )
        context = ssl.create_default_context(cafile=str(self.authority.certificate))
        context.load_cert_chain(self._administrator.certificate, self._administrator.key)
        try:
            with urllib.request.urlopen(request, timeout=30, context=context) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")
            try:
                return error.code, json.loads(text)
            except ValueError:  # "404 page not found", before a kind is served
                return error.code, {"message": text}

    def make_namespace(self, prefix: str = "test") -> str:
        """Create a namespace nobody else uses and return its name."""
        name = f"{prefix}-{next(_SERIAL)}"
        status, answer = self.send(
            "POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        )
        assert status == 201, answer
        return name

    def tail(self, name: str, lines: int = 30) -> str:
        """Return the last lines of a component's log."""
        log = self.folder / f"{name}.log"
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""

    def _etcd_flags(self) -> list[str]:
        client, peer = f"http://127.0.0.1:{self.etcd_port}", f"http://127.0.0.1:{self.etcd_peer_port}"
        return [
            f"--data-dir={self.folder / 'etcd'}",
            "--name=test",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=test={peer}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        ]

    def _apiserver_flags(self) -> list[str]:
        pki = self.folder / "pki"
        return [
            "--bind-address=127.0.0.1",
            f"--secure-port={self.port}",
            # Nothing reaches the server through its Service here, and loopback can't be advertised.
            "--advertise-address=192.0.2.1",
            "--endpoint-reconciler-type=none",
            f"--etcd-servers=http://127.0.0.1:{self.etcd_port}",
            f"--client-ca-file={self.authority.certificate}",
            f"--tls-cert-file={self.serving.certificate}",
            f"--tls-private-key-file={self.serving.key}",
            f"--cert-dir={pki}",
            "--authorization-mode=RBAC",
            "--disable-admission-plugins=ServiceAccount",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self.tokens.certificate}",
            f"--service-account-signing-key-file={self.tokens.key}",
            # Other clients' limits are not under test, and each of these starts background work.
            "--enable-priority-and-fairness=false",
            "--watch-cache=true",
            "--profiling=false",
        ]

    def _spawn(self, name: str, flags: list[str]) -> None:
        # setpriv: should the tests be killed, the kernel ends the servers with them.
        command = ["setpriv", "--pdeathsig", "KILL", "--", str(self.tools[name]), *flags]
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    def _wait(self, name: str, is_ready: Any) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            status = self._processes[name].poll()
            if status is not None:
                raise RuntimeError(f"{name} ended with status {status}:\n{self.tail(name)}")
            with contextlib.suppress(OSError, urllib.error.URLError):
                if is_ready():
                    return
            time.sleep(0.05)
        raise RuntimeError(f"{name} was not ready after {START_SECONDS:.0f} s:\n{self.tail(name)}")

    def _get(self, url: str) -> bool:
        context = ssl.create_default_context(cafile=str(self.authority.certificate))
        with urllib.request.urlopen(url, timeout=5, context=context if url.startswith("https") else None) as answer:
            return bool(answer.status == 200)

    def _end(self, name: str, number: signal.Signals) -> None:
        process = self._processes.pop(name, None)
        if process is not None:
            process.send_signal(number)
            process.wait(timeout=30)


def _client_certificate(pair: KeyPair) -> dict[str, str]:
    return {"client-certificate-data": _encoded(pair.certificate), "client-key-data": _encoded(pair.key)}


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
