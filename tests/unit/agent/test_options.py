from __future__ import annotations

import click
import pytest

from rung.agent.options import Address, Duration, Size


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("0", 0), ("1048576", 1 << 20), ("2Gi", 2 << 30), ("500Mi", 500 << 20), ("1k", 1000), (" 3M ", 3_000_000)]
)  # fmt: skip
def test_sizes(text: str, size_bytes: int) -> None:
    assert Size().convert(text, None, None) == size_bytes


@pytest.mark.parametrize("text", ["", "-1", "1.5Gi", "2GB", "Gi", "2 Gi", "1e9"])
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(click.BadParameter, match="Gi"):
        Size().convert(text, None, None)


@pytest.mark.parametrize(("text", "seconds"), [("500ms", 0.5), ("10s", 10.0), ("1.5m", 90.0), ("1h", 3600.0)])
def test_durations(text: str, seconds: float) -> None:
    assert Duration().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "10", "0s", "-1s", "1 s", "1d", "infs"])
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(click.BadParameter, match="ms, s, m or h"):
        Duration().convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "address"),
    [("0.0.0.0:8090", ("0.0.0.0", 8090)), ("localhost:8001", ("localhost", 8001)), ("[::]:80", ("::", 80))]
)  # fmt: skip
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert Address().convert(text, None, None) == address


@pytest.mark.parametrize("text", ["", "8090", ":8090", "host:", "host:http", "host:70000"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="HOST:PORT"):
        Address().convert(text, None, None)
