"""The agent's metrics, computed while they are scraped, so that a scrape every second sees what is true now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from rung.adapters.agent import VersionState
from rung.agent.catalogue import Catalogue
from rung.agent.processes import Usage


class AgentCollector(Collector):
    """Turns one look at Triton and the catalogue into metrics."""

    def __init__(self, catalogue: Catalogue, look: Callable[[], Usage]) -> None:
        self._catalogue = catalogue
        self._look = look

    def collect(self) -> Iterator[Metric]:
        """Every metric of the agent. A value that is not known has no sample, rather than a wrong one."""
        yield from self._triton()
        yield from self._mirror()

    def describe(self) -> list[Metric]:
        """Nothing: registering must not look at Triton."""
        return []

    def _triton(self) -> Iterator[Metric]:
        usage = self._look()
        cpu = CounterMetricFamily(
            "rung_agent_triton_cpu_seconds",
            "CPU seconds, user and system, of all processes of Triton in this pod, those that ended included.",
        )
        if usage.cpu_seconds is not None:
            cpu.add_metric([], usage.cpu_seconds)
        yield cpu
        yield GaugeMetricFamily(
            "rung_agent_triton_processes", "Processes of Triton that the agent sees.", value=usage.processes
        )
        yield GaugeMetricFamily(
            "rung_agent_triton_memory_bytes",
            "Memory of Triton's processes that can't be reclaimed, shared pages once.",
            value=self._catalogue.memory_used_bytes,
        )
        limit = GaugeMetricFamily("rung_agent_memory_limit_bytes", "Memory limit of the Triton container.")
        if self._catalogue.memory_limit_bytes is not None:
            limit.add_metric([], self._catalogue.memory_limit_bytes)
        yield limit

    def _mirror(self) -> Iterator[Metric]:
        catalogue = self._catalogue
        yield CounterMetricFamily(
            "rung_agent_mirror_bytes", "Bytes of models that were downloaded.", value=catalogue.bytes_total
        )
        failures = CounterMetricFamily(
            "rung_agent_mirror_failures", "Failed attempts to list, read, download or store.", labels=["reason"]
        )
        for reason, count in sorted(catalogue.failures.items()):
            failures.add_metric([reason], count)
        yield failures
        versions = GaugeMetricFamily("rung_agent_versions", "Versions by where they are.", labels=["task", "state"])
        counts = Counter((task, version.state) for (task, _), version in catalogue.versions.items())
        for task in sorted({task for task, _ in catalogue.versions}):
            for state in VersionState:
                versions.add_metric([task, state.value], counts[task, state])
        yield versions
        yield GaugeMetricFamily(
            "rung_agent_repository_reachable",
            "1 when the last listing of the model repository succeeded.",
            value=float(catalogue.reachable),
        )
        yield GaugeMetricFamily("rung_agent_disk_budget_bytes", "Disk budget.", value=catalogue.budget_bytes)
        yield GaugeMetricFamily("rung_agent_disk_used_bytes", "Disk taken by versions.", value=catalogue.used_bytes())


class Metrics:
    """The registry, and its text."""

    def __init__(self, catalogue: Catalogue, look: Callable[[], Usage]) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._registry)
        self._registry.register(AgentCollector(catalogue, look))

    def text(self) -> bytes:
        """Prometheus text, of this moment."""
        return generate_latest(self._registry)
