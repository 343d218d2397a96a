"""The operator's own metrics, for its `/metrics` page. Names and labels stand in `docs/architecture.md`."""

from __future__ import annotations

from contextlib import suppress

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SWAP_BUCKETS = (0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 10, 30)
_LOOP_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)


class Metrics:
    """Every metric of one operator, in a registry of its own (so that tests can run several operators)."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.loop_duration = Histogram(
            "rung_loop_duration_seconds",
            "Time of one pass over a pool",
            ["pool"],
            buckets=_LOOP_BUCKETS,
            registry=registry,
        )
        self.signal_age = Gauge(
            "rung_signal_age_seconds",
            "Age of the newest sample of a signal, at the server where it is oldest",
            ["pool", "signal"],
            registry=registry,
        )
        self.swaps = Counter(
            "rung_swaps",
            "Swaps that ended; kind is warm, cold, standby or revive",
            ["pool", "task", "kind", "outcome"],
            registry=registry,
        )
        self.swap_duration = Histogram(
            "rung_swap_duration_seconds",
            "From the order to the new version answering",
            ["pool", "kind"],
            buckets=_SWAP_BUCKETS,
            registry=registry,
        )
        self.drains = Counter(
            "rung_drains",
            "Loads before which a server was to be drained; outcome is drained or beside (it loaded as it was)",
            ["pool", "server", "outcome"],
            registry=registry,
        )
        self.active_version = Gauge(
            "rung_active_version", "The version that answers", ["pool", "task", "server"], registry=registry
        )
        self.normalized_accuracy = Gauge(
            "rung_normalized_accuracy",
            "Accuracy of the version that answers divided by that of the task's best",
            ["pool", "task", "server"],
            registry=registry,
        )
        self.expected_utilization = Gauge(
            "rung_expected_utilization",
            "What the profiles predict, 0 to 1 and above",
            ["pool", "server"],
            registry=registry,
        )
        self.observed_utilization = Gauge(
            "rung_observed_utilization",
            "CPU used divided by CPU that may be used, newest sample",
            ["pool", "server"],
            registry=registry,
        )
        self.demand = Gauge("rung_demand_rps", "Arrivals per second", ["pool", "task", "server"], registry=registry)
        self.decisions = Counter(
            "rung_decisions", "Decisions that changed something", ["pool", "task", "code"], registry=registry
        )
        self.last_pass = Gauge(
            "rung_last_pass_timestamp_seconds", "When the last pass that worked ended", ["pool"], registry=registry
        )
        self.passes_failed = Counter(
            "rung_passes_failed", "Passes that ended in a fault of the operator", ["pool"], registry=registry
        )
        self.invalid_objects = Counter(
            "rung_invalid_objects", "Times an object could not be read", ["kind"], registry=registry
        )
        self.status_writes = Counter("rung_status_writes", "Statuses that were written", registry=registry)
        self.status_failures = Counter(
            "rung_status_failures", "Statuses and events that could not be written", registry=registry
        )

    def forget_pool(self, pool: str) -> None:
        """Remove the gauges of a pool that is gone, so that nobody reads its last values as today's."""
        for gauge in (self.signal_age, self.active_version, self.normalized_accuracy, self.expected_utilization,
                      self.observed_utilization, self.demand, self.last_pass):  # fmt: skip
            gauge.remove_by_labels({"pool": pool})

    def forget_server(self, pool: str, server: str) -> None:
        """Remove the gauges of a server that is gone."""
        for gauge in (self.active_version, self.normalized_accuracy, self.expected_utilization,
                      self.observed_utilization, self.demand):  # fmt: skip
            gauge.remove_by_labels({"pool": pool, "server": server})

    def forget_task(self, pool: str, task: str, server: str) -> None:
        """Remove the gauges of a task that no version answers on a server."""
        for gauge in (self.active_version, self.normalized_accuracy, self.demand):
            gauge.remove_by_labels({"pool": pool, "task": task, "server": server})


def set_gauge(gauge: Gauge, labels: tuple[str, ...], value: float | None) -> None:
    """Set a gauge, or remove it where nothing is known: the last value is not today's."""
    if value is not None:
        gauge.labels(*labels).set(value)
    else:
        with suppress(KeyError):
            gauge.remove(*labels)
