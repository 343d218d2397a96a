"""Batch sizes and instance counts as dimensions: one configuration for each combination."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from rung.adapters.triton import parse_config
from rung_porting.profiler.document import MOST_CONFIGURATIONS
from rung_porting.profiler.errors import ProfileError


@dataclass(frozen=True, slots=True)
class Variant:
    """One configuration to measure; `config_text` is the whole config.pbtxt of it."""

    batch_size: int
    instances: int
    config_text: str

    def __str__(self) -> str:
        """Return it as people read it."""
        return f"batch size {self.batch_size}, {self.instances} instance{'s' if self.instances > 1 else ''}"


def as_configured(config_text: str) -> Variant:
    """Return the configuration as it is, with its batch size and its instances."""
    config = parse_config(config_text)
    return Variant(batch_size_of(config), instances_of(config), config_text)


def batch_size_of(config: model_config_pb2.ModelConfig) -> int:
    """Return how many requests of one inference each the server may gather."""
    return max(1, int(config.max_batch_size)) if config.HasField("dynamic_batching") else 1


def instances_of(config: model_config_pb2.ModelConfig) -> int:
    """Return the number of instances; a group that doesn't say has one."""
    return sum(max(1, int(group.count)) for group in config.instance_group) or 1


def variants(config_text: str, batch_sizes: Sequence[int], instances: Sequence[int]) -> tuple[Variant, ...]:
    """Return one configuration for each combination; an empty dimension stays as configured.

    Raises ProfileError when a model that doesn't batch is to, or when there are more than the file keeps.
    """
    configured = as_configured(config_text)
    combinations = [
        (batch, count)
        for batch in dict.fromkeys(batch_sizes or (configured.batch_size,))
        for count in dict.fromkeys(instances or (configured.instances,))
    ]
    if len(combinations) > MOST_CONFIGURATIONS:
        raise ProfileError(f"{len(combinations)} combinations are more than {MOST_CONFIGURATIONS}; name fewer")
    return tuple(
        configured
        if (batch, count) == (configured.batch_size, configured.instances)
        else _variant(config_text, batch, count)
        for batch, count in combinations
    )


def _variant(config_text: str, batch_size: int, instances: int) -> Variant:
    config = model_config_pb2.ModelConfig()
    config.CopyFrom(parse_config(config_text))
    if batch_size != batch_size_of(config):
        if config.max_batch_size < 1:
            raise ProfileError(
                f"its configuration has max_batch_size 0, so it can't be measured with batches of {batch_size}; "
                "export it with a free batch dimension"
            )
        config.max_batch_size = batch_size
        if batch_size == 1:
            config.ClearField("dynamic_batching")
        else:
            # Preferred sizes are of the batch size that was; the queue's own settings stay.
            config.dynamic_batching.ClearField("preferred_batch_size")
            config.dynamic_batching.SetInParent()
    if instances != instances_of(config):
        if len(config.instance_group) > 1:
            del config.instance_group[1:]
        if not config.instance_group:
            config.instance_group.add(kind=model_config_pb2.ModelInstanceGroup.KIND_CPU)
        config.instance_group[0].count = instances
    return Variant(batch_size, instances, text_format.MessageToString(config))
