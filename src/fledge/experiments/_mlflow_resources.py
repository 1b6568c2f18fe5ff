"""The machine's load during an experiment, by MLflow's monitors and under MLflow's names."""

import contextlib
import time

from mlflow.entities import Metric
from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

MAX_SAMPLES = 500


class Resources:
    """Samples of the machine's load, at least `interval_s` apart, for MLflow's `system/...` metrics."""

    def __init__(self, interval_s: float = 1.0) -> None:
        self._monitors: list[BaseMetricsMonitor] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
        with contextlib.suppress(ImportError, RuntimeError):  # no NVIDIA library or driver
            self._monitors.append(GPUMonitor())
        self._interval_s = interval_s
        self._last = 0.0
        self._samples: list[tuple[int, dict[str, float]]] = []

    def sample(self) -> None:
        """Take a sample if the interval has passed."""
        now = time.monotonic()
        if now - self._last < self._interval_s:
            return
        self._last = now
        found: dict[str, float] = {}
        for monitor in self._monitors:
            monitor.collect_metrics()
            found |= monitor.aggregate_metrics()
            monitor.clear_metrics()
        self._samples.append((int(time.time() * 1000), found))
        if len(self._samples) > MAX_SAMPLES:  # a long experiment is sampled less often
            self._samples = self._samples[::2]
            self._interval_s *= 2

    def metrics(self) -> list[Metric]:
        """Return all samples as metrics, one step each."""
        return [
            Metric(f"system/{name}", float(value), moment, step)
            for step, (moment, found) in enumerate(self._samples)
            for name, value in found.items()
        ]
