"""What is written for a Gateway of the cluster's own."""

from __future__ import annotations

from typing import Any

import pytest

from rung.adapters.gateway import MOST_BACKENDS, Parent, Server, Site, is_accepted, manifests, service_name


def site(weights: dict[str, dict[str, int]], servers: int = 2, **parent: Any) -> Site:
    made = tuple(Server(f"triton-{n}", f"uid-{n}", f"10.0.0.{n}", 8101, 8100) for n in range(servers))
    return Site("edge", "pool", "pool-uid", Parent("gate", **parent), made, weights)


def named(found: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(each["kind"], each["metadata"]["name"]): each for each in found}


def backends(route: dict[str, Any]) -> dict[str, int]:
    (rule,) = route["spec"]["rules"]
    return {each["name"]: each["weight"] for each in rule["backendRefs"]}


def test_every_server_has_a_service_that_goes_with_its_pod() -> None:
    found = named(manifests(site({})))
    service, leads = found["Service", "rung-triton-0"], found["EndpointSlice", "rung-triton-0"]
    assert "selector" not in service["spec"]
    assert leads["metadata"]["labels"]["kubernetes.io/service-name"] == "rung-triton-0"
    assert leads["endpoints"][0]["addresses"] == ["10.0.0.0"]
    assert {port["name"]: port["port"] for port in leads["ports"]} == {"grpc": 8101, "http": 8100}
    assert {port["name"]: port["port"] for port in service["spec"]["ports"]} == {"grpc": 8001, "http": 8000}
    for each in (service, leads):
        assert each["metadata"]["ownerReferences"][0]["uid"] == "uid-0"


def test_a_model_has_its_weights_over_http_by_path_and_over_grpc_by_header() -> None:
    found = named(manifests(site({"digits": {"triton-0": 1000, "triton-1": 250}})))
    http, grpc = found["HTTPRoute", "pool-digits"], found["GRPCRoute", "pool-digits"]
    weights = {"rung-triton-0": 1000, "rung-triton-1": 250}
    assert backends(http) == backends(grpc) == weights
    assert http["spec"]["rules"][0]["matches"] == [{"path": {"type": "PathPrefix", "value": "/v2/models/digits"}}]
    assert grpc["spec"]["rules"][0]["matches"] == [{"headers": [{"name": "x-rung-model", "value": "digits"}]}]
    assert {each["port"] for each in grpc["spec"]["rules"][0]["backendRefs"]} == {8001}
    assert http["metadata"]["ownerReferences"][0]["uid"] == "pool-uid"


def test_who_names_no_model_is_led_to_the_servers_that_have_all() -> None:
    weights = {"a": {"triton-0": 1000, "triton-1": 500}, "b": {"triton-1": 700}}
    found = named(manifests(site(weights)))
    assert backends(found["GRPCRoute", "pool"]) == {"rung-triton-1": 600}
    assert "matches" not in found["GRPCRoute", "pool"]["spec"]["rules"][0]
    apart = named(manifests(site({"a": {"triton-0": 1}, "b": {"triton-1": 1}})))
    assert set(backends(apart["GRPCRoute", "pool"])) == {"rung-triton-0", "rung-triton-1"}, "none has all"


def test_the_gateway_is_named_as_the_pool_has_it() -> None:
    (plain,) = manifests(site({}))[-1]["spec"]["parentRefs"]
    assert plain == {"name": "gate"}
    route = manifests(site({}, namespace="net", section="web", hostnames=("a.example",)))[-1]
    assert route["spec"]["parentRefs"] == [{"name": "gate", "namespace": "net", "sectionName": "web"}]
    assert route["spec"]["hostnames"] == ["a.example"]


def test_of_more_servers_than_a_rule_takes_those_with_most_weight_are_led_to() -> None:
    weights = {f"triton-{n}": n for n in range(20)}
    found = named(manifests(site({"digits": weights}, servers=20)))
    kept = backends(found["HTTPRoute", "pool-digits"])
    assert len(kept) == MOST_BACKENDS
    assert min(kept.values()) == 4


def test_names_of_services_are_labels() -> None:
    long = service_name("a" * 80)
    assert len(long) == 63
    assert service_name("triton.v2-0") == "rung-triton-v2-0"


@pytest.mark.parametrize(
    ("generation", "status", "accepted"), [(2, "True", True), (3, "True", False), (2, "False", False)]
)
def test_a_route_is_taken_when_its_controller_has_accepted_this_generation(
    generation: int, status: str, accepted: bool
) -> None:
    condition = {"type": "Accepted", "status": status, "observedGeneration": 2}
    route = {"metadata": {"generation": generation}, "status": {"parents": [{"conditions": [condition]}]}}
    assert is_accepted(route) is accepted
    assert not is_accepted({"metadata": {"generation": 1}})
