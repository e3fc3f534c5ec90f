"""Policies to compare with: what other routers do, and an oracle.

Each sees what a gateway sees; only the oracle looks at the true engines. Where another router has state
of its own (SGLang's tree of what it sent where) it is kept here, a copy for each gateway as there.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

from geniehive.resources import Observed
from geniehive.routing.candidate import Candidate, Resolution
from geniehive.routing.ledger import Ask, Ledger, Outcome, Ticket
from geniehive.routing.strategy import order
from geniehive.routing.table import RoutingTable
from simulator.engine import Engine, Job
from simulator.trace import Turn
from simulator.world import Done, GatewayState

_NOTHING = Observed()


class Plain:
    """A policy that needs not be told what came of its choices."""

    def __init__(self, dice: random.Random, engines: Mapping[str, Engine]) -> None:
        self.dice = dice
        self.engines = engines

    def began(self, job_id: int, turn: Turn, candidate: Candidate, now: float) -> None:
        """Nothing to note."""

    def first(self, job_id: int, now: float) -> None:
        """Nothing to note."""

    def finished(self, job_id: int, done: Done, now: float) -> None:
        """Nothing to note."""

    def reads(self, service_id: str) -> float | None:  # noqa: ARG002
        """Nothing was learned."""
        return None


class Random(Plain):
    """Any of them."""

    def choose(self, turn: Turn, found: Resolution, gateway: GatewayState, now: float) -> Candidate:  # noqa: ARG002
        """See `Policy.choose`."""
        return self.dice.choice(found.candidates)


class RoundRobin(Plain):
    """Each in turn, cold ones too."""

    _turn = -1

    def choose(self, turn: Turn, found: Resolution, gateway: GatewayState, now: float) -> Candidate:  # noqa: ARG002
        """See `Policy.choose`."""
        self._turn += 1
        return found.candidates[self._turn % len(found.candidates)]


class CacheAware(Plain):
    """SGLang's router: the longest prefix match, unless the queues are far apart.

    Shortest queue if max - min > 64 and max > 1.5 min; else the longest match if it is above 0.3 of the
    prompt; else the service with the smallest tree. Load is this gateway's own open requests.
    """

    def __init__(self, dice: random.Random, engines: Mapping[str, Engine]) -> None:
        super().__init__(dice, engines)
        self._sent: dict[int, dict[str, None]] = {}  # services by mark
        self._sizes: dict[str, int] = {}

    def choose(self, turn: Turn, found: Resolution, gateway: GatewayState, now: float) -> Candidate:  # noqa: ARG002
        """See `Policy.choose`."""
        loads = [gateway.counts.get(each.service.service_id, 0) for each in found.candidates]
        if max(loads) - min(loads) > 64 and max(loads) > 1.5 * min(loads):
            return found.candidates[loads.index(min(loads))]
        by_name = {each.service.service_id: each for each in found.candidates}
        for key in reversed(turn.prefix.keys):
            if (key >> 32) / turn.prefix.size <= 0.3:
                break
            if holders := [name for name in self._sent.get(key, ()) if name in by_name]:
                return by_name[min(holders, key=lambda name: gateway.counts.get(name, 0))]
        return min(found.candidates, key=lambda each: (self._sizes.get(each.service.service_id, 0), self.dice.random()))

    def began(self, job_id: int, turn: Turn, candidate: Candidate, now: float) -> None:  # noqa: ARG002
        """The prompt joins the tree of the service."""
        name, before = candidate.service.service_id, 0
        for key in turn.prefix.keys:
            holders = self._sent.setdefault(key, {})
            if name not in holders:
                holders[name] = None
                self._sizes[name] = self._sizes.get(name, 0) + (key >> 32) - before
            before = key >> 32


class Weighted(CacheAware):
    """llm-d's scorers with its weights: prefix 3, queue 2, KV cache 2, each from 0 to 1.

    Where an engine reports no queue, what the gateways have open there stands for it; unknown use of the
    KV cache counts as half.
    """

    def choose(self, turn: Turn, found: Resolution, gateway: GatewayState, now: float) -> Candidate:  # noqa: ARG002
        """See `Policy.choose`."""
        seen = [gateway.table.observed.get(each.service.service_id, _NOTHING) for each in found.candidates]
        queues = [(one.in_flight or 0) if one.waiting is None else one.waiting for one in seen]
        low, span = min(queues), max(queues) - min(queues)

        def score(number: int) -> float:
            queue = (queues[number] - low) / span if span else 0.0
            usage = seen[number].kv_cache_usage
            kv = 0.5 if usage is None else usage
            name = found.candidates[number].service.service_id
            return 3 * self._match(turn, name) + 2 * (1 - queue) + 2 * (1 - kv) + 1e-6 * self.dice.random()

        return found.candidates[max(range(len(seen)), key=score)]

    def _match(self, turn: Turn, name: str) -> float:
        for key in reversed(turn.prefix.keys):
            if name in self._sent.get(key, ()):
                return (key >> 32) / turn.prefix.size
        return 0.0


class Oracle(Plain):
    """Knows every engine's true state and every answer's length: the least true cost, if nothing came after.

    Cost is the time to the first token plus `writing` times that from the first to the last one.
    """

    def __init__(
        self,
        dice: random.Random,
        engines: Mapping[str, Engine],
        writing: float = 1.0,
        keep: float = 1.0,
        returning: frozenset[int] = frozenset(),
    ) -> None:
        super().__init__(dice, engines)
        self._keep = keep
        self._returning = returning
        self._writing = writing

    def choose(self, turn: Turn, found: Resolution, gateway: GatewayState, now: float) -> Candidate:  # noqa: ARG002
        """See `Policy.choose`."""
        job = Job(1 << 60, turn.asset_id, turn.prompt, turn.prompt_tokens, turn.answer, turn.hardness)

        def cost(candidate: Candidate) -> float:
            engine = self.engines[candidate.service.service_id]
            first, last, lost = engine.foresee(job)
            loss = 0.0
            if lost and lost[-1].id in self._returning:
                loss = sum(piece.tokens for piece in lost) / engine.spec.prefill_speed
            return first + self._writing * (last - first) + self._keep * loss

        return min(found.candidates, key=cost)


class Shipped(Plain):
    """A strategy of `geniehive.routing`, called and told as a gateway does it."""

    def __init__(self, dice: random.Random, engines: Mapping[str, Engine]) -> None:
        super().__init__(dice, engines)
        self._ledger = Ledger()
        self._tickets: dict[int, Ticket] = {}
        self._turn = 0
        self._table: RoutingTable | None = None
        self._ask = Ask(0.0)

    def choose(self, turn: Turn, found: Resolution, gateway: GatewayState, now: float) -> Candidate:
        """See `Policy.choose`."""
        table = gateway.table
        if table is not self._table:
            self._table = table
            self._ledger.observe(table.observed, gateway.reported)
        self._turn += 1
        self._ask = Ask(now, turn.prefix, turn.max_tokens)
        return order(table, found, gateway.counts, self._turn, ask=self._ask, ledger=self._ledger, limit=4)[0]

    def began(self, job_id: int, turn: Turn, candidate: Candidate, now: float) -> None:  # noqa: ARG002
        """A ticket is taken."""
        self._tickets[job_id] = self._ledger.begin(candidate, self._ask)

    def first(self, job_id: int, now: float) -> None:
        """The ledger is told."""
        self._ledger.first(self._tickets[job_id], now)

    def reads(self, service_id: str) -> float | None:
        """See `Policy.reads`."""
        return self._ledger.reads(service_id)

    def finished(self, job_id: int, done: Done, now: float) -> None:
        """The ledger is told, as much as such an engine tells: Ollama does not say what was cached."""
        engine = self.engines[done.service_id].spec.engine
        cached = None if engine == "ollama" else done.cached
        outcome = Outcome(True, done.turn.prompt_tokens, cached, done.turn.answer.tokens)
        self._ledger.end(self._tickets.pop(job_id), now, outcome)
