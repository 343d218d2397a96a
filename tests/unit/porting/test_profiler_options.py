"""What `rung-port profile` is asked to do: configurations made from it, and bad input told in a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from rung.adapters.triton import parse_config
from rung_porting.profiler.errors import ProfileError
from rung_porting.profiler.profile import profile
from rung_porting.profiler.variants import as_configured, batch_size_of, instances_of, variants

CONFIG = """
name: "digits"
backend: "onnxruntime"
max_batch_size: 8
input [ { name: "X" data_type: TYPE_FP32 dims: [ 4 ] } ]
instance_group [ { count: 1 kind: KIND_CPU } ]
dynamic_batching { preferred_batch_size: [ 8 ] max_queue_delay_microseconds: 100 }
"""


def test_each_combination_is_a_configuration_and_the_rest_of_it_stays() -> None:
    made = variants(CONFIG, (1, 4, 8), (1, 2))

    assert [(each.batch_size, each.instances) for each in made] == [(1, 1), (1, 2), (4, 1), (4, 2), (8, 1), (8, 2)]
    for each in made:
        config = parse_config(each.config_text)
        assert (batch_size_of(config), instances_of(config)) == (each.batch_size, each.instances)
        assert config.input == parse_config(CONFIG).input
        assert config.backend == "onnxruntime"
        assert config.HasField("dynamic_batching") == (each.batch_size > 1)
    assert made[4].config_text == CONFIG, "as published"
    four = parse_config(made[2].config_text)
    assert not four.dynamic_batching.preferred_batch_size
    assert four.dynamic_batching.max_queue_delay_microseconds == 100


def test_nothing_asked_is_the_published_configuration() -> None:
    assert variants(CONFIG, (), ()) == (as_configured(CONFIG),)
    bare = as_configured('name: "x" max_batch_size: 8')
    assert (bare.batch_size, bare.instances) == (1, 1), "without dynamic batching nothing is gathered"
    [two] = variants('name: "x"', (), (2,))
    assert instances_of(parse_config(two.config_text)) == 2


def test_what_can_not_be_is_refused() -> None:
    with pytest.raises(ProfileError, match="max_batch_size 0"):
        variants('name: "x"', (4,), ())
    with pytest.raises(ProfileError, match="9 combinations are more than 8"):
        variants(CONFIG, (1, 2, 4), (1, 2, 3))


SERVED = ["--triton", "127.0.0.1:1", "--model", "m"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--triton", "127.0.0.1:1"], "give --repository and --tasks, or --model"),
        ([*SERVED, "--repository", "x"], "give --repository and --tasks, or --model"),
        (["--triton", "h:1", "--repository", "x", "--tasks", "a"], "needs --tasks and --hardware-class"),
        (["--triton", "h:1", "--repository", "x", "--hardware-class", "a"], "needs --tasks and --hardware-class"),
        ([*SERVED, "--batch-sizes", "1,2"], "measured as it is served"),
        ([*SERVED, "--batch-sizes", "1,x"], "whole numbers from 1 to 1024"),
        ([*SERVED, "--instances", "0"], "whole numbers from 1 to 1024"),
        ([*SERVED, "--instances", "99999999999999999999"], "whole numbers from 1 to 1024"),
        ([*SERVED, "--agent", "h", "--pid", "1"], "not both"),
        ([*SERVED, "--pid", "99999999"], "there is no process 99999999"),
        ([*SERVED, "--output", "/no/such/folder/file.yaml"], "there is no folder /no/such/folder"),
        ([*SERVED, "--co-locate"], "needs two tasks or models"),
        ([*SERVED, "--cpu", "nan"], "no number of cores"),
        ([*SERVED, "--cpu", "-1"], "no number of cores"),
        ([*SERVED, "--slo", "0s"], "longer than 0s"),
        ([*SERVED, "--slo", "fast"], "write for example 400ms"),
        ([*SERVED, "--shares", "0.5,1.5"], "between 0 and 1"),
        ([*SERVED, "--shares", "nan"], "between 0 and 1"),
        ([*SERVED, "--shape", "16,16"], "INPUT:SIZE"),
        ([*SERVED, "--shape", "x:16,-1"], "INPUT:SIZE"),
        ([*SERVED, "--hardware-class", "../x"], "can't be a Kubernetes label"),
        ([*SERVED, "--agent", "https://x"], "no address of an agent"),
        (["--triton", "http://h:8001", "--model", "m"], "write HOST:PORT"),
        (["--triton", "h", "--model", "m"], "write HOST:PORT"),
        (["--triton", "h:99999", "--model", "m"], "write HOST:PORT"),
        (["--triton", "h:1", "--repository", "x", "--tasks", "../a", "--hardware-class", "a"], "no TASK or"),
        (["--triton", "h:1", "--repository", "/no/such", "--tasks", "a", "--hardware-class", "a"], "nor a folder"),
    ],
)  # fmt: skip
def test_bad_input_is_told_in_a_sentence(arguments: list[str], sentence: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(profile, arguments)

    assert done.exit_code in (1, 2)
    assert sentence in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
