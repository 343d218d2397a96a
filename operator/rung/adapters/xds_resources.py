"""What a balancer has to know, as Envoy's resources: where each model is served, and with which weight. Pure.

A model has a cluster for gRPC and one for HTTP, so that a weight that changes touches no connection (only the endpoints
are sent anew), and a request that one server can't take is tried on another one that has the model. Requests for no
model that is known (health, metadata of the server, an index) go to any server.

Resources are in the JSON form of their messages (https://www.envoyproxy.io/docs/envoy/latest/api-v3/api).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

Resource = dict[str, Any]

MODEL_HEADER = "x-rung-model"
"""The balancer's filter writes the model of a gRPC request here; HTTP has it in the path."""
GRPC, HTTP = "grpc", "http"
"""The route configurations, and the prefixes of the clusters."""
ANY = "*"
"""The cluster of every server; no model is called so."""
CONNECT = "1s"
RETRIES = 2
TRY_ANOTHER_AFTER_LATENCIES = 2.5
"""What one server has not answered after so many times the service level is given to another one, too."""
SHORTEST_TRY_SECONDS = 0.5
NOT_HERE = {GRPC: ("grpc-status", "5"), HTTP: (":status", "404")}
"""How a server says that it has no such model or version, by a header. It may be back and have loaded nothing yet."""
FAILURES_IN_A_ROW = 3
"""A server that fails so often is left out for a while; its health is asked every second all the same."""
LEFT_OUT = "5s"
MANY = 100_000
_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


@dataclass(frozen=True, slots=True)
class Backend:
    """One server as the balancer sees it."""

    host: str
    grpc_port: int
    http_port: int


@dataclass(frozen=True, slots=True)
class Weighted:
    """A server that has a model, and its share of the requests, from 1; 0: it gets none, and answers what it has."""

    backend: Backend
    weight: int = 1


@dataclass(frozen=True, slots=True)
class ModelRoute:
    """Where the requests of one model go."""

    model: str
    slo_latency_seconds: float
    servers: tuple[Weighted, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Everything that one balancer has to know."""

    backends: tuple[Backend, ...] = ()
    routes: tuple[ModelRoute, ...] = ()


def clusters(table: Table) -> list[Resource]:
    """Return the clusters: for each model, and for any, of each protocol."""
    return [_cluster(protocol, model) for protocol in (GRPC, HTTP) for model in (ANY, *_models(table))]


def endpoints(table: Table) -> list[Resource]:
    """Return the endpoints of each cluster."""
    everywhere = [Weighted(backend) for backend in table.backends]
    served = [(ANY, everywhere), *((route.model, route.servers) for route in table.routes)]
    return [_endpoints(protocol, model, servers) for protocol in (GRPC, HTTP) for model, servers in served]


def routes(table: Table) -> list[Resource]:
    """Return the route configurations, named as the protocols."""
    return [_configuration(protocol, table.routes) for protocol in (GRPC, HTTP)]


def _models(table: Table) -> list[str]:
    return [route.model for route in table.routes]


def _cluster(protocol: str, model: str) -> Resource:
    version = "http2_protocol_options" if protocol == GRPC else "http_protocol_options"
    return {
        "name": f"{protocol}/{model}",
        "type": "EDS",
        "eds_cluster_config": {"eds_config": {"ads": {}, "resource_api_version": "V3"}},
        "connect_timeout": CONNECT,
        # Of two servers the one with fewer requests under way: a queue that grows gets no more.
        "lb_policy": "LEAST_REQUEST",
        "typed_extension_protocol_options": {
            _OPTIONS: {"@type": f"type.googleapis.com/{_OPTIONS}", "explicit_http_config": {version: {}}}
        },
        "health_checks": [
            {
                "timeout": "2s",
                "interval": "1s",
                "unhealthy_threshold": 2,
                "healthy_threshold": 1,
                "http_health_check": {"path": "/v2/health/ready"},
            }
        ],
        # By default three requests at a time may be tried again, and a thousand be under way. More than a share of
        # those that are there must not be: where all is late, what is asked twice makes it worse.
        "circuit_breakers": {
            "thresholds": [
                {
                    "retry_budget": {"budget_percent": {"value": 20}, "min_retry_concurrency": 20},
                    "max_requests": MANY,
                    "max_pending_requests": MANY,
                }
            ]
        },
        "outlier_detection": {
            "consecutive_gateway_failure": FAILURES_IN_A_ROW,
            "enforcing_consecutive_gateway_failure": 100,
            "enforcing_consecutive_5xx": 0,
            "enforcing_success_rate": 0,
            "base_ejection_time": LEFT_OUT,
            "max_ejection_percent": 50,
        },
    }


def _endpoints(protocol: str, model: str, servers: Iterable[Weighted]) -> Resource:
    found = []
    for server in servers:
        backend = server.backend
        port = backend.grpc_port if protocol == GRPC else backend.http_port
        endpoint: Resource = {"address": _address(backend.host, port)}
        if protocol == GRPC:
            endpoint["health_check_config"] = {"port_value": backend.http_port}
        found.append(
            {
                "endpoint": endpoint,
                "health_status": "HEALTHY" if server.weight > 0 else "DRAINING",
                "load_balancing_weight": max(1, server.weight),
            }
        )
    return {"cluster_name": f"{protocol}/{model}", "endpoints": [{"lb_endpoints": found}]}


def _configuration(protocol: str, models: Iterable[ModelRoute]) -> Resource:
    found = [_route(protocol, each) for each in models]
    anywhere = {"match": {"prefix": "/"}, "route": {"cluster": f"{protocol}/{ANY}", "timeout": "0s"}}
    return {"name": protocol, "virtual_hosts": [{"name": protocol, "domains": ["*"], "routes": [*found, anywhere]}]}


def _route(protocol: str, route: ModelRoute) -> Resource:
    if protocol == GRPC:
        named = {"name": MODEL_HEADER, "string_match": {"exact": route.model}}
        match: Resource = {"prefix": "/", "headers": [named]}
    else:
        match = {"path_separated_prefix": f"/v2/models/{route.model}"}
    header, value = NOT_HERE[protocol]
    try_seconds = max(SHORTEST_TRY_SECONDS, TRY_ANOTHER_AFTER_LATENCIES * route.slo_latency_seconds)
    return {
        "match": match,
        "route": {
            "cluster": f"{protocol}/{route.model}",
            # How long a client waits is the client's to say.
            "timeout": "0s",
            "retry_policy": {
                "retry_on": "connect-failure,refused-stream,reset,unavailable,gateway-error,retriable-headers",
                "retriable_headers": [{"name": header, "string_match": {"exact": value}}],
                "num_retries": RETRIES,
                "per_try_timeout": f"{try_seconds:.3f}s",
                "retry_host_predicate": [
                    {
                        "name": "envoy.retry_host_predicates.previous_hosts",
                        "typed_config": {
                            "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3"
                            ".PreviousHostsPredicate"
                        },
                    }
                ],
                # The one that failed has fewest requests under way, so it is drawn again and again.
                "host_selection_retry_max_attempts": 40,
            },
            # The first try goes on beside the second: whichever answers first is what the client gets.
            "hedge_policy": {"hedge_on_per_try_timeout": True},
        },
    }


def _address(host: str, port: int) -> Resource:
    return {"socket_address": {"address": host, "port_value": port}}
