"""What a Gateway's controller is told: one Service for each server, and routes with weights to them. And who follows.

A model over HTTP is known by its path. Over gRPC its name is in the message, which no Gateway reads: a client that
names it in the header `x-rung-model` gets the model's own split, everybody else what is right for all of the pool's.

Manifests are of https://gateway-api.sigs.k8s.io (v1), written by server-side apply.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from rung.adapters.kubernetes_calls import ApiPart, NotFound
from rung.adapters.xds_resources import MODEL_HEADER

Manifest = dict[str, Any]
Key = tuple[str, str]
"""Kind and name."""

POOL_LABEL = "rung.dev/gateway-of"
"""On everything that is written for a pool."""
GATEWAY_API = "gateway.networking.k8s.io/v1"
GRPC_PORT, HTTP_PORT = 8001, 8000
MOST_BACKENDS = 16
"""Of a rule, by the Gateway API: the servers with the highest weights."""
FIELD_MANAGER = "rung"
_APPLY = "application/apply-patch+yaml"
_PLURALS = {
    "Service": ("/api/v1", "services"),
    "EndpointSlice": ("/apis/discovery.k8s.io/v1", "endpointslices"),
    "HTTPRoute": (f"/apis/{GATEWAY_API}", "httproutes"),
    "GRPCRoute": (f"/apis/{GATEWAY_API}", "grpcroutes"),
}
KINDS = tuple(_PLURALS)
ROUTES = ("HTTPRoute", "GRPCRoute")
_SERVICES = ("inference.GRPCInferenceService", "grpc.health.v1.Health")
"""What Triton answers over gRPC. A route that named none would take HTTP requests, too."""
_DNS_LABEL = 63
_LONGEST_REASON = 300


@dataclass(frozen=True, slots=True)
class Parent:
    """The Gateway whose listeners the routes belong to."""

    name: str
    namespace: str | None = None
    section: str | None = None
    hostnames: tuple[str, ...] = ()
    grpc_section: str | None = None
    """Where gRPC comes in; None: where HTTP does."""
    grpc_hostnames: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Server:
    """One server that can be led to."""

    name: str
    uid: str
    """Of its pod, with which its Service goes."""
    ip: str
    grpc_port: int
    http_port: int


@dataclass(frozen=True, slots=True)
class Site:
    """A pool as its Gateway has to know it."""

    namespace: str
    pool: str
    pool_uid: str
    parent: Parent
    servers: tuple[Server, ...]
    weights: Mapping[str, Mapping[str, int]]
    """By model, by name of the server; 0: nothing for now. A model that no server has, has none."""


def manifests(site: Site) -> list[Manifest]:
    """Return everything that a pool's Gateway needs, Services before the routes that name them."""
    found = [each for server in site.servers for each in (_service(site, server), _slice(site, server))]
    for model, weights in site.weights.items():
        path = {"path": {"type": "PathPrefix", "value": f"/v2/models/{model}"}}
        header = {"method": {"service": _SERVICES[0]}, "headers": [{"name": MODEL_HEADER, "value": model}]}
        found.append(_route(site, "HTTPRoute", route_name(site.pool, model), [path], weights, HTTP_PORT))
        found.append(_route(site, "GRPCRoute", route_name(site.pool, model), [header], weights, GRPC_PORT))
    everything = _for_every_model(site)
    services = [{"method": {"service": service}} for service in _SERVICES]
    found.append(_route(site, "GRPCRoute", route_name(site.pool), services, everything, GRPC_PORT))
    found.append(_route(site, "HTTPRoute", route_name(site.pool), [], everything, HTTP_PORT))
    return found


def _for_every_model(site: Site) -> dict[str, int]:
    """Return the weights of the servers that answer every model that any does; of all, where none may answer them."""
    models = [weights for weights in site.weights.values() if weights]
    names = [server.name for server in site.servers]
    sums = {name: sum(weights.get(name, 0) for weights in models) for name in names}
    whole = {name: sums[name] for name in names if all(name in weights for weights in models)}
    chosen = whole if any(whole.values()) else sums
    if not any(chosen.values()):
        return dict.fromkeys(names, 1)
    return {name: -(-each // max(1, len(models))) for name, each in chosen.items()}


def route_name(pool: str, model: str = "") -> str:
    """Return the name of a model's routes; without one, of those for all others.

    With a hash: "a-b" of pool "c" and "b" of pool "c-a" are two.
    """
    return "-".join(each for each in (pool, model, _hash(f"{pool}/{model}")) if each)


def _hash(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:6]


def _metadata(site: Site, name: str, owner: Mapping[str, str], labels: Mapping[str, str] | None = None) -> Manifest:
    return {
        "name": name,
        "namespace": site.namespace,
        "labels": {POOL_LABEL: _label(site.pool), **(labels or {})},
        "ownerReferences": [dict(owner)],
    }


def service_name(server: str) -> str:
    """Return the name of the Service that leads to one server; pods' names may be longer than Services'."""
    return _label(f"rung-{server}".replace(".", "-"), server)


def _label(name: str, of: str = "") -> str:
    """Return a name that is short enough for a label, and still another one for every name (or what it is `of`)."""
    if len(name) <= _DNS_LABEL and (not of or name.endswith(of)):
        return name
    return f"{name[: _DNS_LABEL - 7].rstrip('-.')}-{_hash(of or name)}"


def _owned_by_pod(server: Server) -> dict[str, str]:
    return {"apiVersion": "v1", "kind": "Pod", "name": server.name, "uid": server.uid}


def _service(site: Site, server: Server) -> Manifest:
    ports = [
        {"name": "grpc", "port": GRPC_PORT, "protocol": "TCP", "appProtocol": "kubernetes.io/h2c"},
        {"name": "http", "port": HTTP_PORT, "protocol": "TCP"},
    ]
    metadata = _metadata(site, service_name(server.name), _owned_by_pod(server))
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": ports}}


def _slice(site: Site, server: Server) -> Manifest:
    name = service_name(server.name)
    labels = {"kubernetes.io/service-name": name, "endpointslice.kubernetes.io/managed-by": "rung.dev"}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": _metadata(site, name, _owned_by_pod(server), labels),
        "addressType": "IPv6" if ":" in server.ip else "IPv4",
        "endpoints": [{"addresses": [server.ip], "conditions": {"ready": True}}],
        "ports": [
            {"name": "grpc", "port": server.grpc_port, "protocol": "TCP", "appProtocol": "kubernetes.io/h2c"},
            {"name": "http", "port": server.http_port, "protocol": "TCP"},
        ],
    }


def _route(
    site: Site, kind: str, name: str, matches: Sequence[Manifest], weights: Mapping[str, int], port: int
) -> Manifest:
    parent, is_grpc = site.parent, kind == "GRPCRoute"
    section = (parent.grpc_section if is_grpc else None) or parent.section
    hostnames = (parent.grpc_hostnames if is_grpc else ()) or parent.hostnames
    owner = {"apiVersion": "rung.dev/v1alpha1", "kind": "ServingPool", "name": site.pool, "uid": site.pool_uid}
    heaviest = sorted(weights.items(), key=lambda each: (-each[1], each[0]))[:MOST_BACKENDS]
    backends = [{"name": service_name(server), "port": port, "weight": weight} for server, weight in sorted(heaviest)]
    rule: Manifest = {"backendRefs": backends, **({"matches": list(matches)} if matches else {})}
    reference = {"name": parent.name, "namespace": parent.namespace, "sectionName": section}
    spec: Manifest = {"parentRefs": [{key: value for key, value in reference.items() if value}], "rules": [rule]}
    if hostnames:
        spec["hostnames"] = list(hostnames)
    return {"apiVersion": GATEWAY_API, "kind": kind, "metadata": _metadata(site, name, owner), "spec": spec}


def why_not_accepted(route: Mapping[str, Any], parent: Parent) -> str:
    """Say why a Gateway's controller has not taken a route as it is now; empty when it has."""
    metadata = route["metadata"]
    why = "no controller has said anything of it: is there such a Gateway?"
    for told in (route.get("status") or {}).get("parents") or ():
        named = told.get("parentRef") or {}
        own = metadata.get("namespace")
        if (named.get("name"), named.get("namespace") or own) != (parent.name, parent.namespace or own):
            continue
        conditions = {each.get("type"): each for each in told.get("conditions") or ()}
        accepted, resolved = conditions.get("Accepted") or {}, conditions.get("ResolvedRefs") or {}
        refused = next((each for each in (accepted, resolved) if each.get("status") == "False"), None)
        if accepted.get("observedGeneration", 0) < metadata.get("generation", 0):
            why = "its controller has not looked at it yet"
        elif refused:
            why = f"{refused.get('reason', '')}: {refused.get('message', '')}"
        elif accepted.get("status") == "True":
            return ""
    return why[:_LONGEST_REASON]


class Gateways(ApiPart):
    """What is written for Gateways at one API server."""

    async def apply(self, manifest: Manifest) -> Manifest:
        """Make an object so, or create it; returns it. Raises KubernetesError; NotFound where there is no such kind."""
        metadata = manifest["metadata"]
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        path = _path(manifest["kind"], metadata["namespace"], metadata["name"])
        what = f"writing {manifest['kind']} {metadata['namespace']}/{metadata['name']}"
        return await self._send(what, "PATCH", path, query, manifest, content_type=_APPLY)

    async def list(self, namespace: str, pool: str, kinds: Sequence[str] = KINDS) -> dict[Key, Manifest]:
        """Return everything that was written for a pool, nothing of kinds that aren't there. Raises KubernetesError."""
        found: dict[Key, Manifest] = {}
        for kind in kinds:
            with suppress(NotFound):
                selector = {"labelSelector": f"{POOL_LABEL}={_label(pool)}"}
                answer = await self._send(f"listing {kind}s", "GET", _path(kind, namespace), selector)
                found.update({(kind, item["metadata"]["name"]): item for item in answer.get("items") or ()})
        return found

    async def delete(self, kind: str, namespace: str, name: str) -> None:
        """Delete an object; that it is gone is no error. Raises KubernetesError."""
        with suppress(NotFound):
            await self._send(f"deleting {kind} {namespace}/{name}", "DELETE", _path(kind, namespace, name))


def _path(kind: str, namespace: str, name: str = "") -> str:
    root, plural = _PLURALS[kind]
    return f"{root}/namespaces/{namespace}/{plural}" + (f"/{name}" if name else "")
