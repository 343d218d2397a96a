"""The Kubernetes API: reading Rung's objects, writing their status, posting events, registering versions.

Watching is kopf's work. Every call here has a deadline and ends in an answer or in one of four errors, so that an API
server that is slow, away or refuses costs bounded time and one clear sentence.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration, CustomObjectsApi

from rung.adapters.event_series import EventSeries, shortened
from rung.adapters.gateway import Gateways
from rung.adapters.jobs import Jobs
from rung.adapters.kubernetes_calls import Conflict, KubernetesError, NotFound, Refused, Unavailable, answered, send
from rung.adapters.pods import Pods
from rung.api import GROUP, VERSION, InferenceTask, InvalidObject, ModelVersion, ServingPool
from rung.api.base import API_VERSION, Resource
from rung.api.parse import KINDS, parse

__all__ = [
    "Cluster",
    "Conflict",
    "EventRecord",
    "KubernetesError",
    "Listing",
    "NotFound",
    "Refused",
    "Registration",
    "Unavailable",
    "connect",
]

DEADLINE_SECONDS = 5.0
_CONFIG_DEADLINE_SECONDS = 30.0  # a kubeconfig may name a program that fetches a token
_UPDATE_ATTEMPTS = 5
_PAGE = 500
_METADATA_ONLY = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
_JSON_PATCH = "application/json-patch+json"
_PLURALS = {model.NAMES.kind: model.NAMES.plural for model in KINDS}
_EVENTS = ("events.k8s.io", "v1")

_ResourceType = TypeVar("_ResourceType", bound=Resource)


class Registration(StrEnum):
    """What registering a version changed."""

    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class Listing(Generic[_ResourceType]):
    """The objects that could be read, and what is wrong with the others."""

    objects: tuple[_ResourceType, ...]
    invalid: tuple[InvalidObject, ...] = ()


@dataclass(frozen=True, slots=True)
class EventRecord:
    """One event as the API server keeps it. The same event seen again raises its count."""

    reason: str
    note: str
    warning: bool
    first_seen: datetime
    last_seen: datetime
    count: int


class Cluster:
    """One API server. Make it with `connect`."""

    def __init__(
        self, client: ApiClient, *, namespace: str = "default", deadline_seconds: float = DEADLINE_SECONDS
    ) -> None:
        self.namespace = namespace
        """The namespace that the kubeconfig's context names."""
        self.jobs = Jobs(client, deadline_seconds)
        """Jobs and what belongs to them."""
        self.pods = Pods(client, deadline_seconds)
        """The readiness of servers."""
        self.gateways = Gateways(client, deadline_seconds)
        """What leads to servers, where a Gateway of the cluster's does."""
        self._api = CustomObjectsApi(client)
        self._deadline_seconds = deadline_seconds
        self._instance = socket.gethostname()[:128] or "rung"
        self._series = EventSeries()

    async def list_tasks(self, namespace: str | None = None) -> Listing[InferenceTask]:
        """Return the tasks of a namespace, or of all. Raises KubernetesError."""
        return await self._list(InferenceTask, namespace)

    async def list_versions(self, namespace: str | None = None) -> Listing[ModelVersion]:
        """Return the versions of a namespace, or of all. Raises KubernetesError."""
        return await self._list(ModelVersion, namespace)

    async def list_pools(self, namespace: str | None = None) -> Listing[ServingPool]:
        """Return the pools of a namespace, or of all. Raises KubernetesError."""
        return await self._list(ServingPool, namespace)

    async def list_uids(self, plural: str, namespace: str = "") -> frozenset[str]:
        """Return the uids of all objects of a kind, Rung's or Kubernetes' own, that there are at this moment.

        In one namespace, or in all. Raises KubernetesError.
        """
        root = f"/apis/{GROUP}/{VERSION}" if plural in _PLURALS.values() else "/api/v1"
        path = f"{root}/namespaces/{namespace}/{plural}" if namespace else f"{root}/{plural}"
        client = self._api.api_client
        uids: set[str] = set()
        token = ""
        while True:
            query = {"limit": _PAGE, "continue": token}
            answer = await self._call(f"listing {plural}", send(client, "GET", path, query, accept=_METADATA_ONLY))
            try:
                uids.update(item["metadata"]["uid"] for item in answer.get("items") or ())
                token = (answer.get("metadata") or {}).get("continue") or ""
            except (KeyError, TypeError, AttributeError) as error:
                raise Unavailable(f"listing {plural}: the answer is no list of objects ({error!s:.100})") from None
            if not token:
                return frozenset(uids)

    async def read_task(self, namespace: str, name: str) -> InferenceTask:
        """Return one task. Raises NotFound and other KubernetesError, InvalidObject when it can't be read."""
        return parse(await self._read(InferenceTask.NAMES.kind, namespace, name), InferenceTask)

    async def read_version(self, namespace: str, name: str) -> ModelVersion:
        """Return one version. Raises NotFound and other KubernetesError, InvalidObject when it can't be read."""
        return parse(await self._read(ModelVersion.NAMES.kind, namespace, name), ModelVersion)

    async def read_pool(self, namespace: str, name: str) -> ServingPool:
        """Return one pool. Raises NotFound and other KubernetesError, InvalidObject when it can't be read."""
        return parse(await self._read(ServingPool.NAMES.kind, namespace, name), ServingPool)

    async def patch_status(
        self, kind: str, namespace: str, name: str, status: Mapping[str, Any], *, uid: str | None = None
    ) -> None:
        """Make this the whole status of an object. With `uid`, only of that very object.

        The status is replaced, not merged, so nothing of an older one lingers; and by JSON patch, not by server-side
        apply, because the latter fails whole when the installed CRD is older than the operator and lacks a field.

        Raises NotFound, Conflict when another object has that name now, Refused, Unavailable.
        """
        what = f"writing the status of {kind} {namespace}/{name}"
        patch: list[dict[str, Any]] = [{"op": "add", "path": "/status", "value": dict(status)}]
        if uid is not None:
            patch.insert(0, {"op": "test", "path": "/metadata/uid", "value": uid})
        try:
            # Often called, and the client's own function takes several times as long to check what it is given.
            path = f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{_PLURALS[kind]}/{name}/status"
            await self._call(what, send(self._api.api_client, "PATCH", path, {}, patch, content_type=_JSON_PATCH))
        except Refused:
            # A failed `test` reads like any other refusal; what tells it apart is the object that is there.
            if uid is not None and (await self._read(kind, namespace, name))["metadata"]["uid"] != uid:
                raise Conflict(f"{what}: another object has that name now") from None
            raise

    async def create_event(
        self,
        *,
        kind: str,
        namespace: str,
        name: str,
        uid: str | None,
        reason: str,
        note: str,
        warning: bool = False,
        action: str = "",
    ) -> None:
        """Post an event about an object. `note` is cut at 1 kB.

        The same event again raises the count of the first one; so does one more of a reason that already fills the
        object's list (see EventSeries). Raises KubernetesError.
        """
        note = shortened(note)
        kept = self._series.admit(uid or f"{kind}/{namespace}/{name}", name, reason, note)
        if kept is None:
            return
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        repeats = kept.unwritten
        body = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": kept.event_name, "namespace": namespace},
            "eventTime": now,
            "type": "Warning" if warning else "Normal",
            "reason": reason,
            "note": note,
            "action": action or reason,
            "regarding": {
                "apiVersion": API_VERSION,
                "kind": kind,
                "namespace": namespace,
                "name": name,
                **({"uid": uid} if uid else {}),
            },
            "reportingController": f"{GROUP}/operator",
            "reportingInstance": self._instance,
        }
        what = f"posting the event {reason} of {kind} {namespace}/{name}"
        try:
            path = f"/apis/{'/'.join(_EVENTS)}/namespaces/{namespace}/events"
            await self._call(what, send(self._api.api_client, "POST", path, {}, body))
        except Conflict:  # it is there already: from before, or from an earlier run of the operator
            await self._count_up(what, namespace, kept.event_name, 1 + repeats, now)
        self._series.written(kept, repeats)

    async def list_events(self, kind: str, namespace: str, name: str) -> tuple[EventRecord, ...]:
        """Return the events about an object, the one seen last at the end. Raises KubernetesError."""
        selector = f"regarding.kind={kind},regarding.name={name}"
        answer = await self._call(
            f"listing the events of {kind} {namespace}/{name}",
            self._api.list_namespaced_custom_object(*_EVENTS, namespace, "events", field_selector=selector),
        )
        return tuple(sorted((_event(raw) for raw in answer.get("items") or ()), key=lambda event: event.last_seen))

    async def register_version(self, version: ModelVersion) -> Registration:
        """Create a version, or bring it up to date; doing it again changes nothing. Labels are added, never removed.

        Raises Refused when what can't change differs (another file under the same number), and KubernetesError.
        """
        kind, plural = version.NAMES.kind, version.NAMES.plural
        what = f"registering {kind} {version.namespace}/{version.name}"
        manifest = version.to_manifest()
        for key in ("uid", "generation"):
            manifest["metadata"].pop(key, None)
        where = (GROUP, VERSION, version.namespace, plural)
        for _ in range(_UPDATE_ATTEMPTS):
            try:
                present = await self._read(kind, version.namespace, version.name)
            except NotFound:
                try:
                    await self._call(
                        what, self._api.create_namespaced_custom_object(*where, manifest, field_validation="Strict")
                    )
                except Conflict:  # someone created it since
                    continue
                return Registration.CREATED
            wanted = _updated(present, manifest, what)
            if wanted == present:
                return Registration.UNCHANGED
            try:
                await self._call(
                    what,
                    self._api.replace_namespaced_custom_object(*where, version.name, wanted, field_validation="Strict"),
                )
            except Conflict:
                continue
            return Registration.UPDATED
        raise Conflict(f"{what}: it was changed by someone else {_UPDATE_ATTEMPTS} times in a row")

    async def _count_up(self, what: str, namespace: str, event_name: str, more: int, now: str) -> None:
        path = (*_EVENTS, namespace, "events", event_name)
        present = await self._call(what, self._api.get_namespaced_custom_object(*path))
        count = (present.get("series") or {}).get("count", 1) + more
        patch = {"series": {"count": count, "lastObservedTime": now}}
        await self._call(
            what,
            self._api.patch_namespaced_custom_object(*path, patch, _content_type="application/merge-patch+json"),
        )

    async def _read(self, kind: str, namespace: str, name: str) -> dict[str, Any]:
        return await self._call(
            f"reading {kind} {namespace}/{name}",
            self._api.get_namespaced_custom_object(GROUP, VERSION, namespace, _PLURALS[kind], name),
        )

    async def _list(self, model: type[_ResourceType], namespace: str | None) -> Listing[_ResourceType]:
        plural = model.NAMES.plural
        if namespace is None:
            call = self._api.list_cluster_custom_object(GROUP, VERSION, plural)
        else:
            call = self._api.list_namespaced_custom_object(GROUP, VERSION, namespace, plural)
        objects, invalid = [], []
        for raw in (await self._call(f"listing {plural}", call)).get("items") or ():
            try:
                objects.append(parse(raw, model))
            except InvalidObject as error:
                invalid.append(error)
        return Listing(tuple(objects), tuple(invalid))

    async def _call(self, what: str, call: Awaitable[object]) -> dict[str, Any]:
        return await answered(what, call, self._deadline_seconds)


@asynccontextmanager
async def connect(
    kubeconfig: Path | None = None, *, context: str | None = None, deadline_seconds: float = DEADLINE_SECONDS
) -> AsyncIterator[Cluster]:
    """Connect to the API server of a kubeconfig; without one: KUBECONFIG, else the pod's own, else ~/.kube/config.

    Nothing is sent before the first call. Raises Unavailable when no cluster is configured.
    """
    configuration = Configuration()
    namespace = await _configure(configuration, str(kubeconfig) if kubeconfig else None, context)
    async with ApiClient(configuration) as client:
        yield Cluster(client, namespace=namespace, deadline_seconds=deadline_seconds)


_POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_kubeconfigs: Any = config  # its functions have no types


def _pod_namespace() -> str:
    return _POD_NAMESPACE.read_text().strip() if _POD_NAMESPACE.exists() else "default"


def _is_there(kubeconfig: str) -> bool:
    return any(Path(each).expanduser().is_file() for each in kubeconfig.split(os.pathsep))


def _home_kubeconfig() -> str:
    return str(Path("~/.kube/config").expanduser())


async def _configure(configuration: Configuration, kubeconfig: str | None, context: str | None) -> str:
    file = kubeconfig or os.environ.get("KUBECONFIG")
    try:
        if not file and os.environ.get("KUBERNETES_SERVICE_HOST"):
            _kubeconfigs.load_incluster_config(client_configuration=configuration)
            return _pod_namespace()
        file = file or _home_kubeconfig()
        if not _is_there(file):
            raise Unavailable(f"no cluster: there is no file {file}; set KUBECONFIG to the kubeconfig of your cluster")
        async with asyncio.timeout(_CONFIG_DEADLINE_SECONDS):
            await _kubeconfigs.load_kube_config(file, context, client_configuration=configuration)
        contexts, current = _kubeconfigs.list_kube_config_contexts(file)
    except (config.ConfigException, OSError, ValueError, TypeError, KeyError, yaml.YAMLError) as error:
        where = f"the kubeconfig {file}" if file else "the pod's service account"
        raise Unavailable(f"no cluster: {where} can't be used: {error}; set KUBECONFIG") from None
    chosen = next((each for each in contexts if each["name"] == context), current)
    return str(chosen["context"].get("namespace") or "default")


def _updated(present: Mapping[str, Any], manifest: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Return the object that is there, with the new spec and labels. Raises Refused when what can't change differs."""
    before, after = present.get("spec") or {}, manifest["spec"]
    for path in (("taskRef", "name"), ("version",), ("artifact", "sha256")):
        old, new = _at(before, path), _at(after, path)
        if old != new:
            raise Refused(
                f"{what}: it exists with {'.'.join(path)} {old}, not {new}; that can't change: publish another version"
            )
    labels = {**(present["metadata"].get("labels") or {}), **manifest["metadata"].get("labels", {})}
    metadata = {**present["metadata"], **({"labels": labels} if labels else {})}
    return {**present, "metadata": metadata, "spec": after}


def _at(value: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _event(raw: Mapping[str, Any]) -> EventRecord:
    series = raw.get("series") or {}
    # Events that were posted through the old core API have no eventTime.
    first = raw.get("eventTime") or raw.get("deprecatedFirstTimestamp") or raw["metadata"]["creationTimestamp"]
    last = series.get("lastObservedTime") or raw.get("deprecatedLastTimestamp") or first
    return EventRecord(
        reason=raw.get("reason") or "",
        note=raw.get("note") or "",
        warning=raw.get("type") == "Warning",
        first_seen=datetime.fromisoformat(first),
        last_seen=datetime.fromisoformat(last),
        count=series.get("count") or raw.get("deprecatedCount") or 1,
    )
