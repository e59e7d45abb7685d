"""Prometheus metrics: bounded labels only, and one view over all workers.

With several workers each writes to ``PROMETHEUS_MULTIPROC_DIR``, which ``server.serve`` sets, and
any of them can answer for all.
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

MULTIPROCESS: Final = "PROMETHEUS_MULTIPROC_DIR"

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)

GaugeSource = tuple[str, Callable[[], float]]


class Metrics:
    """What the service counts about itself."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "todo_requests",
            "Requests answered.",
            ("method", "route", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "todo_request_seconds",
            "Time from a request's arrival to the end of its answer.",
            ("method", "route"),
            buckets=_BUCKETS,
            registry=self._registry,
        )
        build = Gauge(
            "todo_build_info",
            "The version that runs.",
            ("version",),
            registry=self._registry,
            multiprocess_mode="max",
        )
        build.labels(version("todo-api")).set(1)
        self._gauges: list[tuple[Gauge, Callable[[], float]]] = []
        # A look-up by labels costs more than the counting.
        self._of_request = lru_cache(maxsize=4096)(self._children)

    def add_gauges(self, gauges: Mapping[str, GaugeSource]) -> None:
        """Report these values as gauges: name to description and how to read it."""
        for name, (description, read) in gauges.items():
            gauge = Gauge(name, description, registry=self._registry, multiprocess_mode="livesum")
            self._gauges.append((gauge, read))

    def count_request(self, method: str, route: str | None, status: int, seconds: float) -> None:
        """Count an answered request; ``route`` is its template, None if it matched none."""
        requests, histogram = self._of_request(method, route, status)
        requests.inc()
        histogram.observe(seconds)

    def render(self) -> bytes:
        """All metrics of all workers as Prometheus text."""
        for gauge, read in self._gauges:
            gauge.set(read())
        return generate_latest(workers_registry() if MULTIPROCESS in os.environ else self._registry)

    def _children(self, method: str, route: str | None, status: int) -> tuple[Counter, Histogram]:
        method = method if method in _METHODS else "other"
        route = route or "none"
        return (
            self._requests.labels(method, route, str(status)),
            self._seconds.labels(method, route),
        )


def workers_registry() -> CollectorRegistry:
    """What all workers wrote into ``PROMETHEUS_MULTIPROC_DIR``."""
    registry = CollectorRegistry()
    _Workers(registry)  # type: ignore[no-untyped-call]
    return registry


class _Workers(MultiProcessCollector):
    def collect(self) -> Any:  # noqa: ANN401 - the library has no types here
        _forget_ended_workers(Path(os.environ[MULTIPROCESS]))
        return super().collect()  # type: ignore[no-untyped-call]


def _forget_ended_workers(directory: Path) -> None:
    """Drop the gauges of workers that are no more, which would be added up with the others'."""
    for path in directory.glob("gauge_live*_*.db"):
        pid = int(path.stem.rpartition("_")[2])
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            mark_process_dead(pid, str(directory))
