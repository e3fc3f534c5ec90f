"""A cluster in simulated time: clients, gateways that choose, engines, and what gateways hear, late.

Nodes tell what their engine tells, at their heartbeat; gateways report what they have open every quarter
of a second when something moved; the merged picture reaches all gateways a tenth of a second later. Between
two reports a gateway knows its own requests only. Everything is decided by the trace, the fleet and the
seed: the same arguments give the same result.
"""

from __future__ import annotations

import heapq
import random
import statistics
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from msgspec.structs import replace

from geniehive.resources import Observed, Operation, Snapshot
from geniehive.routing.candidate import Candidate, Resolution
from geniehive.routing.resolve import resolve
from geniehive.routing.table import RoutingTable
from simulator.engine import Engine, Happened, Job
from simulator.fleet import Machine
from simulator.trace import Conversation, Turn

_REPORT_EVERY_S = 0.25
_PUBLISH_AFTER_S = 0.1
_RECENT = 32


class Done(NamedTuple):
    """One finished request of conversation `talk`: when it came, its first token and its last; what was warm."""

    turn: Turn
    talk: int
    service_id: str
    came: float
    first: float
    last: float
    cached: int

    @property
    def ttft(self) -> float:
        """Seconds to the first token."""
        return self.first - self.came

    @property
    def latency(self) -> float:
        """Seconds to the last token."""
        return self.last - self.came


class Policy(Protocol):
    """Chooses for one gateway, and is told what came of it."""

    def choose(self, turn: Turn, found: Resolution, gateway: GatewayState, now: float) -> Candidate:
        """The candidate that this request goes to. Only an oracle may look at `turn` beyond prefix and max_tokens."""
        ...

    def began(self, job_id: int, turn: Turn, candidate: Candidate, now: float) -> None:
        """The request was sent."""
        ...

    def first(self, job_id: int, now: float) -> None:
        """The first token is there."""
        ...

    def reads(self, service_id: str) -> float | None:
        """What it learned of the speed of reading at a service, in tokens a second, for the others."""
        ...

    def finished(self, job_id: int, done: Done, now: float) -> None:
        """The answer is whole. Of `done.cached` a gateway knows only what the engine tells."""
        ...


class _Tally:
    """What a gateway saw of a service."""

    def __init__(self) -> None:
        self.ttft: deque[float] = deque(maxlen=_RECENT)
        self.latency: deque[float] = deque(maxlen=_RECENT)
        self.speed: deque[float] = deque(maxlen=_RECENT)


@dataclass
class GatewayState:
    """What one gateway knows: the table, its own open requests, and those that it last reported."""

    number: int
    table: RoutingTable
    counts: dict[str, int] = field(default_factory=dict)
    reported: Mapping[str, int] = field(default_factory=dict)
    tallies: dict[str, _Tally] = field(default_factory=dict)


class _Open(NamedTuple):
    turn: Turn
    gateway: int
    talk: int
    step: int
    service_id: str
    came: float


class PolicyFactory(Protocol):
    """Makes the policy of one gateway."""

    def __call__(self, dice: random.Random, engines: Mapping[str, Engine]) -> Policy:
        """`engines` are the true ones, for an oracle."""
        ...


class World:
    """One run."""

    def __init__(
        self,
        fleet: tuple[Machine, ...],
        trace: tuple[Conversation, ...],
        policy: PolicyFactory,
        *,
        strategy: str = "scored",
        gateways: int = 1,
        seed: int = 0,
    ) -> None:
        dice = random.Random(seed)
        self.now = 0.0
        self.done: list[Done] = []
        self.engines = {machine.service.service_id: Engine(machine.spec) for machine in fleet}
        self._machines = {machine.service.service_id: machine for machine in fleet}
        self._trace = trace
        self._told: dict[str, Observed] = {}  # by engines, as of their last heartbeats
        self._loaded = {name: engine.loaded() for name, engine in self.engines.items()}
        self._strategy = strategy
        table = self._table({})
        self._gateways = [GatewayState(number, table) for number in range(gateways)]
        self._policies = [policy(random.Random(dice.randrange(1 << 30)), self.engines) for _ in range(gateways)]
        self._firsts: dict[int, tuple[float, int]] = {}
        self._open: dict[int, _Open] = {}
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self._jobs = 0
        self._left = sum(len(talk.turns) for talk in trace)
        for number, talk in enumerate(trace):
            self._at(talk.starts_at, lambda number=number: self._ask(number, 0))  # type: ignore[misc]
        for name, machine in self._machines.items():
            self._at(dice.uniform(0, machine.heartbeat_s), lambda name=name: self._heartbeat(name))  # type: ignore[misc]
        self._at(dice.uniform(0, _REPORT_EVERY_S), self._report)

    def run(self) -> list[Done]:
        """Until every request is answered."""
        while self._left:
            at, _, act = heapq.heappop(self._heap)
            self.now = at
            act()
        return self.done

    def _at(self, when: float, act: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._heap, (when, self._order, act))

    # --- requests ----------------------------------------------------------------------------------

    def _ask(self, talk: int, step: int) -> None:
        conversation = self._trace[talk]
        turn = conversation.turns[step]
        gateway = self._gateways[conversation.client % len(self._gateways)]
        for engine in self.engines.values():
            engine.advance(self.now)
        policy = self._policies[gateway.number]
        found = resolve(gateway.table, turn.asset_id, Operation.CHAT)
        chosen = policy.choose(turn, found, gateway, self.now)
        service_id = chosen.service.service_id
        self._jobs += 1
        self._open[self._jobs] = _Open(turn, gateway.number, talk, step, service_id, self.now)
        gateway.counts[service_id] = gateway.counts.get(service_id, 0) + 1
        policy.began(self._jobs, turn, chosen, self.now)
        job = Job(self._jobs, turn.asset_id, turn.prompt, turn.prompt_tokens, turn.answer, turn.hardness)
        self.engines[service_id].submit(job)
        self._wake(service_id)

    def _wake(self, service_id: str) -> None:
        """Hear what the engine did, and come back when it does something next."""
        engine = self.engines[service_id]
        happened, engine.happened = engine.happened, []
        for event in happened:
            self._tell(event)
        at = engine.next_event()
        if at < float("inf"):
            self._at(at, lambda: self._due(service_id, at))

    def _due(self, service_id: str, at: float) -> None:
        engine = self.engines[service_id]
        if engine.happened or engine.next_event() <= at:
            engine.advance(at)
            self._wake(service_id)

    def _tell(self, event: Happened) -> None:
        opened = self._open[event.job.job_id]
        policy = self._policies[opened.gateway]
        if event.what == "first":
            self._firsts[event.job.job_id] = (event.at, event.cached)
            policy.first(event.job.job_id, event.at)
            return
        del self._open[event.job.job_id]
        gateway = self._gateways[opened.gateway]
        gateway.counts[opened.service_id] -= 1
        first, cached = self._firsts.pop(event.job.job_id)
        done = Done(opened.turn, opened.talk, opened.service_id, opened.came, first, event.at, cached)
        self.done.append(done)
        self._left -= 1
        self._count(gateway, done)
        policy.finished(event.job.job_id, done, event.at)
        turns = self._trace[opened.talk].turns
        if opened.step + 1 < len(turns):
            pause = turns[opened.step + 1].pause_s
            self._at(event.at + pause, lambda: self._ask(opened.talk, opened.step + 1))

    @staticmethod
    def _count(gateway: GatewayState, done: Done) -> None:
        tally = gateway.tallies.setdefault(done.service_id, _Tally())
        tally.ttft.append(done.ttft)
        tally.latency.append(done.latency)
        if done.turn.answer.tokens > 1:
            tally.speed.append((done.turn.answer.tokens - 1) / (done.last - done.first))

    # --- what gateways hear ------------------------------------------------------------------------

    def _heartbeat(self, name: str) -> None:
        """What the engine tells of itself: Ollama only its loaded models."""
        machine, engine = self._machines[name], self.engines[name]
        engine.advance(self.now)
        if engine.spec.engine != "ollama":
            speeds = engine.spec.engine == "llama.cpp"  # vLLM tells of tokens, not of the time they took
            self._told[name] = Observed(
                tokens_per_second=_rate(engine.written_tokens, engine.written_s) if speeds else None,
                prompt_tokens_per_second=_rate(engine.read_tokens, engine.read_s) if speeds else None,
                running=engine.running,
                waiting=len(engine.queue),
                slots=None if engine.spec.kv_tokens else engine.spec.slots,
                kv_cache_usage=engine.kv_usage,
            )
        if engine.loaded() != self._loaded[name]:
            self._loaded[name] = engine.loaded()
            table = self._table(self._merged())
            for gateway in self._gateways:
                gateway.table = table
        self._wake(name)
        self._at(self.now + machine.heartbeat_s, lambda: self._heartbeat(name))

    def _report(self) -> None:
        for gateway in self._gateways:
            gateway.reported = dict(gateway.counts)
        merged = self._merged()
        self._at(self.now + _PUBLISH_AFTER_S, lambda: self._publish(merged))
        self._at(self.now + _REPORT_EVERY_S, self._report)

    def _publish(self, merged: dict[str, Observed]) -> None:
        for gateway in self._gateways:
            gateway.table = gateway.table.with_observed(merged, {})

    def _merged(self) -> dict[str, Observed]:
        return {name: self._merge(name) for name in self.engines}

    def _merge(self, name: str) -> Observed:
        told = self._told.get(name, Observed())
        tallies = [gateway.tallies[name] for gateway in self._gateways if name in gateway.tallies]
        return replace(
            told,
            in_flight=sum(gateway.reported.get(name, 0) for gateway in self._gateways),
            ttft_seconds=_middle([statistics.median(tally.ttft) for tally in tallies if tally.ttft]),
            latency_seconds=_middle([statistics.median(tally.latency) for tally in tallies if tally.latency]),
            prompt_tokens_per_second=told.prompt_tokens_per_second
            or _middle([speed for policy in self._policies if (speed := policy.reads(name)) is not None]),
            tokens_per_second=told.tokens_per_second
            or _middle([statistics.median(tally.speed) for tally in tallies if tally.speed]),
        )

    def _table(self, observed: Mapping[str, Observed]) -> RoutingTable:
        services = {}
        for name, machine in self._machines.items():
            assets = tuple(
                replace(asset, loaded=asset.asset_id in self._loaded[name]) for asset in machine.service.assets
            )
            services[name] = replace(machine.service, assets=assets)
        hosts = {machine.host.host_id: machine.host for machine in self._machines.values()}
        return RoutingTable(Snapshot(hosts=hosts, services=services), self._strategy).with_observed(observed, {})


def _middle(values: list[float]) -> float | None:
    return sorted(values)[(len(values) - 1) // 2] if values else None


def _rate(tokens: int, seconds: float) -> float | None:
    return tokens / seconds if seconds and tokens else None
