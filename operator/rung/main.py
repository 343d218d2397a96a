"""Every kopf decorator, and nothing else: feeds the cluster view, and starts a loop for each pool.

Only indices and plain event watches are used. Timers, daemons and change handlers would put finalizers on the objects,
and a finalizer whose operator is gone blocks `kubectl delete` and `helm uninstall` for ever.
"""

from __future__ import annotations

import gc
import logging
import os
import socket
from collections.abc import Collection, Iterator, Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import kopf
from kopf._core.engines.activities import ActivityError
from kopf._core.engines.peering import Identity

from rung.adapters.kubernetes import KubernetesError, connect
from rung.api import GROUP, InvalidObject, parse_pool, parse_porting_job, parse_task, parse_version
from rung.control.http import serve_http
from rung.control.metrics import Metrics
from rung.control.porting_manifests import Templates
from rung.control.supervisor import Supervisor
from rung.control.view import ClusterView, NodeFacts, ServerPod, may_serve, read_node, read_pod
from rung.kopf_start import start_quietly

if TYPE_CHECKING:
    from rung.adapters.xds import XdsServer

logger = logging.getLogger(__name__)


class PatientBackoffs:
    """Pauses between attempts to reach the API server, in seconds: without end, so that the operator outlives it.

    kopf's own list ends after a minute, and the operator with it.
    """

    def __iter__(self) -> Iterator[float]:
        """Yield the pauses."""
        yield from (0.5, 1.0, 2.0)
        while True:
            yield 3.0


def _bodies(body: Mapping[str, Any]) -> dict[str, Any]:
    return {"metadata": dict(body["metadata"]), "spec": body.get("spec"), "status": body.get("status")}


class CannotStart(Exception):  # noqa: N818 - read as a sentence where it is caught
    """The operator could not start; the message says why."""


def build_registry() -> kopf.OperatorRegistry:
    """Return the handlers of one operator, in a registry of its own."""
    registry = kopf.OperatorRegistry()

    @kopf.on.startup(registry=registry)
    async def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
        settings.posting.enabled = False
        settings.persistence.finalizer = f"{GROUP}/finalizer"
        settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=GROUP)
        settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=GROUP)
        settings.watching.server_timeout = 300
        settings.watching.client_timeout = 320
        settings.watching.connect_timeout = 10
        settings.networking.error_backoffs = PatientBackoffs()
        settings.networking.request_timeout = 20
        settings.networking.connect_timeout = 5

    @kopf.on.login(registry=registry)
    def login(**kwargs: Any) -> Any:
        # In the order of `connect`, so that what is watched and what is written is the same cluster.
        if os.environ.get("KUBECONFIG"):
            return kopf.login_with_kubeconfig(**kwargs)
        return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)

    # Coroutines, because kopf calls plain functions in threads, and `refuse` is for the event loop only.
    @kopf.index(GROUP, "servingpools", id="pools", registry=registry)
    async def pools(*, namespace: str | None, name: str, body: kopf.Body, memo: Any, **_: Any) -> Any:
        return _parsed((namespace or "", name), lambda: parse_pool(_bodies(body)), memo)

    @kopf.index(GROUP, "inferencetasks", id="tasks", registry=registry)
    async def tasks(*, namespace: str | None, body: kopf.Body, memo: Any, **_: Any) -> Any:
        pool = ((body.get("spec") or {}).get("poolRef") or {}).get("name", "")
        return _parsed((namespace or "", pool), lambda: parse_task(_bodies(body)), memo)

    @kopf.index(GROUP, "modelversions", id="versions", registry=registry)
    async def versions(*, namespace: str | None, body: kopf.Body, memo: Any, **_: Any) -> Any:
        task = ((body.get("spec") or {}).get("taskRef") or {}).get("name", "")
        return _parsed((namespace or "", task), lambda: parse_version(_bodies(body)), memo)

    @kopf.index(GROUP, "portingjobs", id="porting_jobs", registry=registry)
    async def porting_jobs(*, namespace: str | None, name: str, body: kopf.Body, memo: Any, **_: Any) -> Any:
        return _parsed((namespace or "", name), lambda: parse_porting_job(_bodies(body)), memo)

    @kopf.index("", "v1", "pods", when=lambda *, body, **_: may_serve(body), id="pods", registry=registry)
    async def pods(*, namespace: str | None, body: kopf.Body, **_: Any) -> dict[str, ServerPod]:
        return {namespace or "": read_pod(dict(body))}

    @kopf.index("", "v1", "nodes", id="nodes", registry=registry)
    async def nodes(*, name: str, body: kopf.Body, **_: Any) -> dict[str, NodeFacts]:
        return {name: read_node(dict(body))}

    # Events are handled only once every index is filled, so a loop never starts on half of what there is.
    @kopf.on.event(GROUP, "servingpools", registry=registry)
    async def pool_seen(*, event: Any, namespace: str | None, name: str, memo: Any, **_: Any) -> None:
        await memo.supervisor.pool_seen((namespace or "", name), event["type"])

    @kopf.on.event(GROUP, "inferencetasks", registry=registry)
    async def task_seen(*, event: Any, memo: Any, **_: Any) -> None:
        memo.supervisor.task_seen(event["type"])

    @kopf.on.event(GROUP, "portingjobs", registry=registry)
    async def porting_job_seen(*, event: Any, memo: Any, **_: Any) -> None:
        memo.supervisor.task_seen(event["type"])

    @kopf.on.startup(registry=registry)
    async def begin(memo: Any, **indices: Any) -> None:
        memo.exits = AsyncExitStack()
        try:
            cluster = await memo.exits.enter_async_context(connect())
        except KubernetesError as error:
            raise kopf.PermanentError(str(error)) from error
        names = ("pools", "tasks", "versions", "pods", "nodes", "porting_jobs")
        view = ClusterView(**{name: indices[name] for name in names})
        xds = await _listen_for_balancers(memo)
        supervisor = memo.supervisor = Supervisor(view, cluster, Metrics(), memo.templates, xds)
        supervisor.start()
        try:
            memo.http = await serve_http(memo.listen, supervisor)
        except (OSError, ValueError, OverflowError) as error:
            raise kopf.PermanentError(f"--listen={memo.listen} can't be used: {error}") from error

    @kopf.on.cleanup(registry=registry)
    async def finish(memo: Any, **_: Any) -> None:
        # After a start that failed, some of these are not there.
        if "supervisor" in memo:
            await memo.supervisor.stop()
        if "http" in memo:
            await memo.http.cleanup()
        await memo.exits.aclose()

    return registry


async def _listen_for_balancers(memo: Any) -> XdsServer | None:
    if not memo.balancer_listen:
        return None
    from rung.adapters.xds import XdsServer  # noqa: PLC0415 - Envoy's messages take their memory

    xds = XdsServer()
    memo.exits.push_async_callback(xds.stop)
    try:
        await xds.start(memo.balancer_listen)
    except OSError as error:
        raise kopf.PermanentError(f"--balancer-listen={memo.balancer_listen} can't be used: {error}") from error
    return xds


def _parsed(key: tuple[str, str], parse: Any, memo: Any) -> Any:
    """Parse for an index. An object that can't be read does not change the index, and its owner is told."""
    try:
        return {key: parse()}
    except InvalidObject as error:
        # What the object was when it could be read is kept by the index, and goes on counting.
        memo.supervisor.refuse(error)
        return None


COLLECT_AFTER_OBJECTS = 100_000
"""Each pass makes tens of thousands of samples that are no garbage yet, and next to nothing here is in cycles: with
Python's own 700 a third of the operator's CPU would go into looking for them."""


def run(
    *,
    namespaces: Collection[str],
    clusterwide: bool,
    listen: str,
    balancer_listen: str | None = None,
    templates: Templates | None = None,
) -> None:
    """Run the operator until it is told to stop (SIGTERM, SIGINT). Raises CannotStart with a sentence."""
    start_quietly()
    gc.set_threshold(COLLECT_AFTER_OBJECTS, 20, 20)
    memo = kopf.Memo(listen=listen, balancer_listen=balancer_listen, templates=templates)
    try:
        kopf.run(
            registry=build_registry(),
            namespaces=namespaces,
            clusterwide=clusterwide,
            standalone=True,
            # By default kopf looks the user's name up, and the one in a container has none.
            identity=Identity(f"rung@{socket.gethostname()}"),
            memo=memo,
        )
    except ActivityError as error:
        faults = [str(outcome.exception) for outcome in error.outcomes.values() if outcome.exception is not None]
        raise CannotStart("; ".join(faults)) from error
