from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung_devcluster.cluster.components import components_of
from rung_devcluster.cluster.layout import Layout
from rung_devcluster.cluster.spec import COMPONENTS, ClusterSpec, SpecError, cluster_spec

TOOLS = {name: f"/tools/{name}" for name in COMPONENTS}


def test_nodes_are_numbered_and_have_a_class() -> None:
    spec = cluster_spec("edge", nodes=3, node_classes={"2": "rpi5", "edge-3": "n100"}, node_labels={"1": {"a": "b"}})
    assert [node.name for node in spec.nodes] == ["edge-1", "edge-2", "edge-3"]
    assert [node.labels["rung.dev/hardware-class"] for node in spec.nodes] == ["default", "rpi5", "n100"]
    assert spec.nodes[0].labels["a"] == "b"


def test_every_address_of_a_cluster_is_its_own() -> None:
    spec = cluster_spec(nodes=3)
    addresses = [text for node in spec.nodes for text in (node.address, node.pod_network, node.pod_gateway)]
    assert len(set(addresses)) == len(addresses)


@settings(deadline=None)
@given(
    nodes=st.integers(1, 3),
    arguments=st.dictionaries(st.sampled_from(COMPONENTS), st.lists(st.text(max_size=20), max_size=3).map(tuple)),
)
def test_a_spec_survives_its_file(nodes: int, arguments: dict[str, tuple[str, ...]]) -> None:
    spec = cluster_spec("edge", nodes=nodes, node_classes={"1": "rpi5"}, extra_arguments=arguments)
    assert ClusterSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize("name", ["", "A", "1a", "a-", "a/b", "..", "a" * 31, "a b", "a\n"])
def test_names_that_are_no_file_cgroup_and_host_name_are_refused(name: str) -> None:
    with pytest.raises(SpecError, match="cannot be a cluster's name"):
        cluster_spec(name)


@pytest.mark.parametrize(
    "wish",
    [
        {"nodes": 0},
        {"nodes": 4},
        {"node_classes": {"2": "rpi5"}},
        {"node_classes": {"0": "rpi5"}},
        {"node_classes": {"1": "two words"}},
        {"node_classes": {"1": "a,b=c"}},
        {"node_labels": {"1": {"": "x"}}},
        {"node_labels": {"1": {"node-role.kubernetes.io/edge": "x"}}},
        {"node_labels": {"1": {"a": "x" * 64}}},
        {"extra_arguments": {"docker": ("--x",)}},
    ],
)
def test_impossible_wishes_are_refused(wish: dict[str, object]) -> None:
    with pytest.raises(SpecError):
        cluster_spec(**wish)  # type: ignore[arg-type]


def test_the_control_plane_runs_on_the_first_node_only() -> None:
    spec = cluster_spec(nodes=2, extra_arguments={"kubelet": ("--v=4",)})
    layout = Layout.of(spec.name)
    first, second = (components_of(spec, node, layout, TOOLS) for node in spec.nodes)
    assert {component.name for component in first} == set(COMPONENTS)
    assert {component.name for component in second} == {"containerd", "kubelet", "kube-proxy"}
    for components in (first, second):
        assert next(each for each in components if each.name == "kubelet").command[-1] == "--v=4"
        # Nothing waits for what nobody starts.
        known = {"network", "images", *(component.name for component in components)}
        assert all(known.issuperset(component.after) for component in components)
