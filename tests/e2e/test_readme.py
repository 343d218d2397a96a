"""What README and docs tell people to type works: the marked blocks are run, in order, and the rest is looked up.

A block of commands carries a mark on the line above it: `<!-- test: NAME -->`, or `<!-- not tested: WHY -->`.
`make demo` and `make test` can't be run from inside a test: that their targets resolve is all that is checked here.
"""

from __future__ import annotations

import functools
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from installed.cluster import Cluster, Namespace, until
from installed.ladder import BEST, CHEAPEST, write_ladder
from rung_demo.environment import PROJECT

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

DOCUMENTS = (
    "README.md", "docs/operations.md", "docs/porting.md", "docs/policies.md", "docs/reflex.md", "docs/balancing.md",
    "docs/sites.md", "CONTRIBUTING.md",
)  # fmt: skip
NAMESPACE = "edge"
IN_ORDER = ("images", "install", "versions", "task", "look", "simulate")
BLOCK = re.compile(r"^(?P<mark>[^\n]*)\n```sh\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"<!-- (?:test: (?P<name>[a-z-]+)|not tested: (?P<why>\S.*)) -->")
PLACES = ("bench/", "charts/", "crds/", "demo/", "docs/", "examples/", "images/", "requirements/", "tests/", "../")
SECONDS = 150.0


@dataclass(frozen=True)
class Block:
    """One block of commands of a document."""

    document: str
    line: int
    mark: str
    text: str

    @property
    def name(self) -> str | None:
        found = MARK.fullmatch(self.mark)
        return found["name"] if found else None

    def commands(self) -> list[list[str]]:
        """Its commands as words, without the shell's own."""
        without_comments = re.sub(r"\s#.*$", "", self.text.replace("\\\n", " "), flags=re.MULTILINE)
        without_comments = re.sub(r"^\w+=\$\((.*)\)$", r"\1", without_comments, flags=re.MULTILINE)
        lexer = shlex.shlex(without_comments.replace("\n", " ; "), posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        found: list[list[str]] = [[]]
        for word in lexer:
            if word in {";", "&", "&&", "|"}:
                found.append([])
            elif word not in {"do", "done"}:
                found[-1].append(word)
        return [words for words in found if words and words[0] != "for"]


def blocks(document: str) -> list[Block]:
    text = (PROJECT / document).read_text(encoding="utf-8")
    return [
        Block(document, text.count("\n", 0, found.start()) + 2, found["mark"], found["text"])
        for found in BLOCK.finditer(text)
    ]


BLOCKS = [block for document in DOCUMENTS for block in blocks(document)]


def test_every_block_of_commands_is_marked() -> None:
    fences = sum((PROJECT / document).read_text().count("```sh\n") for document in DOCUMENTS)
    assert len(BLOCKS) == fences, "a block of commands starts in a way that this test does not see"
    unmarked = [f"{block.document}:{block.line}" for block in BLOCKS if not MARK.fullmatch(block.mark)]
    assert not unmarked, "say on the line above: <!-- test: NAME --> or <!-- not tested: WHY -->"
    assert sorted(block.name for block in BLOCKS if block.name) == sorted(IN_ORDER)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block.document}:{block.line}")
def test_every_command_exists(block: Block) -> None:
    commands = block.commands()
    assert commands
    for words in commands:
        look_up(words)


@functools.cache
def help_of(program: str, subcommand: str) -> str:
    words: list[str | Path] = [PROJECT / ".venv/bin" / program, subcommand, "--help"]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout


def look_up(words: list[str]) -> None:
    """Check that a command line can be meant: its program, subcommand and options exist."""
    program = Path(words[0]).name
    if program == "make":
        subprocess.run(["make", "-n", *words[1:]], cwd=PROJECT, capture_output=True, timeout=30, check=True)
    elif program in {"rung-port", "rung-load", "rung"}:
        shown = help_of(program, words[1])
        for option in (word.partition("=")[0] for word in words if word.startswith("--")):
            assert re.search(rf"{option}\b", shown), f"{program} {words[1]} has no {option}"
    else:
        # What else may stand in a block; kubectl and helm lines are run.
        assert program in {"kubectl", "helm", "k3s", "export", "kill", "sleep", "cut", "sed", "sudo"}, (
            f"teach this test {words}"
        )


@pytest.mark.parametrize("document", [*DOCUMENTS, "docs/architecture.md"])
def test_every_file_that_is_named_exists(document: str) -> None:
    text = (PROJECT / document).read_text(encoding="utf-8")
    here = (PROJECT / document).parent
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    missing = [link for link in links if link and not (here / link).exists()]
    named = {word for word in re.findall(r"[\w./-]+", re.sub(r"\]\([^)]*\)", "", text)) if word.startswith(PLACES)}
    missing += [word for word in named if not (PROJECT / word.rstrip(".")).exists()]
    assert not missing


# ------------------------------------------------------------------------------------------------ on a real cluster


@dataclass(frozen=True)
class Reader:
    """Someone with a shell in the checkout, kubectl and helm on PATH, and the release's namespace as the default."""

    cluster: Cluster
    edge: Namespace
    kubeconfig: Path
    models: Path

    def types(self, text: str) -> str:
        """Run what a document says, with its placeholders filled in; return what it printed."""
        for placeholder, value in (("TASK", "digits"), ("POOL", "edge"), ("NUMBER", str(CHEAPEST))):
            text = re.sub(rf"\b{placeholder}\b", value, text)
        # The environment of this very test is neither made again nor changed.
        text = re.sub(r"^make ", "make --old-file=.venv/.done ", text, flags=re.MULTILINE)
        programs = [self.edge.kubernetes.kubectl_path.parent, self.edge.kubernetes.helm_path.parent]
        path = os.pathsep.join([*map(str, programs), os.environ["PATH"]])
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text.replace("out/models", str(self.models))],
            cwd=PROJECT, env={**os.environ, "PATH": path, "KUBECONFIG": str(self.kubeconfig)},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=SECONDS,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{text}\n{done.stdout}"
        return done.stdout


@pytest.fixture(scope="module")
def reader(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    folder = tmp_path_factory.mktemp("reader")
    kubeconfig = Path(shutil.copy(cluster.kubernetes.kubeconfig, folder / "kubeconfig"))
    edge = cluster.namespaced(NAMESPACE)
    edge.kubectl("config", "set-context", "--current", f"--namespace={NAMESPACE}", f"--kubeconfig={kubeconfig}")
    try:
        yield Reader(cluster, edge, kubeconfig, write_ladder(folder, "digits"))
    finally:
        edge.helm("uninstall", "rung", "--ignore-not-found")
        edge.remove()
        edge.kubectl("label", "node", "--all", "rung.dev/serve-")


@pytest.mark.parametrize("name", IN_ORDER)
def test_block(reader: Reader, name: str) -> None:
    if name == "images" and not reader.cluster.embedded:
        pytest.skip("images are built as root; this cluster has them")
    (block,) = (block for block in BLOCKS if block.name == name)
    said = reader.types(block.text)
    # A task begins on the best version that is there already; it need not be the best of all yet.
    expected = {
        "install": ["looks after edge", "succeeded"],
        "versions": ["3 published", "job.batch/rung-profile condition met", "3 created"],
        "task": ["inferencetask.rung.dev/digits", "edge/digits: version", " answers", str(BEST), "> 10"],
        "look": ["Conditions:", "edge/digits: version", " answers", "TASK"],
        "simulate": ["Frontier", "Stepwise", "requests. Late:", "the full record"],
    }
    for words in expected.get(name, []):
        assert words.lower() in said.lower()


def test_what_operations_says_in_passing(reader: Reader) -> None:
    """The commands inside sentences and tables, in the order in which they stand there."""
    text = (PROJECT / "docs/operations.md").read_text(encoding="utf-8")
    commands = [found for found in re.findall(r"`([^`\n]+)`", text) if found.startswith("kubectl ")]
    assert len(commands) >= 7
    for command in commands:
        if "config set-context" in command:
            continue  # the reader has done it
        if "delete" in command and not reader.cluster.embedded:
            continue  # it would take other people's tasks with it
        reader.types(command)
        if '"Recommend"' in command:
            assert reader.edge.get("spool", "edge")["spec"]["mode"] == "Recommend"
            reader.edge.patch("spool", "edge", {"spec": {"mode": "Auto"}})
        elif '"Pinned"' in command:
            reader.edge.wait_for_active("digits", CHEAPEST)
        elif '"Auto"' in command:
            assert "pinnedVersion" not in reader.edge.get("itask", "digits")["spec"]
        elif "scale" in command:
            until(lambda: reader.edge.pods("operator") == [], lambda: "the operator did not go")
            (server,) = reader.edge.pods("triton")
            assert all(each["ready"] for each in server["status"]["containerStatuses"])
