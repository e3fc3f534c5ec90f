"""Fleets: the unequal machines that people have, as hosts with one engine each."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from geniehive.resources import Asset, Health, HealthStatus, Host, Operation, Runtime, Service
from simulator.engine import EngineSpec, ModelSpec
from simulator.trace import LARGE, SMALL

_GB = 1 << 30
_SIZES = {SMALL: 5 * _GB, LARGE: 9 * _GB}

_SMALL_ONLY = (ModelSpec(SMALL),)
_BOTH = (ModelSpec(SMALL, vram=0.4), ModelSpec(LARGE, vram=0.6, speed=0.55))
_SWAPPED = (ModelSpec(SMALL, vram=1.0, load_s=6.0), ModelSpec(LARGE, vram=1.0, speed=0.55, load_s=11.0))

# Speeds of an 8B model in 4 bits, as people report them for such machines.
_MACHINES = {
    "a100": EngineSpec("vllm", 64, 9000.0, 95.0, _BOTH, kv_tokens=220_000, crowding=0.02, starved=0.3, drag=0.003),
    "4090": EngineSpec("llama.cpp", 4, 4500.0, 110.0, _BOTH),
    "3060": EngineSpec("llama.cpp", 2, 1400.0, 48.0, _SMALL_ONLY),
    "mac": EngineSpec("ollama", 1, 520.0, 38.0, _SWAPPED),
    "old": EngineSpec("llama.cpp", 1, 150.0, 9.0, _SMALL_ONLY, overhead_s=0.08),
}
FLEETS = {
    2: ("4090", "mac"),
    4: ("4090", "3060", "mac", "old"),
    16: ("a100", *("4090",) * 4, *("3060",) * 4, *("mac",) * 4, *("old",) * 3),
}


@dataclass(frozen=True, slots=True)
class Machine:
    """A host of a fleet, the service on it, the engine behind it, and how often it is heard from."""

    host: Host
    service: Service
    spec: EngineSpec
    heartbeat_s: float


def make(size: int, seed: int) -> tuple[Machine, ...]:
    """A fleet of 2, 4 or 16 machines; no two of a kind are quite equally fast."""
    dice = random.Random(seed)
    return tuple(_machine(number, kind, dice) for number, kind in enumerate(FLEETS[size]))


def _machine(number: int, kind: str, dice: random.Random) -> Machine:
    spec = _MACHINES[kind]
    pace = dice.uniform(0.8, 1.2)
    spec = replace(spec, prefill_speed=spec.prefill_speed * pace, decode_speed=spec.decode_speed * pace)
    name = f"{kind}-{number}"
    host = Host(host_id=name)
    service = Service(
        service_id=f"{name}/llm",
        host_id=name,
        operations=(Operation.CHAT,),
        endpoint=f"http://{name}:8080",
        protocol={"llama.cpp": "llamacpp"}.get(spec.engine, spec.engine),
        runtime=Runtime(engine=spec.engine),
        health=Health(status=HealthStatus.HEALTHY),
        assets=tuple(_asset(model) for model in spec.models),
    )
    return Machine(host, service, spec, dice.choice((1.0, 2.0, 5.0, 5.0)))


def _asset(model: ModelSpec) -> Asset:
    return Asset(asset_id=model.asset_id, size_bytes=_SIZES[model.asset_id], loaded=model.vram < 1.0)


def capacity(fleet: tuple[Machine, ...], asset_id: str, fresh_tokens: float, answer_tokens: float) -> float:
    """Requests a second that the fleet can bear of this kind, roughly: for setting the load of a benchmark."""
    total = 0.0
    for machine in fleet:
        spec = machine.spec
        for model in spec.models:
            if model.asset_id == asset_id:
                streams = min(spec.slots, 24)
                decode = answer_tokens / (spec.decode_speed * model.speed)
                read = spec.overhead_s + fresh_tokens / (spec.prefill_speed * model.speed)
                total += 1.0 / (read + decode * (1 + spec.crowding * (streams - 1)) / streams)
    return total
