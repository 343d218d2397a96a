"""Each image runs its command as a plain user on a read-only root file system, in namespaces of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto, helper

from rung_devcluster import buildah
from rung_devcluster.images import build_images, find_project, read_images, select

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0, reason="building images needs root"),
    # The first build makes the base image, downloads wheels and builds tools with Go.
    pytest.mark.timeout(1800),
]

USER = 10001
READY_SECONDS = 60.0

# Mounts an image's root read-only, with the few writable places that a pod would have, and becomes its command.
STARTER = """
set -eu
root=$1; shift
ip link set lo up
mount --bind "$($BUILDAH mount "$CONTAINER")" "$root"
mkdir -p "$root/proc" "$root/dev" "$root/models"
mount -t proc proc "$root/proc"
for folder in $WRITABLE; do mkdir -p "$root$folder"; mount -t tmpfs -o mode=1777 tmpfs "$root$folder"; done
for name in null zero urandom; do
  [ -e "$root/dev/$name" ] || touch "$root/dev/$name"
  mount --bind "/dev/$name" "$root/dev/$name"
done
mount --bind "$MODELS" "$root/models"
mount -o remount,bind,ro "$root"
cd /
exec chroot --userspec=$USER:$USER "$root" "$@"
"""


# Prints the status and the text of a page.
ASK = """
import sys, urllib.error, urllib.request
url, body = sys.argv[1:]
try:
    with urllib.request.urlopen(url, data=body.encode() or None, timeout=10) as response:
        print(response.status, response.read().decode())
except urllib.error.HTTPError as error:
    print(error.code, error.read().decode())
except OSError as error:
    print(0, error)
"""


@dataclass(frozen=True)
class Built:
    """One image as it was built."""

    reference: str
    archive: Path

    @property
    def settings(self) -> Mapping[str, Any]:
        with tarfile.open(self.archive) as opened:
            manifest = opened.extractfile("manifest.json")
            assert manifest is not None
            entry = json.load(manifest)[0]
            assert entry["RepoTags"] == [self.reference]
            file = opened.extractfile(entry["Config"])
            assert file is not None
            settings: Mapping[str, Any] = json.load(file)["config"]
            return settings

    @property
    def command(self) -> list[str]:
        return [*(self.settings.get("Entrypoint") or []), *(self.settings.get("Cmd") or [])]


class Images(dict[str, Built]):
    """The images by name, each built when a test first asks for it."""

    def __missing__(self, name: str) -> Built:
        ((reference, archive),) = build_images([name]).items()
        return self.setdefault(name, Built(reference, archive))


@pytest.fixture(scope="module")
def images() -> Images:
    return Images()


@dataclass
class Running:
    """A program of an image, in namespaces of its own."""

    process: subprocess.Popen[str]

    def inside(self, *command: str, seconds: float = 30) -> str:
        """Run a program of this machine in the same namespaces."""
        words = ["nsenter", "--target", self.first_process(), "--mount", "--net", "--pid", *command]
        return subprocess.run(words, check=True, capture_output=True, text=True, timeout=seconds).stdout

    def first_process(self) -> str:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        deadline = time.monotonic() + READY_SECONDS
        while not (found := children.read_text().split()):
            assert time.monotonic() < deadline, "nothing was started"
            time.sleep(0.05)
        return found[0]

    def get(self, url: str) -> tuple[int, str]:
        """Return the status and the text of a page that the program serves on its loopback."""
        return self.ask(url)

    def ask(self, url: str, body: str = "") -> tuple[int, str]:
        """The same, with a body to send; status 0 when nothing answers."""
        status, _, text = self.inside(sys.executable, "-I", "-c", ASK, url, body).partition(" ")
        return int(status), text

    def wait_for(self, url: str, status: int) -> str:
        deadline = time.monotonic() + READY_SECONDS
        while True:
            assert self.process.poll() is None, f"ended with status {self.process.returncode}: {self.output()}"
            found, text = self.get(url)
            if found == status:
                return text
            assert time.monotonic() < deadline, f"{url} answers {found}: {text}"
            time.sleep(0.2)

    def output(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.read()


@contextmanager
def started(
    image: Built,
    command: Sequence[str],
    folder: Path,
    *,
    writable: Sequence[str] = (),
    models: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Running]:
    """Start a command of an image as user 10001 on a read-only root; everything is gone at the end."""
    root = folder / "root"
    root.mkdir(exist_ok=True)
    program = shutil.which("buildah")
    assert program is not None
    storage = buildah.command([])
    storage[storage.index("buildah")] = program
    at = storage.index(program)
    container = f"test-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    _run([*storage, "from", "--pull-never", "--name", container, image.reference])
    settings = dict(entry.split("=", 1) for entry in image.settings.get("Env") or [])
    process = subprocess.Popen(
        [
            *("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"),
            *("--propagation=private", "sh", "-c", STARTER, "starter", str(root), *command),
        ],
        env={
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            **settings,
            "BUILDAH": " ".join(storage[at:]),
            "CONTAINER": container,
            "WRITABLE": " ".join(writable),
            "MODELS": str(models or folder),
            "USER": str(USER),
            **(environment or {}),
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield Running(process)
    finally:
        # The first process inside, by hand: a program that changes its user loses the signal at its parent's death.
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        if process.poll() is None:
            for child in children.read_text().split():
                os.kill(int(child), signal.SIGKILL)
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
        _run([*storage, "rm", container])


def outcome(image: Built, command: Sequence[str], folder: Path, **more: Any) -> tuple[int, str]:
    """Run a command of an image to its end; return its status and everything that it printed."""
    with started(image, command, folder, **more) as running:
        printed, _ = running.process.communicate(timeout=READY_SECONDS)
        return running.process.returncode, printed


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_unchanged_images_are_not_built_again(images: Images) -> None:
    lines: list[str] = []
    assert build_images(["pause"], lines.append) == {images["pause"].reference: images["pause"].archive}
    assert lines == []


@pytest.mark.parametrize("name", [image.name for image in select(read_images(find_project()), None)])
def test_no_image_runs_as_root_and_none_names_this_machine(images: Images, name: str) -> None:
    image = images[name]
    user = image.settings["User"].split(":")[0]
    assert user.isdecimal()
    assert int(user) > 0
    assert image.command
    assert not any(".cache" in entry for entry in image.settings.get("Env") or [])


@pytest.mark.parametrize(
    ("name", "program"),
    [("rung", "rung"), ("rung", "rung-agent"), ("rung-loadgen", "rung-load"), ("rung-loadgen", "rung-port")],
)
def test_the_programs_of_python_images_start(images: Images, tmp_path: Path, name: str, program: str) -> None:
    status, printed = outcome(images[name], [program, "--help"], tmp_path)
    assert status == 0, printed
    assert "Usage" in printed or "usage" in printed


PROBE = """
import importlib.util, os, pathlib
print(os.getuid(), [name for name in ("torch", "pip", "nni") if importlib.util.find_spec(name)])
try:
    pathlib.Path("/opt/code/written").touch()
except OSError as error:
    print(error.strerror)
"""


@pytest.mark.parametrize("name", ["rung", "rung-loadgen"])
def test_python_images_are_lean_and_nothing_in_them_can_be_written(images: Images, tmp_path: Path, name: str) -> None:
    status, printed = outcome(images[name], ["python", "-c", PROBE], tmp_path)
    assert status == 0, printed
    assert printed.splitlines() == [f"{USER} []", "Read-only file system"]


def test_prometheus_answers(images: Images, tmp_path: Path) -> None:
    folder = tmp_path / "configuration"
    folder.mkdir(mode=0o755)
    (folder / "prometheus.yml").write_text("global: {scrape_interval: 1s}\n")
    image = images["rung-prometheus"]
    command = [image.command[0], "--config.file=/models/prometheus.yml", "--storage.tsdb.path=/data"]
    with started(image, command, tmp_path, writable=["/data"], models=folder) as running:
        running.wait_for("http://127.0.0.1:9090/-/ready", 200)


def test_s3_answers(images: Images, tmp_path: Path) -> None:
    keys = {"ROOT_ACCESS_KEY": "key", "ROOT_SECRET_KEY": "secret"}
    image = images["rung-s3"]
    with started(image, image.command, tmp_path, writable=["/data"], environment=keys) as running:
        assert "NoSuchBucket" in running.wait_for("http://127.0.0.1:7070/bucket", 404)


def test_coredns_says_its_version(images: Images, tmp_path: Path) -> None:
    status, printed = outcome(images["coredns"], ["/coredns", "-version"], tmp_path)
    assert status == 0
    assert printed.startswith("CoreDNS-")


def test_pause_ends_when_told(images: Images, tmp_path: Path) -> None:
    with started(images["pause"], ["/pause"], tmp_path) as running:
        deadline = time.monotonic() + READY_SECONDS
        while "pause" not in running.inside("cat", "/proc/1/comm"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        # Process 1 is only reached by signals that it has asked for, so this shows that it asked.
        os.kill(int(running.first_process()), signal.SIGTERM)
        assert running.process.wait(timeout=READY_SECONDS) == 0


def model_repository(folder: Path) -> Path:
    """Write a repository with one ONNX model that answers what it is asked."""
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("INPUT", "OUTPUT")]
    graph = helper.make_graph([helper.make_node("Identity", ["INPUT"], ["OUTPUT"])], "echo", tensors[:1], tensors[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (folder / "echo" / "1").mkdir(parents=True)
    (folder / "echo" / "1" / "model.onnx").write_bytes(model.SerializeToString())
    (folder / "echo" / "config.pbtxt").write_text(
        'name: "echo"\nbackend: "onnxruntime"\nmax_batch_size: 8\n'
        'input [{ name: "INPUT" data_type: TYPE_FP32 dims: [4] }]\n'
        'output [{ name: "OUTPUT" data_type: TYPE_FP32 dims: [4] }]\n'
    )
    folder.chmod(0o755)
    return folder


def test_triton_serves_an_onnx_model(images: Images, tmp_path: Path) -> None:
    models = model_repository(tmp_path / "models")
    image = images["rung-tritonserver-cpu"]
    command = [*image.command, "--load-model=echo"]
    writable = ["/run/triton", "/dev/shm", "/tmp"]
    with started(image, command, tmp_path, writable=writable, models=models) as running:
        running.wait_for("http://127.0.0.1:8000/v2/health/ready", 200)
        running.wait_for("http://127.0.0.1:8000/v2/models/echo/ready", 200)
        asked = {"inputs": [{"name": "INPUT", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}
        body = json.dumps(asked)
        status, text = running.ask("http://127.0.0.1:8000/v2/models/echo/infer", body)
        assert status == 200, text
        assert json.loads(text)["outputs"][0]["data"] == [1, 2, 3, 4]
        assert 'nv_inference_request_success{model="echo"' in running.get("http://127.0.0.1:8002/metrics")[1]


def test_triton_says_what_is_wrong_when_its_folder_cannot_be_written(images: Images, tmp_path: Path) -> None:
    status, printed = outcome(images["rung-tritonserver-cpu"], ["tritonserver"], tmp_path)
    assert status == 1
    assert printed.splitlines()[-1] == (
        f"tritonserver: /run/triton must be writable for user {USER}: mount a volume (emptyDir) there"
    )
