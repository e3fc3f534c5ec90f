"""Apple silicon: one GPU that shares the machine's memory, as psutil tells it.

Utilization, temperature and power come from `powermetrics`, which wants root: they stay unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from geniehive.resources import Gpu, GpuObserved


class Memory(Protocol):
    """What of psutil's virtual memory is read; bytes."""

    @property
    def total(self) -> int:
        """All of it."""
        ...

    @property
    def available(self) -> int:
        """What programs could still get."""
        ...


def open_apple(system: str, machine: str, cpu_model: str, memory: Callable[[], Memory]) -> AppleProbe | None:
    """The probe, or None where this is no Apple silicon. `system` and `machine` as in `platform`."""
    if system.lower() != "darwin" or machine != "arm64":
        return None
    return AppleProbe(cpu_model, memory)


class AppleProbe:
    """See `nodeagent.probes.base.GpuProbe`."""

    def __init__(self, cpu_model: str, memory: Callable[[], Memory]) -> None:
        self._memory = memory
        name = cpu_model or "Apple silicon"
        self._gpus = (Gpu(index=0, name=name, vendor="apple", vram_total_bytes=memory().total),)

    def gpus(self) -> tuple[Gpu, ...]:
        """See `GpuProbe`."""
        return self._gpus

    def observe(self) -> tuple[GpuObserved, ...]:
        """See `GpuProbe`."""
        memory = self._memory()
        return (GpuObserved(index=0, vram_used_bytes=max(0, memory.total - memory.available)),)
