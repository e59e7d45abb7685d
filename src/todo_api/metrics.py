"""Prometheus metrics with a bounded number of label values, summed over all workers.

Several workers write to files in ``PROMETHEUS_MULTIPROC_DIR``, which ``server.granian`` sets. Each
worker can report the metrics of all.
"""

import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

MULTIPROCESS_DIR: Final = "PROMETHEUS_MULTIPROC_DIR"

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)

GaugeSource = tuple[str, Callable[[], float]]


class Metrics:
    """Counts and times requests, reads gauges, and renders all metrics as text."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "todo_requests",
            "Requests answered.",
            ("method", "route", "status"),
            registry=self._registry,
        )
        self._duration = Histogram(
            "todo_request_seconds",
            "Time from the arrival of a request to the end of its response.",
            ("method", "route"),
            buckets=_BUCKETS,
            registry=self._registry,
        )
        build = Gauge(
            "todo_build_info",
            "The running version.",
            ("version",),
            registry=self._registry,
            multiprocess_mode="max",
        )
        build.labels(version("todo-api")).set(1)
        self._gauges: list[tuple[Gauge, Callable[[], float]]] = []
        # labels() costs more than the increment, so its results are cached.
        self._labelled = lru_cache(maxsize=4096)(self._with_labels)

    def add_gauges(self, gauges: Mapping[str, GaugeSource]) -> None:
        """Add gauges: each name with its description and the function that reads the value."""
        for name, (description, read) in gauges.items():
            gauge = Gauge(name, description, registry=self._registry, multiprocess_mode="livesum")
            self._gauges.append((gauge, read))

    def count_request(
        self, method: str, route: str | None, status: int, seconds: float | None
    ) -> None:
        """Count and time a request. ``route`` is the path template, None if no route matched.

        ``seconds`` is None for a stream, whose duration says nothing about the service.
        """
        requests, duration = self._labelled(method, route, status)
        requests.inc()
        if seconds is not None:
            duration.observe(seconds)

    def render(self) -> bytes:
        """The metrics of all workers as Prometheus text."""
        for gauge, read in self._gauges:
            gauge.set(read())
        return generate_latest(
            all_workers_registry() if MULTIPROCESS_DIR in os.environ else self._registry
        )

    def _with_labels(
        self, method: str, route: str | None, status: int
    ) -> tuple[Counter, Histogram]:
        method = method if method in _METHODS else "other"
        route = route or "none"
        return (
            self._requests.labels(method, route, str(status)),
            self._duration.labels(method, route),
        )


def all_workers_registry() -> CollectorRegistry:
    """The metrics that all workers wrote to ``PROMETHEUS_MULTIPROC_DIR``."""
    registry = CollectorRegistry()
    _AllWorkersCollector(registry)  # type: ignore[no-untyped-call]
    return registry


class _AllWorkersCollector(MultiProcessCollector):
    def collect(self) -> Any:  # noqa: ANN401 - the library has no types here
        _drop_dead_workers(Path(os.environ[MULTIPROCESS_DIR]))
        return super().collect()  # type: ignore[no-untyped-call]


def _drop_dead_workers(directory: Path) -> None:
    """Delete the gauges of dead workers, which would otherwise be added to the sums."""
    for path in directory.glob("gauge_live*_*.db"):
        pid = int(path.stem.rpartition("_")[2])
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            mark_process_dead(pid, str(directory))
