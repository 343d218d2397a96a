"""CPU and memory accounting against real process trees, and against a model of what the kernel does."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.agent.processes import TICKS_PER_SECOND, CpuAccount, ProcessTimes, TritonProcesses, parse_stat

PROGRAM = """
import os, resource, signal, sys, time

def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass

def child(work):
    pid = os.fork()
    if pid == 0:
        work()
        os._exit(0)
    return pid

def say(word):
    os.write(1, f"{word}\\n".encode())  # at once: several processes speak through one pipe

def hear():
    sys.stdin.readline()

"""


class Server:
    """A process tree whose root bears a name of its own, as Triton's does."""

    def __init__(self, folder: Path, script: str) -> None:
        self.name = f"rt{uuid.uuid4().hex[:10]}"
        program = folder / self.name
        program.symlink_to(Path(sys.executable).resolve())
        self.process = subprocess.Popen(
            [program, "-S", "-c", PROGRAM + script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def say(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def close(self) -> None:
        self.process.kill()
        self.process.wait(timeout=10)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[str], Server]]:
    servers: list[Server] = []

    def start(script: str) -> Server:
        servers.append(Server(tmp_path, script))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def test_children_that_end_between_two_looks_are_counted_once(serve: Callable[[str], Server]) -> None:
    server = serve("""
say("up"); hear()
for _ in range(5):
    pid = child(lambda: burn(0.1))
    burn(0.02)
    os.waitpid(pid, 0)
grandparent = child(lambda: os.waitpid(child(lambda: burn(0.1)), 0))
os.waitpid(grandparent, 0)
say("done"); hear()
""")
    processes = TritonProcesses(server.name)
    assert server.hear() == "up"
    start = processes.look().cpu_seconds
    assert start is not None
    server.say()
    assert server.hear() == "done"
    end = processes.look().cpu_seconds
    assert end is not None
    server.say()
    _, _, usage = os.wait4(server.process.pid, 0)
    server.process.returncode = 0
    assert end - start > 0.65, "five and one children of 0.1 s, and 0.1 s of the server's own"
    # The kernel's own account of the tree, at its end; the counter is in hundredths for each process.
    assert end == pytest.approx(usage.ru_utime + usage.ru_stime, abs=0.1)


def test_the_counter_never_falls_while_children_come_and_go(serve: Callable[[str], Server]) -> None:
    server = serve("""
say("up")
end = time.monotonic() + 1.5
while time.monotonic() < end:
    pids = [child(lambda: burn(0.03)) for _ in range(3)]
    for pid in pids:
        os.waitpid(pid, 0)
say("done"); hear()
""")
    processes = TritonProcesses(server.name)
    assert server.hear() == "up"
    seen = []
    most = 0
    end = time.monotonic() + 2.5
    while time.monotonic() < end:
        usage = processes.look()
        assert usage.cpu_seconds is not None
        seen.append(usage.cpu_seconds)
        most = max(most, usage.processes)
    assert seen == sorted(seen)
    assert most > 1, "children were seen alive"
    assert server.hear() == "done"
    server.say()
    _, _, kernel = os.wait4(server.process.pid, 0)
    server.process.returncode = 0
    assert seen[-1] == pytest.approx(kernel.ru_utime + kernel.ru_stime, abs=0.1)


def test_an_orphan_is_still_tritons_and_stays_counted_after_its_end(serve: Callable[[str], Server]) -> None:
    server = serve("""
def orphan():
    burn(0.3)
    say("burnt")
    hear()

def parent():
    child(orphan)
    hear()

middle = child(parent)
hear()
os.waitpid(middle, 0)
say("orphaned"); hear(); hear(); say("late")
hear()
""")
    processes = TritonProcesses(server.name)
    assert server.hear() == "burnt"
    before = processes.look()
    assert before.processes == 3
    assert before.cpu_seconds is not None
    assert before.cpu_seconds >= 0.29
    # Which of the three hears which line is chance, so they are ended by their ids: first the one in the middle.
    tree = {p.pid: p for p in processes._account._seen.values()}
    middle = next(p for p in tree.values() if p.parent_pid == server.process.pid)
    orphan = next(p for p in tree.values() if p.parent_pid == middle.pid)
    os.kill(middle.pid, 9)
    poll(lambda: parse_stat(Path(f"/proc/{orphan.pid}/stat").read_text()).parent_pid != middle.pid, "it is an orphan")
    orphaned = processes.look()
    assert orphan.key in processes._members
    assert orphaned.cpu_seconds is not None
    assert orphaned.cpu_seconds >= before.cpu_seconds
    os.kill(orphan.pid, 9)
    poll(lambda: not Path(f"/proc/{orphan.pid}").exists() or _ended(orphan.pid), "it ended")
    after = processes.look()
    assert after.cpu_seconds is not None
    assert after.cpu_seconds >= orphaned.cpu_seconds


def test_children_that_nobody_waits_for_stay_counted(serve: Callable[[str], Server]) -> None:
    server = serve("""
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
def work():
    burn(0.3)
    say("burnt")
    time.sleep(60)
pid = child(work)
hear()
os.kill(pid, 9)
try:
    os.waitpid(pid, 0)
except ChildProcessError:
    say("gone")
hear()
""")
    processes = TritonProcesses(server.name)
    assert server.hear() == "burnt"
    before = processes.look().cpu_seconds
    assert before is not None
    assert before >= 0.29
    server.say()
    assert server.hear() == "gone"
    after = processes.look()
    assert after.processes == 1
    assert after.cpu_seconds is not None
    assert after.cpu_seconds >= before


def test_without_triton_there_is_no_value_rather_than_a_standing_one(serve: Callable[[str], Server]) -> None:
    server = serve("say('up'); hear()")
    processes = TritonProcesses(server.name)
    assert server.hear() == "up"
    first = processes.look().cpu_seconds
    assert first is not None
    server.close()
    assert processes.look().cpu_seconds is None
    assert processes.look().processes == 0
    assert processes.memory_bytes() == 0
    assert TritonProcesses("no-such-process").look().cpu_seconds is None


def test_memory_counts_private_pages_fully_and_shared_pages_once(serve: Callable[[str], Server]) -> None:
    size_bytes = 64 << 20
    server = serve(f"""
import mmap
private = bytearray(os.urandom(1)) * {size_bytes}
shared = mmap.mmap(-1, {size_bytes})
shared[:] = b"x" * {size_bytes}
def user():
    mine = shared[::{mmap.PAGESIZE}]
    say("up"); time.sleep(60)
children = [child(user) for _ in range(3)]
hear()
for pid in children:
    os.kill(pid, 9)
""")
    processes = TritonProcesses(server.name)
    assert [server.hear() for _ in range(3)] == ["up"] * 3
    assert processes.look().processes == 4
    used_bytes = processes.memory_bytes()
    server.say()
    server.process.wait(timeout=10)
    assert 2 * size_bytes <= used_bytes < 2.9 * size_bytes, "four processes share both, so resident sizes say over six"


def test_where_the_kernel_refuses_shares_it_takes_resident_memory(tmp_path: Path) -> None:
    for pid, name in ((1, "pause"), (7, "tritonserver"), (8, "stub")):
        (tmp_path / str(pid)).mkdir()
        parent = 7 if pid == 8 else 0
        (tmp_path / f"{pid}/stat").write_text(f"{pid} ({name}) S {parent} " + "0 " * 20)
        (tmp_path / f"{pid}/status").write_text("VmRSS:\t900 kB\nRssAnon:\t100 kB\nRssFile:\t700 kB\nRssShmem:\t1 kB\n")
    processes = TritonProcesses(proc=tmp_path)
    assert processes.look().processes == 2
    assert processes.memory_bytes() == 2 * 101 * 1024


def test_what_else_lives_in_tritons_container_is_counted_and_other_containers_are_not(tmp_path: Path) -> None:
    for pid, name, cgroup in ((1, "pause", "a"), (7, "tritonserver", "b"), (9, "lost", "b"), (20, "agent", "c")):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / f"{pid}/stat").write_text(f"{pid} ({name}) S 1 " + "0 " * 9 + "50 50 0 0 " + "0 " * 9)
        (tmp_path / f"{pid}/cgroup").write_text(f"0::/../{cgroup}\n")
    (tmp_path / "self").symlink_to(tmp_path / "20")
    usage = TritonProcesses(proc=tmp_path).look()
    assert usage.processes == 2
    assert usage.cpu_seconds == 200 / TICKS_PER_SECOND


@pytest.mark.parametrize("text", ["", "1 (x", "x (y) S 1", "1 (y) " + "S " * 30])
def test_a_stat_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - int() has its own words
        parse_stat(text)


def test_a_name_may_hold_brackets_and_spaces() -> None:
    text = "42 (a) (b c)) S 7 " + " ".join(["0"] * 9) + " 1 2 3 4 " + " ".join(["0"] * 4) + " 99 0 0"
    assert parse_stat(text) == ProcessTimes(42, 99, 7, "a) (b c)", 3, 7)


@dataclass
class Kernel:
    """What the kernel does with times when processes burn, fork, end and are waited for."""

    root: int = 1
    last: int = 1
    now: dict[int, list[int]] = field(default_factory=lambda: {1: [0, 0, 0]})
    """By pid: parent, own, children's."""
    zombies: set[int] = field(default_factory=set)
    burnt: int = 0

    def fork(self, pid: int) -> None:
        self.last += 1
        self.now[self.last] = [pid, 0, 0]

    def burn(self, pid: int, ticks: int) -> None:
        self.now[pid][1] += ticks
        self.burnt += ticks

    def end(self, pid: int, waited: bool) -> None:
        parent, own, children = self.now.pop(pid)
        for other in self.now.values():
            if other[0] == pid:
                other[0] = 0
        if waited and parent in self.now:
            self.now[parent][2] += own + children

    def look(self) -> list[ProcessTimes]:
        return [ProcessTimes(pid, 0, parent, "x", own, children) for pid, (parent, own, children) in self.now.items()]


STEPS = st.lists(st.tuples(st.sampled_from(["fork", "burn", "end", "lose", "look"]), st.integers(0, 99)), max_size=60)


@given(STEPS)
@settings(max_examples=300)
def test_the_account_never_falls_and_never_counts_twice(steps: list[tuple[str, int]]) -> None:
    kernel, account = Kernel(), CpuAccount()
    last_seconds = 0.0
    lossless = True
    for what, number in [*steps, ("look", 0)]:
        pid = sorted(kernel.now)[number % len(kernel.now)]
        match what:
            case "fork":
                kernel.fork(pid)
            case "burn":
                kernel.burn(pid, number)
            case "end" if pid != kernel.root:
                lossless &= (
                    not any(parent == pid for parent, _, _ in kernel.now.values()) and kernel.now[pid][0] in kernel.now
                )
                kernel.end(pid, waited=True)
            case "lose" if pid != kernel.root:
                lossless = False
                kernel.end(pid, waited=False)
            case "look":
                seconds = account.observe(kernel.look())
                assert last_seconds <= seconds <= kernel.burnt / TICKS_PER_SECOND
                last_seconds = seconds
    if lossless:
        assert last_seconds == kernel.burnt / TICKS_PER_SECOND


def _ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def poll(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)
