"""The forecaster that InfAdapter uses: trained on a trace, run by ONNX Runtime, better than what needs no training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.porting, pytest.mark.timeout(600)]
torch = pytest.importorskip("torch", reason="needs the porting environment: make setup-porting")

from click.testing import CliRunner  # noqa: E402

from rung.adapters.lstm import NoForecaster, open_forecaster  # noqa: E402
from rung.api import PolicySpec  # noqa: E402
from rung.control.policies import build_policy  # noqa: E402
from rung.core.policies.infadapter import InfAdapter  # noqa: E402
from rung_loadgen.trace import Trace  # noqa: E402
from rung_porting.cli import main  # noqa: E402
from rung_porting.errors import PortingError  # noqa: E402
from rung_porting.forecaster import train_forecaster, windows_of  # noqa: E402


def waves(seconds: int) -> Trace:
    """A rate that rises and falls within half an hour: who sees ten minutes knows what the next one brings."""
    time = np.arange(seconds)
    return Trace("waves", 50 + 40 * np.sin(2 * np.pi * time / 1800))


def test_it_learns_what_simpler_rules_cannot_know_and_any_scale_will_do(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "f.onnx"
    told: list[int] = []
    found = train_forecaster(waves(20_000), path, epochs=12, progress=lambda epoch, error: told.append(epoch))
    assert found.network < 0.7 * found.last_maximum
    assert found.network < 0.3 * found.exponential_mean
    assert told == list(range(1, found.epochs + 1))
    forecaster = open_forecaster(str(path))
    inputs, targets, scales = windows_of(waves(4000).rates_rps)
    row = [float(value) for value in inputs[100] * scales[100]]
    foreseen = forecaster.forecast(row).expected_rps
    assert foreseen == pytest.approx(float(targets[100, 0] * scales[100, 0]), rel=0.15)
    assert forecaster.forecast([1000 * value for value in row]).expected_rps == pytest.approx(1000 * foreseen, rel=1e-4)
    assert forecaster.forecast([]).expected_rps == 0
    assert forecaster.forecast([float("nan"), -1.0, 7.0]).expected_rps > 0
    assert open_forecaster(str(path)) is forecaster, "opened once"
    spec = PolicySpec.model_validate({"name": "InfAdapter", "infadapter": {"forecaster": "Lstm", "lstm": str(path)}})
    policy = build_policy(spec)
    assert isinstance(policy, InfAdapter)
    assert policy.parameters.forecaster is forecaster
    assert policy.parameters.note == ""


def test_a_short_trace_and_a_file_that_is_no_network_are_told(tmp_path: Path) -> None:
    with pytest.raises(PortingError, match="waves: 900 s are too short to learn from; 3408 s are the least"):
        train_forecaster(waves(900), tmp_path / "f.onnx", progress=lambda epoch, error: None)
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"no network")
    with pytest.raises(NoForecaster, match=r"bad\.onnx can't be used"):
        open_forecaster(str(bad))


def test_the_command_says_how_good_it_is(tmp_path: Path) -> None:
    trace = tmp_path / "trace.txt"
    trace.write_text("".join(f"{rate:.2f}\n" for rate in waves(4000).rates_rps))
    done = CliRunner().invoke(main, ["forecaster", str(trace), "--output", str(tmp_path / "f.onnx"), "--epochs", "2"])
    assert done.exit_code == 0, done.output
    assert "in the mean on the end of the trace" in done.output
    trace.write_text("x\n")
    done = CliRunner().invoke(main, ["forecaster", str(trace)])
    assert done.exit_code == 1
    assert "is no number" in done.output
