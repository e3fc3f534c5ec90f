"""What comes from outside of nodes: benchmark samples, probes, and the outcome of traffic, in the pure core."""

from __future__ import annotations

from controlplane import events as ev
from controlplane.cluster import ClusterState
from controlplane.leases import LeaseTerms
from geniehive.resources import (
    BenchmarkSample,
    Health,
    HealthStatus,
    Host,
    HostObserved,
    Observed,
    Service,
    ServiceState,
    ServiceTraffic,
)
from geniehive.routing.apply import apply_delta

GOOD, BAD = Health(status=HealthStatus.HEALTHY), Health(status=HealthStatus.UNHEALTHY, reason="refused")
DOWN = ev.Finding(HealthStatus.UNHEALTHY, "status 500")
SAMPLE = BenchmarkSample(sample_id="1", workload="chat.w", service_id="s", measured_at_ms=1, requests=1, quality=0.5)


class World:
    """A core with one host `h`, whose one service `s` is healthy unless a test says otherwise."""

    def __init__(self, *services: str, registry: ev.Registry | None = None) -> None:
        self.at = 0.0
        self.state = ClusterState(LeaseTerms(), 1, registry or ev.Registry(), self.now)
        self.mirror = self.state.snapshot
        self.sequence = 0
        if services:
            self.hello(*services)

    @property
    def now(self) -> ev.Instant:
        return ev.Instant(self.at, 1000)

    def apply(self, event: ev.Event) -> list[ev.Effect]:
        effects = self.state.apply(event, self.now)
        if effects and isinstance(effects[0], ev.Persist):
            effects = self.state.apply(ev.Persisted(event, effects[0].changes), self.now)
        for effect in effects:
            if isinstance(effect, ev.Publish):
                self.mirror = apply_delta(self.mirror, effect.delta, effect.revision)
        assert self.mirror.benchmarks == self.state.snapshot.benchmarks
        assert {k: s.health for k, s in self.mirror.services.items()} == {
            k: s.health for k, s in self.state.snapshot.services.items()
        }
        return effects

    def hello(self, *services: str) -> None:
        made = tuple(Service(service_id=key, host_id="h", health=GOOD) for key in services)
        self.apply(ev.HelloReceived(session_id="x", host=Host(host_id="h", boot_epoch=1), services=made))

    def heartbeat(self, health: Health) -> None:
        self.sequence += 1
        state = ServiceState(service_id="s", health=health, observed=Observed(running=self.sequence))
        beat = {"session_id": "x", "host_id": "h", "boot_epoch": 1, "sequence": self.sequence}
        self.apply(ev.HeartbeatReceived(**beat, host=HostObserved(), services=(state,)))

    def report(self, well: int, failed: int) -> list[ev.Effect]:
        traffic = ServiceTraffic(service_id="s", succeeded_total=well, failed_total=failed)
        return self.apply(ev.TrafficReported(stream_id="g", services=(traffic,)))

    def advance(self, seconds: float) -> None:
        self.at += seconds
        self.apply(ev.Tick())

    @property
    def health(self) -> HealthStatus:
        return self.mirror.services["s"].health.status


def test_samples_reach_the_gateways_with_their_service():
    world = World()
    assert world.apply(ev.SamplesStored((SAMPLE,))) == []
    world.hello("s")
    assert world.mirror.benchmarks["s"].summaries[0].quality == 0.5
    world.hello("other")
    assert world.mirror.benchmarks == {}
    world.hello("s")
    assert set(world.mirror.benchmarks) == {"s"}


def test_a_sample_of_a_known_service_is_published_at_once_and_a_repeat_is_not():
    world = World("s")
    (published,) = world.apply(ev.SamplesStored((SAMPLE,)))
    assert [each.service_id for each in published.delta.benchmarks] == ["s"]
    assert published.delta.services == ()
    assert world.apply(ev.SamplesStored((SAMPLE,))) == []


def test_restored_samples_count_from_the_start():
    service = Service(service_id="s", host_id="h")
    other = BenchmarkSample(sample_id="2", workload="w", service_id="unknown", measured_at_ms=1, requests=1)
    world = World(registry=ev.Registry(hosts=[Host(host_id="h")], services=[service], samples=[SAMPLE, other]))
    assert set(world.state.snapshot.benchmarks) == {"s"}


def test_a_probe_changes_health_alone_and_is_announced():
    world = World("s")
    before = world.mirror.services["s"]
    assert world.apply(ev.ProbesEnded({"s": DOWN, "unknown": DOWN})) == []
    effects = world.apply(ev.ProbesEnded({"s": DOWN}))
    assert [effect.event.kind for effect in effects if isinstance(effect, ev.Announce)] == ["service.unhealthy"]
    after = world.mirror.services["s"]
    assert after.health.reason == "probe: status 500"
    assert (after.assets, after.operations, after.endpoint) == (before.assets, before.operations, before.endpoint)
    world.heartbeat(GOOD)
    assert world.health is HealthStatus.UNHEALTHY  # the same word again is no news
    world.apply(ev.ProbesEnded({"s": ev.Finding(HealthStatus.HEALTHY)}))
    assert world.health is HealthStatus.HEALTHY


def test_a_node_that_says_something_else_is_believed_over_older_probes():
    world = World("s")
    for _ in range(2):
        world.apply(ev.ProbesEnded({"s": DOWN}))
    world.heartbeat(BAD)
    world.heartbeat(GOOD)
    assert world.health is HealthStatus.HEALTHY


def test_traffic_ejects_a_service_and_time_lets_it_back():
    world = World("s")
    world.apply(ev.GatewayConnected(stream_id="g", gateway_id="one"))
    world.report(0, 100)  # a gateway that is older than this control plane: no news
    assert world.health is HealthStatus.HEALTHY
    for n in range(1, 6):
        world.at += 1
        effects = world.report(0, 100 + n)
    assert world.health is HealthStatus.UNHEALTHY
    assert "service.unhealthy" in [each.event.kind for each in effects if isinstance(each, ev.Announce)]
    world.heartbeat(GOOD)
    assert world.health is HealthStatus.UNHEALTHY
    world.advance(5)
    assert world.health is HealthStatus.HEALTHY
    world.report(1, 105)
    world.at += 1
    world.report(1, 106)
    assert world.health is HealthStatus.HEALTHY


def test_a_service_that_comes_back_anew_has_no_past():
    world = World("s")
    for _ in range(2):
        world.apply(ev.ProbesEnded({"s": DOWN}))
    world.hello("other")
    world.hello("s")
    assert world.health is HealthStatus.HEALTHY
