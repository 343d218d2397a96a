"""Which programs on PATH fit, and what a tool's key depends on."""

from dataclasses import replace
from pathlib import Path

import pytest

from rung_devcluster.tools import CATALOGUE, UnknownToolError, ensure_tools, tool_key
from rung_devcluster.tools.catalogue import Tool
from rung_devcluster.tools.versions import installed, version_fits


@pytest.mark.parametrize(
    ("printed", "wanted", "fits"),
    [
        ("Kubernetes v1.37.2", "1.37.2", True),
        ("Kubernetes v1.37.9", "1.37.2", True),
        ("Kubernetes v1.36.2", "1.37.2", False),
        ("Client Version: v1.37.0\nKustomize Version: v5.8.1", "1.37.2", True),
        ("etcd Version: 3.6.5\nGit SHA: 0\nGo Version: go1.26.0", "3.6.5", True),
        ("etcd Version: 3.5.1\nGo Version: go3.6.5", "3.6.5", False),
        ("prometheus, version 2.42.0+ds (branch: debian/sid)", "3.15.0", False),
        ("prometheus, version 3.15.0 (branch: , revision: unknown)", "3.15.0", True),
        ("v3.22.1+g1a2b3c4", "3.22.0", True),
        ("CoreDNS-1.13.1\nlinux/amd64, go1.25", "1.13.1", True),
        ("1.37", "1.37.2", True),
        ("version 11.37.2", "1.37.2", False),
        ("no number here", "1.37.2", False),
        ("", "1.37.2", False),
    ],
)
def test_the_same_major_and_minor_version_fits(printed: str, wanted: str, fits: bool) -> None:
    assert version_fits(printed, wanted) is fits


def program(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_kubebuilder_assets_come_before_path_and_what_does_not_fit_is_told(tmp_path: Path) -> None:
    program(tmp_path / "path", "kubectl", "echo Client Version: v1.37.9")
    program(tmp_path / "assets", "kubectl", "echo Client Version: v1.20.1")
    program(tmp_path / "broken", "kubectl", "echo cannot >&2; exit 3")
    environment = {
        "KUBEBUILDER_ASSETS": str(tmp_path / "assets"),
        "PATH": f"{tmp_path / 'broken'}:{tmp_path / 'nowhere'}::{tmp_path / 'path'}",
    }
    found = list(installed(CATALOGUE["kubectl"], environment))
    assert [(each.path.parent.name, each.fits) for each in found] == [
        ("assets", False),
        ("broken", False),
        ("path", True),
    ]
    assert found[0].printed == "v1.20.1"
    assert "status 3" in found[1].printed


def test_a_program_that_fits_is_used_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = program(tmp_path / "bin", "helm", f"echo v{CATALOGUE['helm'].version}")
    monkeypatch.setenv("PATH", f"{path.parent}:/usr/bin:/bin")
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    monkeypatch.setenv("RUNG_CACHE", str(tmp_path / "cache"))
    lines: list[str] = []
    assert ensure_tools(["helm"], lines.append) == {"helm": path}
    assert lines == []


def test_an_unknown_tool_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(UnknownToolError, match=r"no tool `kubctl`; there are: etcd, kube-apiserver"):
        ensure_tools(["kubctl"])


@pytest.mark.parametrize("tool", CATALOGUE.values(), ids=lambda tool: tool.name)
def test_every_tool_is_pinned_with_hashes(tool: Tool) -> None:
    assert tool.version.count(".") == 2
    assert all(part.isdecimal() for part in tool.version.split("."))
    if tool.module_path:
        # h1: hashes of the module itself: Go refuses anything else.
        assert f"{tool.module_path} v" in (tool.folder / "go.sum").read_text()


def own_tool(folder: Path) -> Tool:
    folder.mkdir(parents=True)
    (folder / "go.mod").write_text("module rung.dev/devcluster/own\n\ngo 1.21\n")
    (folder / "main.go").write_text("package main\n\nfunc main() {}\n")
    return Tool(name="own", folder=folder, package="rung.dev/devcluster/own", found_on_path=False)


def test_the_key_follows_the_sources_and_the_flags_and_not_the_place(tmp_path: Path) -> None:
    one, other = own_tool(tmp_path / "one"), own_tool(tmp_path / "other")
    assert tool_key(one) == tool_key(other)
    assert tool_key(replace(one, tags=("netgo",))) != tool_key(one)
    (other.folder / "README").write_text("not built from")
    assert tool_key(one) == tool_key(other)
    (other.folder / "go.sum").write_text("example.org/x v1.0.0 h1:other\n")
    assert tool_key(one) != tool_key(other)
