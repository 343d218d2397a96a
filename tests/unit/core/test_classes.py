"""Hardware classes that nobody profiled: the nearest class counts there, with caution."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rung.core.classes import CAUTION, with_assumed_profiles
from rung.core.frontier import ladder
from rung.core.snapshot import Profile, Version

PI = Profile(20.0, 0.1, 0.04, memory_bytes=5, load_seconds=1.0, cpu_cores=1.0)
ORIN = Profile(200.0, 0.02, 0.02, cpu_cores=4.0)


def test_the_class_with_most_nearly_as_many_cores_counts_at_twice_the_cost() -> None:
    (version,) = with_assumed_profiles((Version(1, 0.9, {"pi": PI, "orin": ORIN}),), {"pi": 1.0, "new": 3.0})
    assert version.profiles["pi"] is PI
    assert version.profiles["new"] == Profile(
        200.0 / CAUTION, 0.02 * CAUTION, 0.02 * CAUTION, cpu_cores=4.0, assumed_from="orin"
    )
    (smaller,) = with_assumed_profiles((Version(1, 0.9, {"pi": PI, "orin": ORIN}),), {"new": 0.5})
    assert smaller.profiles["new"].assumed_from == "pi"
    assert smaller.profiles["new"].memory_bytes == 5
    assert smaller.profiles["new"].load_seconds == CAUTION


@pytest.mark.parametrize(
    "versions",
    [
        (),
        (Version(1, 0.9),),
        (Version(1, 0.9, {"new": PI}), Version(2, 0.95, {"pi": PI})),
    ],
    ids=["no version", "none profiled", "one of the task's versions was measured there"],
)
def test_what_was_measured_counts_alone_and_nothing_is_made_up(versions: tuple[Version, ...]) -> None:
    assert with_assumed_profiles(versions, {"new": 1.0}) == versions


@given(
    st.dictionaries(
        st.sampled_from("abc"),
        st.builds(Profile, st.floats(allow_nan=True), cpu_cores=st.none() | st.floats(allow_nan=True)),
    ),
    st.floats(allow_nan=True),
)
@example({"a": Profile(0.0, cpu_cores=2.2250738585e-313)}, 1e10)
def test_it_is_total_and_keeps_the_order_of_versions(profiles: dict[str, Profile], cores: float) -> None:
    versions = tuple(Version(n, n / 10, profiles) for n in range(1, 4))
    made = with_assumed_profiles(versions, {"new": cores})
    assert [version.number for version in made] == [1, 2, 3]
    assert ladder(made, "new")
