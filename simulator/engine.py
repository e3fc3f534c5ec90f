"""A simulated engine: slots, a queue, one processor that reads prompts and writes answers, models to load.

Prompts are read one at a time, in order of arrival; answers are written together, each stream the
slower the more there are, and slower still while a prompt is read (llama.cpp and vLLM put both into one
batch). A request waits for its model to be loaded, for a slot and, in vLLM, for room in the KV cache;
the queue is first come, first served. Time moves by `advance`; between two events all rates are constant.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from simulator.cache import Cache, Chain, Piece, SlotCache, TreeCache

_NEVER = float("inf")
_TINY = 1e-7


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model on one engine; `speed` scales the engine's speeds, `load_s` is what loading takes."""

    asset_id: str
    vram: float = 1.0
    speed: float = 1.0
    load_s: float = 8.0


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What an engine is made of. Speeds in tokens a second; `vram` in the unit of the models' `vram`."""

    engine: str  # "llama.cpp", "ollama" or "vllm"
    slots: int
    prefill_speed: float
    decode_speed: float
    models: tuple[ModelSpec, ...]
    vram: float = 1.0
    kv_tokens: int = 0
    """Size of a shared cache (vLLM); 0 stands for a sequence a slot."""
    overhead_s: float = 0.03
    crowding: float = 0.12
    """How much slower a stream gets for each other one."""
    starved: float = 0.2
    """Share of the decode speed that is left while a prompt is read."""
    drag: float = 0.02
    """How much slower a prompt is read for each stream."""
    long_context: float = 32768.0
    """Prompt length at which reading a token takes twice as long as at the start."""


class Job(NamedTuple):
    """A request as its engine sees it; `hardness` is the noise of its prefill time."""

    job_id: int
    asset_id: str
    prompt: Chain
    prompt_tokens: int
    answer: Piece
    hardness: float = 1.0


class Happened(NamedTuple):
    """`what` is "first" (the first token is out) or "done"; `cached` tokens were there already."""

    what: str
    at: float
    job: Job
    cached: int
    lost: Chain = ()


class Foreseen(NamedTuple):
    """Seconds until the first token and the last, and the sequence that the cache would lose."""

    first: float
    last: float
    lost: Chain


class _Run(NamedTuple):
    job: Job
    place: int
    cached: int
    reading_s: float
    writing_s: float
    lost: Chain


@dataclass
class _Model:
    spec: ModelSpec
    cache: Cache
    loaded: bool = False
    active: int = 0
    used_at: float = 0.0


@dataclass
class Engine:
    """One engine in time."""

    spec: EngineSpec
    now: float = 0.0
    happened: list[Happened] = field(default_factory=list)
    queue: deque[Job] = field(default_factory=deque)
    busy_s: float = 0.0
    read_tokens: int = 0
    read_s: float = 0.0
    written_tokens: int = 0
    written_s: float = 0.0
    _models: dict[str, _Model] = field(default_factory=dict)
    _reading: deque[_Run] = field(default_factory=deque)
    _left_s: float = 0.0  # of the prompt that is being read
    _writing: list[tuple[float, int, _Run]] = field(default_factory=list)  # heap by the clock of writing
    _written: float = 0.0  # the clock of writing: seconds that each open stream had at full speed
    _loading: tuple[float, str] | None = None
    _kv_used: int = 0

    def __post_init__(self) -> None:
        if not self._models:
            room = self.spec.vram
            for model in self.spec.models:
                cache = TreeCache(self.spec.kv_tokens) if self.spec.kv_tokens else SlotCache(self.spec.slots)
                room -= model.vram
                self._models[model.asset_id] = _Model(model, cache, loaded=room >= -_TINY)

    # --- what can be seen -------------------------------------------------------------------------

    @property
    def running(self) -> int:
        """Requests in a slot."""
        return len(self._reading) + len(self._writing)

    @property
    def kv_usage(self) -> float | None:
        """Share of the KV cache that running requests need; None where slots are all there is."""
        return min(self._kv_used / self.spec.kv_tokens, 1.0) if self.spec.kv_tokens else None

    def loaded(self) -> frozenset[str]:
        """Models in memory."""
        return frozenset(name for name, model in self._models.items() if model.loaded)

    # --- time --------------------------------------------------------------------------------------

    def next_event(self) -> float:
        """When something happens by itself; infinity if nothing does."""
        at = self._loading[0] if self._loading else _NEVER
        reading, writing = self._rates()
        if self._reading:
            at = min(at, self.now + self._left_s / reading)
        if self._writing:
            at = min(at, self.now + max(self._writing[0][0] - self._written, 0.0) / writing)
        return at

    def _rates(self) -> tuple[float, float]:
        streams = len(self._writing)
        reading = 1.0 / (1.0 + self.spec.drag * streams)
        writing = 1.0 / (1.0 + self.spec.crowding * max(streams - 1, 0))
        return reading, writing * self.spec.starved if self._reading else writing

    def advance(self, to: float) -> None:
        """Let time pass; what happens on the way is added to `happened`."""
        while (at := self.next_event()) <= to:
            self._pass(at)
            self._settle()
        self._pass(to)

    def _pass(self, to: float) -> None:
        span = max(to - self.now, 0.0)
        reading, writing = self._rates()
        if self._reading or self._writing:
            self.busy_s += span
        if self._reading:
            self._left_s -= span * reading
            self.read_s += span
        if self._writing:
            self.written_s += span * len(self._writing)
            self._written += span * writing
        self.now = max(to, self.now)

    def _settle(self) -> None:
        """Handle what is due now."""
        if self._loading and self._loading[0] <= self.now + _TINY:
            model = self._models[self._loading[1]]
            model.loaded, model.used_at, self._loading = True, self.now, None
        if self._reading and self._left_s <= _TINY:
            self._read()
        while self._writing and self._writing[0][0] <= self._written + _TINY:
            self._finish(heapq.heappop(self._writing)[2])
        self._admit()

    def _read(self) -> None:
        run = self._reading.popleft()
        self.read_tokens += run.job.prompt_tokens - run.cached
        self._left_s = self._reading[0].reading_s if self._reading else 0.0
        self._models[run.job.asset_id].cache.filled(run.job.prompt)
        self.happened.append(Happened("first", self.now, run.job, run.cached))
        heapq.heappush(self._writing, (self._written + run.writing_s, run.job.job_id, run))

    def _finish(self, run: _Run) -> None:
        model = self._models[run.job.asset_id]
        self.written_tokens += run.job.answer.tokens - 1
        model.active -= 1
        model.used_at = self.now
        model.cache.give(run.place, (*run.job.prompt, run.job.answer))
        self._kv_used -= run.job.prompt_tokens + run.job.answer.tokens
        self.happened.append(Happened("done", self.now, run.job, run.cached, run.lost))

    # --- work --------------------------------------------------------------------------------------

    def submit(self, job: Job) -> None:
        """A request arrives now."""
        self.queue.append(job)
        self._admit()

    def _admit(self) -> None:
        while self.queue and self._loading is None:
            job = self.queue[0]
            model = self._models[job.asset_id]
            if not model.loaded:
                self._load(model)
                return
            if model.active >= self.spec.slots or not self._room(job):
                return
            self._start(self.queue.popleft(), model)

    def _room(self, job: Job) -> bool:
        need = job.prompt_tokens + job.answer.tokens
        return not self.spec.kv_tokens or self._kv_used == 0 or self._kv_used + need <= self.spec.kv_tokens

    def _load(self, wanted: _Model) -> None:
        """Make room by idle models, the longest unused first, and load; if there is none yet, wait."""
        resident = [model for model in self._models.values() if model.loaded]
        room = self.spec.vram - sum(model.spec.vram for model in resident)
        for model in sorted(resident, key=lambda model: model.used_at):
            if room >= wanted.spec.vram - _TINY:
                break
            if model.active == 0:
                model.loaded = False
                model.cache = TreeCache(self.spec.kv_tokens) if self.spec.kv_tokens else SlotCache(self.spec.slots)
                room += model.spec.vram
        if room >= wanted.spec.vram - _TINY:
            self._loading = (self.now + wanted.spec.load_s, wanted.spec.asset_id)

    def _start(self, job: Job, model: _Model) -> None:
        place, cached, lost = model.cache.take(job.prompt)
        cached = min(cached, job.prompt_tokens - 1)
        fresh = job.prompt_tokens - cached
        stretch = 1.0 + (cached + fresh / 2) / self.spec.long_context
        reading_s = self.spec.overhead_s + fresh * stretch * job.hardness / (self.spec.prefill_speed * model.spec.speed)
        writing_s = (job.answer.tokens - 1) / (self.spec.decode_speed * model.spec.speed)
        run = _Run(job, place, cached, reading_s, writing_s, lost)
        model.active += 1
        self._kv_used += job.prompt_tokens + job.answer.tokens
        if not self._reading:
            self._left_s = reading_s
        self._reading.append(run)

    # --- looking ahead -----------------------------------------------------------------------------

    def foresee(self, job: Job) -> Foreseen:
        """What would come of the job, if it came now and nothing came after it."""
        ahead = self._copy()
        ahead.submit(job)
        first = 0.0
        while True:
            at = ahead.next_event()
            if at == _NEVER:
                return Foreseen(_NEVER, _NEVER, ())
            ahead.advance(at)
            for event in ahead.happened:
                if event.job is job:
                    if event.what == "done":
                        return Foreseen(first, event.at - self.now, event.lost)
                    first = event.at - self.now
            ahead.happened.clear()

    def _copy(self) -> Engine:
        models = {
            name: _Model(model.spec, model.cache.frozen(), model.loaded, model.active, model.used_at)
            for name, model in self._models.items()
        }
        return Engine(
            spec=self.spec,
            now=self.now,
            queue=deque(self.queue),
            _models=models,
            _reading=deque(self._reading),
            _left_s=self._left_s,
            _writing=self._writing[:],
            _written=self._written,
            _loading=self._loading,
            _kv_used=self._kv_used,
        )
