from __future__ import annotations

from rung.adapters.agent import VersionState
from rung.agent.catalogue import Catalogue, Task
from rung.agent.folder import Record

TASKS, VERSIONS = 200, 10


def test_an_inventory_of_thousands_has_every_version_under_its_task_in_order() -> None:
    catalogue = Catalogue(100)
    numbers = [*range(VERSIONS, 0, -1)]
    records = {
        (f"task-{task}", number): Record(f"{task:032x}{number:032x}", number)
        for number in numbers
        for task in range(TASKS)
    }
    catalogue.add_installed(records, {f"task-{task}": f"# {task}" for task in range(1, TASKS)})
    catalogue.tasks["without-versions"] = Task(config="# none")

    tasks = catalogue.inventory().tasks
    assert [*tasks] == sorted([*(f"task-{task}" for task in range(TASKS)), "without-versions"])
    assert tasks["without-versions"].versions == {}
    assert tasks["task-0"].config == "", "its versions are there before its config is"
    for task in range(1, TASKS):
        found = tasks[f"task-{task}"]
        assert found.config == f"# {task}"
        assert [*found.versions] == sorted(numbers)
        for number, version in found.versions.items():
            assert version.state is VersionState.PENDING
            assert (version.sha256, version.size_bytes) == (f"{task:032x}{number:032x}", number)
