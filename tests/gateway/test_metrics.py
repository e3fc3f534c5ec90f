"""What Prometheus reads."""

from prometheus_client.parser import text_string_to_metric_families

from gateway.admission import Queue
from gateway.circuit import Circuits
from gateway.inflight import InFlight
from gateway.metrics import Metrics
from gateway.view import RoutingView
from geniehive.config import EjectionConfig
from geniehive.resources import Gpu, GpuObserved, HostFacts, HostObserved, LeaseState, Snapshot
from tests.geniehive.routing.fleet import Observed, host, service


def _samples(metrics):
    families = text_string_to_metric_families(metrics.exposition().decode())
    return {(s.name, *sorted(s.labels.values())): s.value for family in families for s in family.samples}


def test_nodes_and_engines_are_told_and_the_unknown_is_left_out():
    facts = HostFacts(gpus=(Gpu(index=0, vram_total_bytes=24),))
    measured = HostObserved(gpus=(GpuObserved(index=0, vram_used_bytes=12),))
    view = RoutingView()
    view.replace(
        Snapshot(
            hosts={"h1": host(facts=facts, observed=measured), "h2": host("h2", lease=LeaseState.STALE)},
            services={"a": service("a", observed=Observed(running=2)), "b": service("b", "h2")},
        )
    )
    samples = _samples(Metrics(view, InFlight(lambda: 0.0), Circuits(EjectionConfig()), Queue()))
    assert samples["geniehive_node_up", "h1"] == 1
    assert samples["geniehive_node_up", "h2"] == 0
    assert samples["geniehive_node_vram_used_bytes", "0", "h1"] == 12
    assert samples["geniehive_node_vram_total_bytes", "0", "h1"] == 24
    assert samples["geniehive_node_engine_running", "a"] == 2
    assert ("geniehive_node_engine_running", "b") not in samples
    assert ("geniehive_node_engine_waiting", "a") not in samples


def test_counters_and_open_requests():
    in_flight = InFlight(lambda: 0.0)
    metrics = Metrics(RoutingView(), in_flight, Circuits(EjectionConfig()), Queue())
    metrics.tallies.requests["chat", 200] = 1
    metrics.tallies.attempts["a", "ok"] = 1
    with in_flight.guard("a"):
        samples = _samples(metrics)
    assert samples["geniehive_gateway_requests_total", "200", "chat"] == 1
    assert samples["geniehive_gateway_attempts_total", "a", "ok"] == 1
    assert samples["geniehive_gateway_in_flight", "a"] == 1
    assert samples[("geniehive_gateway_connected",)] == 0


def test_two_gateways_in_one_process_do_not_meet():
    one, two = (Metrics(RoutingView(), InFlight(lambda: 0.0), Circuits(EjectionConfig()), Queue()) for _ in range(2))
    one.tallies.requests["chat", 200] = 1
    assert ("geniehive_gateway_requests_total", "200", "chat") not in _samples(two)


def test_histograms_count_what_is_up_to_each_bound():
    metrics = Metrics(RoutingView(), InFlight(lambda: 0.0), Circuits(EjectionConfig()), Queue())
    for seconds in (0.01, 0.05, 3, 100):
        metrics.tallies.first_byte("chat", seconds)
    name = "geniehive_gateway_ttft_seconds"
    samples = _samples(metrics)
    found = [samples[f"{name}_bucket", *sorted((bound, "chat"))] for bound in ("0.05", "2.0", "4.0", "+Inf")]
    assert found == [2, 2, 3, 4]
    assert samples[f"{name}_count", "chat"] == 4
    assert samples[f"{name}_sum", "chat"] == 103.06
    assert samples[("geniehive_gateway_overhead_seconds_count",)] == 0
