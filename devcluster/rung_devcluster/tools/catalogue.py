"""Which programs the development cluster needs: their versions, where releases lie, how Go builds them.

The versions stand in `gotools/MODULE/go.mod`, and only there; the hashes of everything that is built in the `go.sum`
beside it.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

GOTOOLS = Path(__file__).parent.parent / "gotools"
_RELEASES = "https://github.com"


class UnknownToolError(ValueError):
    """A tool was asked for that is not in the catalogue."""


@dataclass(frozen=True, slots=True)
class Release:
    """Where an official release lies. In the templates: {version} without its v, {arch} as Go names it."""

    url: str
    checksums_url: str
    member: str | None = None
    """Path of the program inside the archive; None when the download is the program itself."""


@dataclass(frozen=True, slots=True)
class Tool:
    """One program: how to get it and how to ask it for its version."""

    name: str
    folder: Path
    """The folder of the Go module that pins it; tools of one module share a folder in the cache."""
    package: str
    """The Go package of its main function."""
    version_arguments: tuple[str, ...] = ("--version",)
    version_variables: tuple[str, ...] = ()
    """Go variables that are set to the version when it is built; {version}, {major}, {minor} are filled in."""
    tags: tuple[str, ...] = ()
    release: Release | None = None
    module_path: str = ""
    """The Go module whose required version is the tool's; empty for our own program."""
    version_offset: str = ""
    """A prefix of the module's version that the release's version has not: prometheus v0.315.0 is release 3.15.0."""
    found_on_path: bool = True

    @property
    def version(self) -> str:
        """The pinned version without its v, for example 1.37.2."""
        return _release_version(_pinned_version(self.folder, self.module_path), self.version_offset)

    @property
    def build_flags(self) -> tuple[str, ...]:
        """The flags of `go build`, the same for everyone, so that the Go build cache is shared."""
        major, minor, *_ = self.version.split(".")
        settings = [
            "-X " + variable.format(version=self.version, major=major, minor=minor)
            for variable in self.version_variables
        ]
        tags = ("-tags", ",".join(self.tags)) if self.tags else ()
        return ("-trimpath", *tags, "-ldflags", " ".join(["-s", "-w", *settings]))


_KUBERNETES_VARIABLES = (
    "k8s.io/component-base/version.gitVersion=v{version}",
    "k8s.io/component-base/version.gitMajor={major}",
    "k8s.io/component-base/version.gitMinor={minor}",
)


def _kubernetes(name: str, *version_arguments: str) -> Tool:
    url = "https://dl.k8s.io/release/v{version}/bin/linux/{arch}/" + name
    return Tool(
        name=name,
        folder=GOTOOLS / "kubernetes",
        module_path="k8s.io/kubernetes",
        package=f"k8s.io/kubernetes/cmd/{name}",
        version_arguments=version_arguments or ("--version",),
        version_variables=_KUBERNETES_VARIABLES,
        release=Release(url=url, checksums_url=url + ".sha256"),
    )


_TOOLS = (
    Tool(
        name="etcd",
        folder=GOTOOLS / "etcd",
        module_path="go.etcd.io/etcd/server/v3",
        package="go.etcd.io/etcd/server/v3",
        release=Release(
            url=_RELEASES + "/etcd-io/etcd/releases/download/v{version}/etcd-v{version}-linux-{arch}.tar.gz",
            checksums_url=_RELEASES + "/etcd-io/etcd/releases/download/v{version}/SHA256SUMS",
            member="etcd-v{version}-linux-{arch}/etcd",
        ),
    ),
    _kubernetes("kube-apiserver"),
    _kubernetes("kube-controller-manager"),
    _kubernetes("kube-scheduler"),
    _kubernetes("kubelet"),
    _kubernetes("kube-proxy"),
    _kubernetes("kubectl", "version", "--client"),
    Tool(
        name="helm",
        folder=GOTOOLS / "helm",
        module_path="helm.sh/helm/v3",
        package="helm.sh/helm/v3/cmd/helm",
        version_arguments=("version", "--short"),
        version_variables=("helm.sh/helm/v3/internal/version.version=v{version}",),
        release=Release(
            url="https://get.helm.sh/helm-v{version}-linux-{arch}.tar.gz",
            checksums_url="https://get.helm.sh/helm-v{version}-linux-{arch}.tar.gz.sha256sum",
            member="linux-{arch}/helm",
        ),
    ),
    Tool(
        name="coredns",
        folder=GOTOOLS / "coredns",
        module_path="github.com/coredns/coredns",
        package="github.com/coredns/coredns",
        version_arguments=("-version",),
        release=Release(
            url=_RELEASES + "/coredns/coredns/releases/download/v{version}/coredns_{version}_linux_{arch}.tgz",
            checksums_url=_RELEASES
            + "/coredns/coredns/releases/download/v{version}/coredns_{version}_linux_{arch}.tgz.sha256",
            member="coredns",
        ),
    ),
    Tool(
        name="prometheus",
        folder=GOTOOLS / "prometheus",
        module_path="github.com/prometheus/prometheus",
        package="github.com/prometheus/prometheus/cmd/prometheus",
        version_offset="v0.3",
        version_variables=("github.com/prometheus/common/version.Version={version}",),
        tags=("netgo", "remove_all_sd", "enable_kubernetes_sd"),
        release=Release(
            url=_RELEASES
            + "/prometheus/prometheus/releases/download/v{version}/prometheus-{version}.linux-{arch}.tar.gz",
            checksums_url=_RELEASES + "/prometheus/prometheus/releases/download/v{version}/sha256sums.txt",
            member="prometheus-{version}.linux-{arch}/prometheus",
        ),
    ),
    Tool(
        name="versitygw",
        folder=GOTOOLS / "versitygw",
        module_path="github.com/versity/versitygw",
        package="github.com/versity/versitygw/cmd/versitygw",
        version_variables=("main.Version={version}",),
        release=Release(
            url=_RELEASES
            + "/versity/versitygw/releases/download/v{version}/versitygw_v{version}_Linux_{machine}.tar.gz",
            checksums_url=_RELEASES + "/versity/versitygw/releases/download/v{version}/checksums.txt",
            member="versitygw_v{version}_Linux_{machine}/versitygw",
        ),
    ),
    Tool(
        name="traefik",
        folder=GOTOOLS / "traefik",
        module_path="github.com/traefik/traefik/v3",
        package="github.com/traefik/traefik/v3/cmd/traefik",
        version_arguments=("version",),
        version_variables=("github.com/traefik/traefik/v3/pkg/version.Version={version}",),
        release=Release(
            url=_RELEASES + "/traefik/traefik/releases/download/v{version}/traefik_v{version}_linux_{arch}.tar.gz",
            checksums_url=_RELEASES + "/traefik/traefik/releases/download/v{version}/traefik_v{version}_checksums.txt",
            member="traefik",
        ),
    ),
    Tool(
        name="pause",
        folder=GOTOOLS / "pause",
        package="rung.dev/devcluster/pause",
        found_on_path=False,
    ),
)
CATALOGUE: Mapping[str, Tool] = {tool.name: tool for tool in _TOOLS}


def find_tool(name: str) -> Tool:
    """Return the tool of that name.

    Raises UnknownToolError, with the names that there are.
    """
    try:
        return CATALOGUE[name]
    except KeyError:
        raise UnknownToolError(f"there is no tool `{name}`; there are: {', '.join(CATALOGUE)}") from None


def go_architecture() -> str:
    """Return the machine's architecture as Go names it: amd64, arm64, or whatever the kernel says."""
    machine = platform.machine().lower()
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def filled(template: str, tool: Tool) -> str:
    """Fill a template of a Release for this machine."""
    arch = go_architecture()
    machine = "x86_64" if arch == "amd64" else arch
    return template.format(version=tool.version, arch=arch, machine=machine)


@cache
def _pinned_version(folder: Path, module_path: str) -> str:
    if not module_path:
        return "v0.1.0"
    text = (folder / "go.mod").read_text()
    match = re.search(rf"^(?:require\s+|\t){re.escape(module_path)}\s+(v\S+)", text, re.MULTILINE)
    if match is None:
        raise UnknownToolError(f"{folder / 'go.mod'} does not require {module_path}")
    return match[1]


def _release_version(module_version: str, offset: str) -> str:
    if offset:
        minor, _, patch = module_version.removeprefix(offset).partition(".")
        return f"3.{int(minor)}.{patch}"
    return module_version.removeprefix("v")
