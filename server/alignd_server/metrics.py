"""The engine's metrics, in base units, with the prefix `alignd_`."""

from collections.abc import Callable
from functools import cached_property

from prometheus_client import CollectorRegistry, Counter, Gauge

from alignd_server import __version__
from alignd_server.histogram import Histogram, HistogramFamily

# Kernels of small batches take tens of microseconds; the client library's own buckets start at 5 ms.
SECONDS = tuple(1e-5 * 2**i for i in range(21))
ITEMS = tuple(float(2**i) for i in range(13))
CELLS = tuple(float(4**i) for i in range(2, 19))


class Metrics:
    """One registry's worth of metrics. Each engine has its own, so that two engines in a process do not clash."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry = registry or CollectorRegistry()
        self.kernel_duration = HistogramFamily(
            "alignd_kernel_duration_seconds",
            "Time in the kernels of one launch, copies excluded.",
            ["op", "backend", "device", "dtype"],
            buckets=SECONDS,
            registry=registry,
        )
        self.acoustic_duration = HistogramFamily(
            "alignd_acoustic_duration_seconds",
            "Time from one encoded recording to its emissions.",
            ["model"],
            buckets=SECONDS[8:],
            registry=registry,
        )
        self.queue_duration = HistogramFamily(
            "alignd_queue_duration_seconds",
            "Time of a request from admission to the start of its batch.",
            ["op"],
            buckets=SECONDS,
            registry=registry,
        )
        self.batch_items = HistogramFamily(
            "alignd_batch_items", "Items of one launch.", ["op"], buckets=ITEMS, registry=registry
        )
        self.batch_cells = HistogramFamily(
            "alignd_batch_cells", "Lattice cells of one launch.", ["op"], buckets=CELLS, registry=registry
        )
        self.queue_depth = Gauge("alignd_queue_depth", "Requests that wait.", ["op"], registry=registry)
        self.queue_bytes = Gauge(
            "alignd_queue_bytes", "Bytes of requests that wait, are in work or are announced.", registry=registry
        )
        self.rejected = Counter(
            "alignd_rejected_total", "Requests that were not run.", ["op", "reason"], registry=registry
        )
        self.items = Counter("alignd_items_total", "Items by outcome.", ["op", "status"], registry=registry)
        self.kernel_compile = Gauge(
            "alignd_kernel_compile_seconds", "Time spent compiling kernels since the start.", registry=registry
        )
        self._ops: dict[str, OpMetrics] = {}
        build = Gauge("alignd_build_info", "Always 1.", ["version"], registry=registry)
        build.labels(__version__).set(1)

    def of(self, op: str) -> "OpMetrics":
        """What every request of an operation touches."""
        found = self._ops.get(op)
        if found is None:
            found = self._ops[op] = OpMetrics(self, op)
        return found

    def sample(self, queue_bytes: Callable[[], float], compile_seconds: Callable[[], float]) -> None:
        """Read these gauges when they are scraped."""
        self.queue_bytes.set_function(queue_bytes)
        self.kernel_compile.set_function(compile_seconds)


class OpMetrics:
    """The metrics of one operation, their labels looked up once: that takes as long as a small request."""

    def __init__(self, metrics: Metrics, op: str) -> None:
        self.queue_depth = metrics.queue_depth.labels(op)
        self._metrics = metrics
        self._op = op
        self._kernels: dict[tuple[str, str, str], Histogram] = {}

    @cached_property
    def queue_duration(self) -> Histogram:
        return self._metrics.queue_duration.labels(self._op)

    @cached_property
    def batch_items(self) -> Histogram:
        return self._metrics.batch_items.labels(self._op)

    @cached_property
    def batch_cells(self) -> Histogram:
        return self._metrics.batch_cells.labels(self._op)

    @cached_property
    def items_ok(self) -> Counter:
        return self._metrics.items.labels(self._op, "ok")

    def kernel_duration(self, backend: str, device: str, dtype: str) -> Histogram:
        key = (backend, device, dtype)
        found = self._kernels.get(key)
        if found is None:
            found = self._kernels[key] = self._metrics.kernel_duration.labels(self._op, *key)
        return found
