"""Metrics for Prometheus at `/metrics`. Names and meanings are vLLM's, with the prefix `fledge_`."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fledge.core.messages import OutboxRecord

if TYPE_CHECKING:
    from fledge.serving.endpoint import Endpoint

SECONDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160)
LABELS = ("model_name", "version")


class Metrics:
    """Counts and latencies of requests, by release."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        label = LABELS

        def histogram(name: str, text: str) -> Histogram:
            return Histogram(f"fledge_{name}", text, label, buckets=SECONDS, registry=self._registry)

        def counter(name: str, text: str, labels: tuple[str, ...] = LABELS) -> Counter:
            return Counter(f"fledge_{name}", text, labels, registry=self._registry)

        self._ttft = histogram("time_to_first_token_seconds", "From a request's arrival to its first token")
        self._inter_token = histogram("inter_token_latency_seconds", "Mean time between two tokens of an answer")
        self._latency = histogram("e2e_request_latency_seconds", "From a request's arrival to its end")
        self._prompt_tokens = counter("prompt_tokens", "Prompt tokens")
        self._new_tokens = counter("generation_tokens", "Tokens generated")
        self._success = counter("request_success", "Answers by finish reason", (*label, "finished_reason"))
        self._requests = counter("requests", "Requests by route and status", (*label, "route", "status"))

    def observe(self, record: OutboxRecord) -> None:
        """Count one completed request."""
        label = (record.release, str(record.version))
        self._requests.labels(*label, record.route, str(record.status)).inc()
        if record.status != 200:
            return
        self._latency.labels(*label).observe((record.ended_ns - record.started_ns) / 1e9)
        if record.first_token_ns:
            self._ttft.labels(*label).observe((record.first_token_ns - record.started_ns) / 1e9)
        self._prompt_tokens.labels(*label).inc(record.prompt_tokens)
        self._new_tokens.labels(*label).inc(record.completion_tokens)
        for answer in record.answers:
            self._success.labels(*label, answer.finish_reason).inc()
            if answer.completion_tokens > 1 and answer.first_token_ns:
                gaps = (answer.ended_ns - answer.first_token_ns) / (answer.completion_tokens - 1)
                self._inter_token.labels(*label).observe(max(0.0, gaps / 1e9))

    def watch(self, endpoint: "Endpoint") -> None:
        """Add gauges of the endpoint's current state."""
        self._registry.register(_CurrentState(endpoint))

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class _CurrentState(Collector):
    def __init__(self, endpoint: "Endpoint") -> None:
        self._endpoint = endpoint

    def collect(self) -> Iterator[Metric]:
        running = GaugeMetricFamily(
            "fledge_num_requests_running", "Prompts that the engine is processing", labels=LABELS
        )
        waiting = GaugeMetricFamily("fledge_num_requests_waiting", "Waiting requests", labels=LABELS)
        ready = GaugeMetricFamily("fledge_engine_ready", "1 if the engine takes requests", labels=LABELS)
        for served in self._endpoint.served.values():
            label = served.label
            running.add_metric(label, served.client.running)
            waiting.add_metric(label, max(0, served.admission.requests - served.client.running))
            ready.add_metric(label, float(served.client.ready))
        yield from (running, waiting, ready)
        yield self._shares()
        yield from self._outbox()
        yield from self._supervisor_metrics()

    def _shares(self) -> Metric:
        shares = GaugeMetricFamily("fledge_arm_share", "Share of a model's requests", labels=("model_name", "arm"))
        for route in self._endpoint.routes.routes:
            whole = sum(arm.weight for arm in route.arms)
            for arm in route.arms:
                shares.add_metric((route.name, arm.alias), arm.weight / whole)
        return shares

    def _supervisor_metrics(self) -> Iterable[Metric]:
        """Yield the supervisor's counts of refused releases and of the recorder."""
        recorder, refused = self._endpoint.facts.recorder, self._endpoint.facts.refused
        counter = CounterMetricFamily("fledge_release_refused", "Releases that could not be served", labels=LABELS)
        for release in sorted(set(refused)):
            name, _, version = release.rpartition("/")
            counter.add_metric((name, version), refused.count(release))
        yield counter
        if recorder:
            shipped = CounterMetricFamily(
                "fledge_recorder_shipped", "Records written to MLflow since the recorder started"
            )
            shipped.add_metric([], recorder.shipped)
            aside = CounterMetricFamily("fledge_recorder_refused", "Records that MLflow refused: see refused.jsonl")
            aside.add_metric([], recorder.refused)
            waiting = GaugeMetricFamily("fledge_recorder_waiting", "Records not yet in MLflow")
            waiting.add_metric([], recorder.waiting)
            yield from (shipped, aside, waiting)

    def _outbox(self) -> Iterable[Metric]:
        outbox = self._endpoint.outbox
        if outbox is None:
            return
        for name, value in (("written", outbox.written), ("dropped", outbox.dropped)):
            metric = CounterMetricFamily(f"fledge_outbox_{name}", f"Records {name}")
            metric.add_metric([], value)
            yield metric
