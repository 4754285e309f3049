"""What `/metrics` tells Prometheus: requests, their times, batches and what waits."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Counters:
    """The counters of one service, in a registry of its own."""

    def __init__(self, waiting: Callable[[], float]):
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "compressor_requests",
            "Answered requests.",
            ["path", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "compressor_request_seconds",
            "From the first byte of a request to its answer.",
            ["path"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._batch = Histogram(
            "compressor_batch_examples",
            "Examples that were computed together.",
            buckets=_SIZES,
            registry=self._registry,
        )
        queue = Gauge(
            "compressor_waiting_examples",
            "Examples that wait for a batch.",
            registry=self._registry,
        )
        queue.set_function(waiting)

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Count an answer; `path` is one of the service's own, or `other`."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def batch(self, size: int) -> None:
        """Count a batch of so many examples."""
        self._batch.observe(size)

    def text(self) -> bytes:
        """Return all of it in Prometheus' text format."""
        content: bytes = generate_latest(self._registry)
        return content
