"""The node's numbers for Prometheus, made from the agent's view at each scrape. What is unknown is left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from geniehive.resources import HealthStatus, Host, Service
from nodeagent.agent import AgentView, SessionState

_HOST = (
    ("ram_available_bytes", "RAM that programs could still get."),
    ("cpu_utilization", "CPU in use, 0 to 1 over all CPUs."),
)
_GPU = (
    ("vram_used_bytes", "VRAM in use."),
    ("utilization", "Share of the last sample period in which the GPU worked, 0 to 1."),
    ("temperature_celsius", "Core temperature."),
    ("power_watts", "Power draw."),
)
_SERVICE = (
    ("running", "Requests that the engine works on."),
    ("waiting", "Requests that wait in the engine's queue."),
    ("slots", "Requests that the engine can work on at once."),
    ("kv_cache_usage", "Share of the KV cache in use, 0 to 1."),
    ("vram_used_bytes", "VRAM that the service's models hold."),
    ("loaded_model_count", "Models in memory."),
    ("tokens_per_second", "Generated tokens a second of one request, recent."),
    ("prompt_tokens_per_second", "Prompt tokens a second of one request, recent."),
    ("ttft_seconds", "Time to first token, recent median."),
    ("latency_seconds", "Whole request, recent median."),
    ("prefix_cache_hit_rate", "Share of prompt tokens from the prefix cache, 0 to 1."),
)


class NodeMetrics(Collector):
    """`/metrics` of one agent. Its arguments are read at each scrape."""

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(
        self,
        view: Callable[[], AgentView],
        reconnects: Callable[[], int],
        certificate_end: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._view = view
        self._reconnects = reconnects
        self._certificate_end = certificate_end
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def text(self) -> bytes:
        """The page."""
        return generate_latest(self._registry)

    def describe(self) -> list[Metric]:
        """Nothing: it would mean a scrape at registration."""
        return []

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        view = self._view()
        yield from self._session(view)
        yield from _host(view.host)
        yield from _services(view.services)

    def _session(self, view: AgentView) -> Iterator[Metric]:
        info = GaugeMetricFamily(
            "geniehive_node_info", "The agent: always 1.", labels=("host_id", "version", "device_class")
        )
        info.add_metric((view.host.host_id, view.host.facts.agent_version, view.host.device_class), 1)
        yield info
        connected = float(view.state is SessionState.WELCOMED)
        yield GaugeMetricFamily("geniehive_node_connected", "1 while the control plane knows us.", value=connected)
        yield CounterMetricFamily("geniehive_node_heartbeats", "Heartbeats sent.", value=view.heartbeats_sent)
        yield CounterMetricFamily("geniehive_node_welcomes", "Registrations.", value=view.welcomes)
        yield CounterMetricFamily("geniehive_node_reconnects", "Streams after the first.", value=self._reconnects())
        if (end := self._certificate_end()) is not None:
            words = "End of the certificate that is shown to the control plane, in Unix seconds."
            yield GaugeMetricFamily("geniehive_node_certificate_expiry_timestamp_seconds", words, value=end)


def _host(host: Host) -> Iterator[Metric]:
    if host.facts.ram_total_bytes is not None:
        yield GaugeMetricFamily("geniehive_node_ram_total_bytes", "All RAM.", value=host.facts.ram_total_bytes)
    for name, text in _HOST:
        if (value := getattr(host.observed, name)) is not None:
            yield GaugeMetricFamily(f"geniehive_node_{name}", text, value=value)
    names = {gpu.index: gpu.name for gpu in host.facts.gpus}
    total = GaugeMetricFamily("geniehive_node_gpu_vram_total_bytes", "All VRAM.", labels=("gpu", "name"))
    for gpu in host.facts.gpus:
        if gpu.vram_total_bytes is not None:
            total.add_metric((str(gpu.index), gpu.name), gpu.vram_total_bytes)
    yield total
    for name, text in _GPU:
        family = GaugeMetricFamily(f"geniehive_node_gpu_{name}", text, labels=("gpu", "name"))
        for one in host.observed.gpus:
            if (value := getattr(one, name)) is not None:
                family.add_metric((str(one.index), names.get(one.index, "")), value)
        yield family


def _services(services: tuple[Service, ...]) -> Iterator[Metric]:
    up = GaugeMetricFamily(
        "geniehive_node_service_up", "1 if the engine answers and can take work.", labels=("service_id", "protocol")
    )
    for one in services:
        up.add_metric((one.service_id, one.protocol), float(one.health.status is HealthStatus.HEALTHY))
    yield up
    for name, text in _SERVICE:
        family = GaugeMetricFamily(f"geniehive_node_service_{name}", text, labels=("service_id",))
        for one in services:
            if (value := getattr(one.observed, name)) is not None:
                family.add_metric((one.service_id,), value)
        yield family
