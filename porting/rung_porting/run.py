"""`rung-port run`: every task in a process of its own, a progress bar, then the numbered versions in a folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn

from rung_porting.datasets import CLASSES, SIDE
from rung_porting.errors import PortingError
from rung_porting.plan import TaskPlan
from rung_porting.repository.folder import TensorShapes, config_text, write_config, write_version
from rung_porting.repository.ladder import Candidate, number_versions
from rung_porting.stages import Made, finished
from rung_porting.store import Store, file_sha256

DATASET = "sklearn.datasets.load_digits, held-out test split"


@dataclass(slots=True)
class Workers:
    """The processes at work, so that an interrupted run leaves none behind."""

    processes: list[subprocess.Popen[str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    stopped: bool = False

    def start(self, log: Any) -> subprocess.Popen[str]:
        """Start one. Raises PortingError when the run is being stopped."""
        with self.lock:
            if self.stopped:
                raise PortingError("stopped")
            process = subprocess.Popen(
                [sys.executable, "-m", "rung_porting.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
            )
            self.processes.append(process)
            return process

    def stop(self) -> None:
        """End every process and wait for it: what they finished is in the store."""
        with self.lock:
            self.stopped = True
            for process in self.processes:
                if process.poll() is None:
                    process.send_signal(signal.SIGKILL)
            for process in self.processes:
                process.wait(timeout=10)


def run(plans: Sequence[TaskPlan], output: Path, store: Store, jobs: int, console: Console) -> dict[str, list[Made]]:
    """Make every version of these tasks and write them into the output folder.

    Args:
        plans: the tasks.
        output: gets `TASK/{config.pbtxt, VERSION/{model.onnx, version.yaml}}`.
        store: where results of stages are kept.
        jobs: tasks at a time; each uses one core.
        console: shows progress.

    Returns:
        What was made, by task.

    Raises:
        PortingError: a task failed; the others are finished and written first.
    """
    columns = (TextColumn("{task.fields[name]:8}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    workers = Workers()
    results: dict[str, list[Made]] = {}
    faults: list[str] = []
    with Progress(*columns, TextColumn("{task.description}"), console=console) as progress:
        bars = {plan.name: progress.add_task("waiting", total=1.0, name=plan.name) for plan in plans}
        with ThreadPoolExecutor(jobs) as pool:
            try:
                futures = {
                    plan.name: pool.submit(_port, plan, store, workers, progress, bars[plan.name]) for plan in plans
                }
                for name, future in futures.items():
                    try:
                        results[name] = future.result()
                    except PortingError as error:
                        progress.update(bars[name], description="failed")
                        faults.append(f"{name}: {error}")
            finally:
                workers.stop()
    for plan in plans:
        if plan.name in results:
            write_task(plan, results[plan.name], output)
    if faults:
        raise PortingError("\n".join(faults))
    return results


def number_made(plan: TaskPlan, made: Sequence[Made]) -> dict[int, Made]:
    """Return the versions of a task by the number that each gets."""
    candidates = [Candidate(str(index), each.accuracy, each.flops) for index, each in enumerate(made)]
    return {number: made[int(name)] for name, number in number_versions(candidates, plan.generation).items()}


def write_task(plan: TaskPlan, made: Sequence[Made], output: Path) -> None:
    """Number the versions of a task and write them into the folder.

    Raises:
        PortingError: other content is there.
    """
    shapes = TensorShapes("image", (1, SIDE, SIDE), "logits", (CLASSES[plan.question],))
    try:
        write_config(output, plan.name, config_text(plan.name, shapes))
        written = number_made(plan, made)
        base = next(number for number, each in written.items() if each.sparsity is None)
        for number, each in written.items():
            spec = version_spec(plan.name, number, each, base, written[base])
            write_version(output, plan.name, number, each.model, spec)
    except OSError as error:
        raise PortingError(f"{error.filename or output}: {error.strerror}") from None


def version_spec(task: str, number: int, made: Made, parent_number: int, parent: Made) -> dict[str, Any]:
    """Return what version.yaml holds: the `spec` of a ModelVersion without profiles, with a bare file name as uri."""
    lineage: dict[str, Any] = {"method": "base"}
    if made.sparsity is not None:
        removed = 1.0 - made.parameters / parent.parameters  # of the weights; made.sparsity is that of the channels
        lineage = {"parent": f"{task}-{parent_number}", "method": "l1", "sparsity": round(removed, 4)}
    return {
        "taskRef": {"name": task},
        "version": number,
        "artifact": {
            "uri": "model.onnx",
            "sha256": file_sha256(made.model),
            "bytes": made.model.stat().st_size,
        },
        "accuracy": {
            "metric": "accuracy",
            "value": round(made.accuracy, 6),
            "samples": made.samples,
            "dataset": DATASET,
        },
        "lineage": {**lineage, "epochs": made.epochs, "parameters": made.parameters, "flops": made.flops},
    }


def _port(plan: TaskPlan, store: Store, workers: Workers, progress: Progress, bar: TaskID) -> list[Made]:
    """Port one task in a process of its own, unless everything is in the store."""
    present = finished(plan, store)
    if present is None:
        progress.update(bar, description="starting")
        with tempfile.TemporaryFile("w+") as log:
            process = workers.start(log)
            error = _follow(process, plan, store, progress, bar)
            if process.wait() != 0:
                log.seek(0)
                last = "".join(log.readlines()[-15:])
                raise PortingError(error or f"the process ended with status {process.returncode}:\n{last}")
        present = finished(plan, store)
        if present is None:
            raise PortingError(f"the store {store.root} lost what was just made: is its disk full or damaged?")
    progress.update(bar, completed=1.0, description="done")
    return present


def _follow(
    process: subprocess.Popen[str], plan: TaskPlan, store: Store, progress: Progress, bar: TaskID
) -> str | None:
    """Hand over the plan and show what comes back. Returns the process's own word about its failure, if any."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        json.dump({"plan": plan.model_dump(mode="json"), "store": str(store.root)}, process.stdin)
        process.stdin.close()
    except BrokenPipeError:
        return None
    for line in process.stdout:
        content = json.loads(line)
        if "error" in content:
            return str(content["error"])
        progress.update(bar, completed=content["share"], description=content["what"])
    return None
