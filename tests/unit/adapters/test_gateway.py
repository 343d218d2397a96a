"""What is written for a Gateway of the cluster's own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rung.adapters.gateway import (
    MOST_BACKENDS,
    Parent,
    Server,
    Site,
    manifests,
    route_name,
    service_name,
    why_not_accepted,
)


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
    http, grpc = found["HTTPRoute", route_name("pool", "digits")], found["GRPCRoute", route_name("pool", "digits")]
    weights = {"rung-triton-0": 1000, "rung-triton-1": 250}
    assert backends(http) == backends(grpc) == weights
    assert http["spec"]["rules"][0]["matches"] == [{"path": {"type": "PathPrefix", "value": "/v2/models/digits"}}]
    assert grpc["spec"]["rules"][0]["matches"] == [
        {
            "method": {"service": "inference.GRPCInferenceService"},
            "headers": [{"name": "x-rung-model", "value": "digits"}],
        }
    ]
    assert {each["port"] for each in grpc["spec"]["rules"][0]["backendRefs"]} == {8001}
    assert http["metadata"]["ownerReferences"][0]["uid"] == "pool-uid"


def test_who_names_no_model_is_led_to_the_servers_that_have_all() -> None:
    weights = {"a": {"triton-0": 1000, "triton-1": 500}, "b": {"triton-1": 700}}
    found = named(manifests(site(weights)))
    assert backends(found["GRPCRoute", route_name("pool")]) == {"rung-triton-1": 600}
    matches = found["GRPCRoute", route_name("pool")]["spec"]["rules"][0]["matches"]
    assert all("method" in match for match in matches), "it takes no HTTP requests"
    assert "matches" not in found["HTTPRoute", route_name("pool")]["spec"]["rules"][0]
    apart = named(manifests(site({"a": {"triton-0": 1}, "b": {"triton-1": 1}})))
    assert set(backends(apart["GRPCRoute", route_name("pool")])) == {"rung-triton-0", "rung-triton-1"}, "none has all"


def test_the_gateway_is_named_as_the_pool_has_it() -> None:
    (plain,) = manifests(site({}))[-1]["spec"]["parentRefs"]
    assert plain == {"name": "gate"}
    route = manifests(site({}, namespace="net", section="web", hostnames=("a.example",)))[-1]
    assert route["spec"]["parentRefs"] == [{"name": "gate", "namespace": "net", "sectionName": "web"}]
    assert route["spec"]["hostnames"] == ["a.example"]


def test_of_more_servers_than_a_rule_takes_those_with_most_weight_are_led_to() -> None:
    weights = {f"triton-{n}": n for n in range(20)}
    found = named(manifests(site({"digits": weights}, servers=20)))
    kept = backends(found["HTTPRoute", route_name("pool", "digits")])
    assert len(kept) == MOST_BACKENDS
    assert min(kept.values()) == 4


def test_names_are_labels_and_different_for_what_is_different() -> None:
    pods = ["a" * 70 + end for end in ("-x1", "-x2")] + ["triton.v2-0", "triton-v2-0", "triton-0"]
    names = [service_name(pod) for pod in pods]
    assert len({*names}) == len(pods)
    assert max(map(len, names)) <= 63
    assert names[-1] == "rung-triton-0"
    assert route_name("a", "b-c") != route_name("a-b", "c")
    assert route_name("a", "b") != route_name("a-b")
    long = named(manifests(replace(site({}), pool="p" * 100)))
    assert all(len(each["metadata"]["labels"]["rung.dev/gateway-of"]) <= 63 for each in long.values())


def test_where_nothing_is_to_come_to_those_that_have_all_it_comes_to_those_that_may() -> None:
    weights = {"a": {"triton-0": 0, "triton-1": 500}, "b": {"triton-0": 0}, "nowhere": {}}
    found = named(manifests(site(weights)))
    assert backends(found["GRPCRoute", route_name("pool")]) == {"rung-triton-0": 0, "rung-triton-1": 250}
    everywhere = named(manifests(site({"nowhere": {}})))
    assert backends(everywhere["HTTPRoute", route_name("pool")]) == {"rung-triton-0": 1, "rung-triton-1": 1}


def test_grpc_may_have_a_listener_of_its_own() -> None:
    parent: dict[str, Any] = {
        "section": "web",
        "hostnames": ("a.example",),
        "grpc_section": "grpc",
        "grpc_hostnames": ("g.example",),
    }
    found = named(manifests(site({}, **parent)))
    http, grpc = (found[kind, route_name("pool")]["spec"] for kind in ("HTTPRoute", "GRPCRoute"))
    assert (http["parentRefs"][0]["sectionName"], http["hostnames"]) == ("web", ["a.example"])
    assert (grpc["parentRefs"][0]["sectionName"], grpc["hostnames"]) == ("grpc", ["g.example"])


@pytest.mark.parametrize(
    ("generation", "parent", "status", "why"),
    [
        (2, "gate", "True", ""), (3, "gate", "True", "not looked"), (2, "gate", "False", "NotAllowedByListeners: no"),
        (2, "another", "True", "is there such a Gateway?"),
    ],
)  # fmt: skip
def test_a_route_is_taken_when_the_controller_of_its_gateway_has_accepted_this_generation(
    generation: int, parent: str, status: str, why: str
) -> None:
    condition = {"type": "Accepted", "status": status, "observedGeneration": 2}
    condition |= {"reason": "NotAllowedByListeners", "message": "no"}
    told = {"parentRef": {"name": parent, "namespace": "n"}, "conditions": [condition]}
    route = {"metadata": {"generation": generation, "namespace": "n"}, "status": {"parents": [told]}}
    found = why_not_accepted(route, Parent("gate"))
    assert why in found
    assert bool(why) == bool(found)
    refused = {"type": "ResolvedRefs", "status": "False", "reason": "BackendNotFound"}
    route["status"]["parents"][0]["conditions"].append(refused)  # type: ignore[index]
    assert why_not_accepted(route, Parent("gate"))
    assert why_not_accepted({"metadata": {"generation": 1}}, Parent("gate"))
