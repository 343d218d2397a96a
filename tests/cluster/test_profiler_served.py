"""What a server serves already, profiled as it is: any control mode, any inputs, and every way in which it can't be."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from rung.adapters.triton import State, TritonClient
from rung_porting.profiler.conditions import Bench, Conditions
from rung_porting.profiler.document import read_document
from rung_porting.profiler.errors import ProfileError
from rung_porting.profiler.profile import profile
from rung_porting.profiler.served import profile_served
from servers.models import write_task
from servers.triton import TritonServer, running_triton

pytestmark = [pytest.mark.cluster, pytest.mark.quiet]

BUSY = """
import time
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            inputs = [pb_utils.get_input_tensor_by_name(request, name) for name in ("TEXT", "IMAGE")]
            text, image = (tensor.as_numpy() for tensor in inputs)
            assert text.dtype == np.object_ and all(len(word) == 8 for word in text.flat), text
            end = time.perf_counter() + 0.004
            while time.perf_counter() < end:
                pass
            if image.shape[-1] < 8:
                error = pb_utils.TritonError(f"an image of {image.shape[-1]} columns is too small")
                answers.append(pb_utils.InferenceResponse(error=error))
            else:
                answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.zeros(1, np.float32))]))
        return answers
"""
CONFIG = """name: "words"
backend: "python"
max_batch_size: 0
input [
  { name: "TEXT" data_type: TYPE_STRING dims: [ 2 ] },
  { name: "IMAGE" data_type: TYPE_FP16 dims: [ 3, -1, -1 ] }
]
output [ { name: "OUT" data_type: TYPE_FP32 dims: [ 1 ] } ]
instance_group [ { count: 1 kind: KIND_CPU } ]
"""


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A Triton as most people run it: it loads all that is there, and can't be told to load anything."""
    folder = tmp_path_factory.mktemp("plain")
    repository = folder / "models"
    write_task(repository, "digit", {1: 30, 7: 160}, width=384)
    (repository / "words" / "1").mkdir(parents=True)
    (repository / "words" / "config.pbtxt").write_text(CONFIG)
    (repository / "words" / "1" / "model.py").write_text(BUSY)
    for name, wrong in {
        "decoupled": "model_transaction_policy { decoupled: true }",
        "stream": "sequence_batching { }",
    }.items():
        (repository / name / "1").mkdir(parents=True)
        (repository / name / "config.pbtxt").write_text(CONFIG.replace("words", name) + wrong)
        (repository / name / "1" / "model.py").write_text(BUSY)
    broken = repository / "broken" / "1"
    broken.mkdir(parents=True)
    (broken / "model.onnx").write_bytes(b"this is no network")
    (broken.parent / "config.pbtxt").write_text(
        (repository / "digit" / "config.pbtxt").read_text().replace("digit", "broken")
    )
    with running_triton(folder, "--model-control-mode=none", "--exit-on-error=false") as server:
        yield server


def command(server: TritonServer, *arguments: str) -> Result:
    # A long service level lets a busy machine send late without a word.
    asked = ["--triton", server.address, "--slo", "3s", *arguments]
    return CliRunner().invoke(profile, asked, catch_exceptions=False)


def loaded(server: TritonServer) -> set[tuple[str, int]]:
    async def read() -> set[tuple[str, int]]:
        async with TritonClient(server.address) as client:
            return {(entry.model, entry.number) for entry in await client.index() if entry.state is State.READY}

    return asyncio.run(read())


def test_a_served_model_gets_a_profile_in_a_file_and_stays_as_it_was(plain: TritonServer, tmp_path: Path) -> None:
    before, stubs = loaded(plain), plain.stub_pids().keys()
    file = tmp_path / "digit.yaml"
    assert plain.process is not None
    done = command(plain, "--model", "digit", "--output", str(file), "--pid", str(plain.process.pid), "--cpu", "2")

    assert done.exit_code == 0, done.stderr
    assert "digit 7: " in done.stderr
    assert "p99 ms" in done.stderr
    assert json.loads(done.stdout)["profile"]["version"] == 7
    document = read_document(str(file), file.read_text())
    assert (document.model, document.version, document.hardware_class, document.cpu) == ("digit", 7, "default", "2")
    assert (document.batch_size, document.instances) == (8, 1)
    assert document.cpu_seconds_per_inference is not None
    assert document.machine is not None
    assert document.machine.client_cores < document.machine.cores
    assert (loaded(plain), plain.stub_pids().keys()) == (before, stubs)


def test_texts_halves_and_free_sizes_are_made_up_as_asked(plain: TritonServer) -> None:
    done = command(plain, "--model", "words", "--shape", "IMAGE:3,16,16")

    assert done.exit_code == 0, done.stderr
    written = json.loads(done.stdout)["profile"]
    # Each answer takes 4 ms of one instance, which does not batch.
    assert 60 < written["maxThroughput"] < 260
    assert written["batchSize"] == 1


def test_given_inputs_are_sent(plain: TritonServer, tmp_path: Path) -> None:
    file = tmp_path / "inputs.npz"
    np.savez(file, TEXT=np.array([["pictures", "captions"]] * 3), IMAGE=np.zeros((3, 3, 9, 9), np.float16))
    done = command(plain, "--model", "words", "--data", str(file))

    assert done.exit_code == 0, done.stderr


@pytest.mark.parametrize(
    ("model", "arguments", "sentence"),
    [
        ("words", [], "an image of 1 columns is too small; it takes TEXT BYTES [2], IMAGE FP16 [3, -1, -1]"),
        ("words", ["--shape", "IMAGE:16,16"], "takes shape (3, -1, -1), the data has (16, 16)"),
        ("words", ["--shape", "PICTURE:16,16"], "has no input ['PICTURE']; it takes ['TEXT', 'IMAGE']"),
        ("words", ["--shape", "IMAGE:3,100000,100000"], "more than 16777216 elements"),
        ("nothing", [], "nothing: not ready on"),
        ("nothing", [], "ready there: decoupled, digit, stream, words"),
        ("broken", [], "ONNX Runtime can't load it"),
        ("decoupled", [], "decoupled: it is decoupled"),
        ("stream", [], "stream: it takes sequences"),
        ("digit", ["--slo", "1ms"], "digit: one request alone takes "),
        ("\u2603/../x\n", [], "not ready on"),
    ],
)
def test_what_can_not_be_measured_is_told_with_what_to_do(
    plain: TritonServer, model: str, arguments: list[str], sentence: str, tmp_path: Path
) -> None:
    file = tmp_path / "none.yaml"
    done = command(plain, "--model", model, "--output", str(file), *arguments)

    assert done.exit_code == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == "", "no number"
    assert not file.exists()


def test_on_the_only_core_of_the_server_no_number_is_reported(tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    write_task(tmp_path / "models", "tiny", {1: 1}, width=64)
    with running_triton(tmp_path, "--model-control-mode=none") as server:
        assert server.process is not None
        for pid in (server.process.pid, *server.stub_pids()):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                os.sched_setaffinity(int(thread.name), {core})
        # The client costs about as much as this model: it gets half of what the server could have had.
        program = f"import os; os.sched_setaffinity(0, {{{core}}}); " + (
            "from rung_porting.profiler.profile import profile; profile()"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, "--triton", server.address, "--model", "tiny", "--slo", "3s",
             "--pid", str(server.process.pid)],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    assert done.returncode == 1, done.stderr
    refused = r"tiny: no number, three times: the client used \d\.\d\d of 1 cores and none was idle"
    assert re.search(refused, done.stderr), done.stderr
    assert "run the client on another machine, or give the server a CPU limit" in done.stderr
    assert done.stdout == ""


async def test_a_server_that_is_away_or_hangs_is_named_in_bounded_time(tmp_path: Path) -> None:
    conditions = Conditions("c", slo_seconds=0.4)
    async with asyncio.timeout(30):
        with pytest.raises(ProfileError, match=r"nothing answers as a Triton at 127.0.0.1:9; .*HOST:8001"):
            await profile_served(Bench("127.0.0.1:9"), "digit", conditions)
    with running_triton(tmp_path) as server:
        server.signal_all(signal.SIGSTOP)
        async with asyncio.timeout(30):
            with pytest.raises(ProfileError, match="nothing answers as a Triton"):
                await profile_served(Bench(server.address), "digit", conditions)


def test_two_served_models_are_measured_beside_each_other(plain: TritonServer, tmp_path: Path) -> None:
    file = tmp_path / "both.yaml"
    assert plain.process is not None
    done = command(
        plain, "--model", "digit", "--model", "words", "--shape", "IMAGE:3,16,16", "--output", str(file), "--co-locate",
        "--shares", "0.3", "--pid", str(plain.process.pid),
    )  # fmt: skip

    assert done.exit_code == 0, done.stderr
    first, second = (
        read_document(str(file), text) for text in file.read_text().split("---\n") if text.strip()
    )  # fmt: skip
    assert (first.model, second.model) == ("digit", "words")
    [beside_words], [beside_digit] = first.co_location, second.co_location
    assert (beside_words.task, beside_words.version) == ("words", 1)
    assert (beside_digit.task, beside_digit.version) == ("digit", 7)
    [load] = beside_words.loads
    assert (load.own, load.other) == (0.3, 0.3)
    assert beside_words.cpu_factor == beside_digit.cpu_factor
    # Together they cost about what they cost apart; far from it, something is counted twice or not at all.
    assert beside_words.cpu_factor is not None
    assert 0.5 < beside_words.cpu_factor < 2.0
    assert first.co_location_factor == beside_words.cpu_factor
