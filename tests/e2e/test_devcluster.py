"""The embedded cluster, brought up and taken down for real: what works in it, and that nothing is left of it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rung_devcluster.cluster import control
from rung_devcluster.cluster.configuration import PAUSE_IMAGE
from rung_devcluster.cluster.layout import Layout
from rung_devcluster.cluster.linux import ProcessIdentity
from rung_devcluster.cluster.loading import ImageError
from rung_devcluster.cluster.node_system import MASKED_SETTINGS
from rung_devcluster.cluster.state import ClusterState, read_state

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.quiet,  # compares the machine before and after
    pytest.mark.skipif(os.geteuid() != 0, reason="the embedded cluster needs root"),
    pytest.mark.timeout(240),
]

COMMAND = (sys.executable, "-m", "rung_devcluster")
FIRST = f"test-{os.getpid()}-one"
SECOND = f"test-{os.getpid()}-two"
UP_SECONDS = 150
SHORT_SECONDS = 60
# Building images on the same machine at the same time mounts and makes these.
NOT_OURS = re.compile(r"/containers/storage|buildah|/var/tmp|/tmp/")


def devcluster(*arguments: str, seconds: float = SHORT_SECONDS, status: int | None = 0) -> str:
    """Run one command; return what it printed, standard error included."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=seconds,
        text=True,
        check=False,
    )
    if status is not None:
        assert done.returncode == status, done.stdout
    return done.stdout


def kubectl(*arguments: str, name: str = FIRST, status: int = 0, text: str | None = None) -> str:
    """Run kubectl as a user does who has set KUBECONFIG."""
    found = Layout.of(name)
    done = subprocess.run(
        [json.loads(found.tools.read_text())["kubectl"], *arguments],
        env={**os.environ, "KUBECONFIG": str(found.kubeconfig)},
        input=text,
        capture_output=True,
        timeout=SHORT_SECONDS,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + (done.stderr if status else "")


def until(is_true: Callable[[], bool], what: str, seconds: float = SHORT_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.2)


# What a cluster could leave ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Machine:
    """Everything outside the namespaces that a cluster could touch."""

    links: frozenset[str]
    rules: frozenset[str]
    mounts: frozenset[str]
    files: frozenset[str]
    settings: Mapping[str, str]


def machine() -> Machine:
    watched = ("/run", "/var/lib", "/var/log", "/var/cache", "/etc", "/etc/cni", "/opt", "/usr/libexec", "/var/lib/cni")
    rules = subprocess.run(["iptables-save"], capture_output=True, text=True, check=True).stdout
    return Machine(
        links=frozenset(entry.name for entry in Path("/sys/class/net").iterdir()),
        rules=frozenset(line for line in rules.splitlines() if line.startswith(("-", "*"))),
        mounts=frozenset(
            line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if not NOT_OURS.search(line)
        ),
        files=frozenset(
            str(entry)
            for folder in map(Path, watched)
            if folder.is_dir()
            for entry in folder.iterdir()
            if not NOT_OURS.search(str(entry))
        ),
        settings={
            setting: (Path("/proc/sys") / setting).read_text().strip()
            for setting in (*MASKED_SETTINGS, "net/ipv4/ip_forward")
            if (Path("/proc/sys") / setting).exists()
        },
    )


def processes_of(folder: Path) -> list[str]:
    """Every process on the machine that was started for the cluster of this folder, or lives in its namespaces."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                paths = (entry / "mountinfo").read_text()
            except OSError:
                continue
            # Each node's own /var/lib lies in the folder, so even a pod's process shows it.
            if str(folder).encode() in b" ".join(words) or str(folder) in paths or _in_cgroup(entry, folder.name):
                found.append(f"{entry.name} {b' '.join(words).decode(errors='replace')[:200]}")
    return found


def _in_cgroup(entry: Path, name: str) -> bool:
    try:
        return f"rung-devcluster-{name}" in (entry / "cgroup").read_text()
    except OSError:
        return False


def cgroups_of(name: str) -> list[str]:
    return [str(path) for path in Path("/sys/fs/cgroup").rglob(f"rung-devcluster-{name}")]


def nothing_left(name: str, before: Machine) -> None:
    folder = Layout.of(name).folder
    assert processes_of(folder) == []
    assert cgroups_of(name) == []
    assert not folder.exists()
    after = machine()
    assert after.links - before.links == frozenset()
    assert after.rules - before.rules == frozenset()
    assert after.mounts - before.mounts == frozenset()
    # The folder of all clusters may still hold another one's.
    assert {path for path in after.files - before.files if path != str(folder.parent)} == set()
    assert after.settings == before.settings


# A cluster that comes up ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def before() -> Machine:
    return machine()


@pytest.fixture(scope="module")
def cluster(before: Machine) -> Iterator[control.RunningCluster]:
    """Two nodes; the tests of this module share them."""
    del before
    try:
        said = devcluster(
            "up", "--name", FIRST, "--nodes", "2", "--node-class", "2=rpi5", "--node-label", "2:site=roof",
            seconds=UP_SECONDS,
        )  # fmt: skip
        found = control.find(FIRST)
        assert found is not None
        assert f"export KUBECONFIG={found.kubeconfig}" in said
        yield found
    finally:
        control.down(FIRST)


def shell_pod(name: str, script: str, **spec: Any) -> dict[str, Any]:
    """A pod that runs the machine's own Python, so that these tests need no image but the sandbox's."""
    folders = [folder for folder in ("/usr", "/lib", "/lib64", "/bin") if Path(folder).exists()]
    if not Path(sys.base_prefix).is_relative_to("/usr"):
        folders.append(sys.base_prefix)
    resources = spec.pop("resources", {})
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [
                {
                    "name": "main",
                    "image": PAUSE_IMAGE,
                    "imagePullPolicy": "Never",
                    "command": [str(Path(sys.executable).resolve()), "-I", "-u", "-c", script],
                    "resources": resources,
                    # This Python may lie in a folder that only root can read.
                    "securityContext": {"runAsUser": 0},
                    "volumeMounts": [
                        {"name": f"folder-{number}", "mountPath": folder, "readOnly": True}
                        for number, folder in enumerate(folders)
                    ],
                }
            ],
            "volumes": [
                {"name": f"folder-{number}", "hostPath": {"path": str(Path(folder).resolve())}}
                for number, folder in enumerate(folders)
            ],
            **spec,
        },
    }


def apply(*things: Mapping[str, Any]) -> None:
    kubectl("apply", "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "List", "items": things}))


def test_nodes_carry_their_labels_and_are_ready(cluster: control.RunningCluster) -> None:
    nodes = {item["metadata"]["name"]: item for item in json.loads(kubectl("get", "nodes", "-o", "json"))["items"]}
    assert set(nodes) == {f"{FIRST}-1", f"{FIRST}-2"}
    assert nodes[f"{FIRST}-1"]["metadata"]["labels"]["rung.dev/hardware-class"] == "default"
    labels = nodes[f"{FIRST}-2"]["metadata"]["labels"]
    assert (labels["rung.dev/hardware-class"], labels["site"]) == ("rpi5", "roof")
    assert labels["kubernetes.io/hostname"] == f"{FIRST}-2"
    facts = json.loads(devcluster("status", "--name", FIRST, "--output", "json"))
    assert facts["ready"] is True
    assert [node["ready"] for node in facts["nodes"].values()] == [True, True]


def test_up_again_changes_nothing(cluster: control.RunningCluster) -> None:
    said = devcluster(
        "up", "--name", FIRST, "--nodes", "2", "--node-class", "2=rpi5", "--node-label", "2:site=roof"
    )  # fmt: skip
    assert "is up already" in said
    assert f"export KUBECONFIG={cluster.kubeconfig}" in said
    assert devcluster("kubectl", "--name", FIRST, "get", "--raw", "/readyz") == "ok"
    other = devcluster("up", "--name", FIRST, "--nodes", "1", status=1)
    assert "there is a cluster" in other
    assert cluster.state.supervisor.is_alive()


def test_pods_on_both_nodes_find_a_service_by_name_and_the_machine_reaches_them(
    cluster: control.RunningCluster,
) -> None:
    server = (
        "import http.server, socket\n"
        "class H(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200); self.end_headers()\n"
        "        self.wfile.write(b'from ' + socket.gethostname().encode())\n"
        "print('listening', flush=True)\n"
        "http.server.HTTPServer(('', 8080), H).serve_forever()\n"
    )
    client = (
        "import socket, time, urllib.request\n"
        "while True:\n"
        "    try:\n"
        "        print(urllib.request.urlopen('http://server', timeout=2).read().decode(), flush=True); break\n"
        "    except OSError as error: print(error, flush=True); time.sleep(0.3)\n"
        "try: socket.getaddrinfo('registry.example.com', 443)\n"
        "except socket.gaierror as error: print('outside:', error.errno == socket.EAI_NONAME, flush=True)\n"
        "time.sleep(3600)\n"
    )
    apply(
        shell_pod("server", server, nodeName=f"{FIRST}-1"),
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "server"},
            "spec": {"selector": {"app": "server"}, "ports": [{"port": 80, "targetPort": 8080}]},
        },
        shell_pod("near", client, nodeName=f"{FIRST}-1"),
        shell_pod("far", client, nodeName=f"{FIRST}-2"),
    )
    kubectl("wait", "--for=condition=Ready", "pod/server", "pod/near", "pod/far", "--timeout=50s")
    for pod in ("near", "far"):
        until(partial(says, pod, "outside: True"), f"{pod} reaches the service")
        assert "from server" in kubectl("logs", pod)
    assert kubectl("exec", "far", "--", "/bin/sh", "-c", "echo $HOSTNAME").strip() == "far"
    with forwarded("pod/server", 8080) as port, socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        answer = b""
        while chunk := connection.recv(4096):
            answer += chunk
    assert answer.endswith(b"from server")


@contextmanager
def forwarded(target: str, port: int) -> Iterator[int]:
    process = subprocess.Popen(
        [*COMMAND, "kubectl", "--name", FIRST, "port-forward", target, f":{port}"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        found = re.search(r"127\.0\.0\.1:(\d+)", process.stdout.readline())
        assert found
        yield int(found.group(1))
    finally:
        process.terminate()
        process.wait(timeout=10)
        assert process.stdout is not None
        process.stdout.close()


def test_a_cpu_limit_holds(cluster: control.RunningCluster) -> None:
    burn = (
        "import time\n"
        "while time.process_time() < 0.1: pass\n"
        "wall, cpu = time.monotonic(), time.process_time()\n"
        "while time.monotonic() - wall < 4: pass\n"
        "print('share', (time.process_time() - cpu) / (time.monotonic() - wall), flush=True)\n"
        "time.sleep(3600)\n"
    )
    apply(shell_pod("burn", burn, resources={"limits": {"cpu": "200m", "memory": "64Mi"}}))
    kubectl("wait", "--for=condition=Ready", "pod/burn", "--timeout=50s")
    until(partial(says, "burn", "share"), "the pod has measured")
    share = float(kubectl("logs", "burn").split()[-1])
    # Upper bound only: on a busy machine a pod may get less than its limit, but never more (a period's slack aside).
    assert 0 < share < 0.3


def says(pod: str, text: str) -> bool:
    return text in kubectl("logs", pod)


def test_the_kubelets_cadvisor_has_cpu_counters_of_containers(cluster: control.RunningCluster) -> None:
    pod = json.loads(kubectl("get", "pods", "-n", "kube-system", "-o", "json"))["items"][0]
    path = f"/api/v1/nodes/{pod['spec']['nodeName']}/proxy/metrics/cadvisor"
    pattern = re.compile(r'container_cpu_usage_seconds_total\{container="coredns".*pod="coredns-')
    until(lambda: pattern.search(kubectl("get", "--raw", path)) is not None, "cAdvisor knows the container")


def test_rights_are_checked_and_strangers_see_only_health(cluster: control.RunningCluster) -> None:
    refused = kubectl("get", "secrets", "--as=system:serviceaccount:default:default", status=1)
    assert "Forbidden" in refused
    config = json.loads(cluster.kubeconfig.read_text())
    server = config["clusters"][0]["cluster"]["server"]
    assert server.startswith("https://127.0.0.1:")
    for path, status in (("/readyz", "200"), ("/api/v1/nodes", "401")):
        assert status_of(server, path, cluster.layout.pki / "ca.crt") == status


def status_of(server: str, path: str, authority: Path) -> str:
    context = ssl.create_default_context(cafile=str(authority))
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(server + path, timeout=10) as answer:
            return str(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return str(error.code)


def test_loading_an_image_twice_does_it_once_and_a_broken_archive_is_named(
    cluster: control.RunningCluster, tmp_path: Path
) -> None:
    archive = tmp_path / "pause.tar"
    archive.write_bytes(b"this is no archive")
    with pytest.raises(ImageError, match=r"pause\.tar is not a docker-archive"):
        control.load_image(cluster, archive)
    for known in control.system_images(cluster):
        assert control.load_image(cluster, known) == 0


def test_a_killed_component_comes_back(cluster: control.RunningCluster) -> None:
    devcluster("exec", "--name", FIRST, "--", "pkill", "-KILL", "kube-apiserver")

    def facts() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(devcluster("status", "--name", FIRST, "--output", "json"))
        return found

    until(lambda: facts()["nodes"][f"{FIRST}-1"]["components"]["kube-apiserver"] == "ready", "the API server is back")
    until(lambda: facts()["apiServerAnswers"] == "yes", "the API server answers")


def test_two_clusters_live_side_by_side_and_one_can_be_killed(cluster: control.RunningCluster, before: Machine) -> None:
    devcluster("up", "--name", SECOND, seconds=UP_SECONDS)
    second = control.find(SECOND)
    assert second is not None
    assert kubectl("get", "nodes", "-o", "name", name=SECOND).split() == [f"node/{SECOND}-1"]
    assert len(processes_of(second.layout.folder)) > 8
    assert cgroups_of(SECOND)
    second.state.supervisor.send(signal.SIGKILL)
    # Nobody asks for it: the guard removes what the kernel does not.
    until(lambda: not second.layout.folder.exists() and not second.state.guard.is_alive(), "the guard has swept")
    nothing_left(SECOND, before)
    assert kubectl("get", "--raw", "/readyz") == "ok"


def test_down_leaves_nothing_even_when_both_outer_processes_were_killed(
    cluster: control.RunningCluster, before: Machine
) -> None:
    cluster.state.guard.send(signal.SIGSTOP)
    cluster.state.supervisor.send(signal.SIGKILL)
    cluster.state.guard.send(signal.SIGKILL)
    until(lambda: not any(node.is_alive() for node in cluster.state.nodes.values()), "the kernel has ended the nodes")
    assert cgroups_of(FIRST)
    assert "is gone" in devcluster("down", "--name", FIRST)
    nothing_left(FIRST, before)
    assert "There was no cluster" in devcluster("down", "--name", FIRST)
    assert "There is no cluster" in devcluster("status", "--name", FIRST, status=3)


# A cluster that does not come up -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("component", "argument", "expected"),
    [
        ("etcd", "--no-such-flag", "no-such-flag"),
        ("kube-apiserver", "--etcd-cafile=/no/such/file", "/no/such/file"),
        ("containerd", "--no-such-flag", "no-such-flag"),
    ],
)
def test_a_failing_component_is_named_with_the_end_of_its_log(
    component: str, argument: str, expected: str, before: Machine
) -> None:
    said = devcluster("up", "--name", SECOND, "--extra-arg", f"{component}={argument}", status=1, seconds=UP_SECONDS)
    assert f"did not come up: {component} (on {SECOND}-1) ended with status" in said
    assert expected in said
    nothing_left(SECOND, before)


VICTIMS: dict[str, Callable[[ClusterState, ProcessIdentity], list[ProcessIdentity]]] = {
    "supervisor": lambda state, _: [state.supervisor],
    "guard": lambda state, _: [state.guard],
    "first process of the node": lambda state, _: list(state.nodes.values()),
    "up": lambda _, up: [up],
}


@pytest.mark.parametrize("victim", list(VICTIMS))
def test_a_kill_during_up_leaves_nothing(victim: str, before: Machine) -> None:
    with starting(SECOND) as (process, state):
        for each in VICTIMS[victim](state, ProcessIdentity.of(process.pid)):
            each.send(signal.SIGKILL)
        assert process.wait(timeout=SHORT_SECONDS) != 0
        until(lambda: not (state.guard.is_alive() or state.supervisor.is_alive()), "the outer processes have ended")
        nothing_left(SECOND, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_up_leaves_nothing(number: signal.Signals, before: Machine) -> None:
    with starting(SECOND) as (process, _):
        process.send_signal(number)
        assert process.wait(timeout=SHORT_SECONDS) == 130
        nothing_left(SECOND, before)


@contextmanager
def starting(name: str) -> Iterator[tuple[subprocess.Popen[str], ClusterState]]:
    """An `up` that has started its node's first component."""
    process = subprocess.Popen(
        [*COMMAND, "up", "--name", name], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if "ready after" in line:
                break
        state = read_state(Layout.of(name).state)
        assert state is not None
        assert state.nodes
        yield process, state
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        assert process.stderr is not None
        process.stderr.close()
        control.down(name)


def test_without_root_it_says_so_and_names_the_alternative() -> None:
    # Root is given up only after the imports: the checkout may be closed to everybody else.
    script = "import os; from rung_devcluster.cli import main; os.setuid(65534); main(['up'])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "needs root" in done.stderr
    assert "KUBECONFIG" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--name", "Not/Allowed"), "cannot be a cluster's name"),
        (("--node-class", "4=rpi5"), "there is no node '4'"),
        (("--node-class", "rpi5"), "not of the form NODE=CLASS"),
        (("--node-label", "1:kubernetes.io/role=x"), "cannot be the key of a node's label"),
        (("--extra-arg", "docker=--x"), "there is no component 'docker'"),
        (("--nodes", "4"), "4 is not in the range"),
    ],
)
def test_impossible_wishes_are_refused_at_once(arguments: tuple[str, ...], expected: str) -> None:
    said = devcluster("up", *arguments, status=None)
    assert expected in said
    assert "Traceback" not in said
