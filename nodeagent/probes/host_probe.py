"""All probes together: the host's facts, and its measurements."""

from __future__ import annotations

import platform
import socket
from collections.abc import Sequence

import psutil
from msgspec.structs import replace

from geniehive import __version__
from geniehive.resources import Gpu, GpuObserved, HostFacts, HostObserved
from nodeagent.probes import cpu
from nodeagent.probes.amd import open_amd
from nodeagent.probes.apple import open_apple
from nodeagent.probes.base import GpuProbe
from nodeagent.probes.nvml import open_nvml


class HostProbe:
    """Facts and measurements of this host. Every call blocks; nothing here raises for what a host lacks."""

    def __init__(self, gpu_probes: Sequence[GpuProbe]) -> None:
        self._gpu_probes = gpu_probes
        self._cpu = cpu.CpuProbe()

    @classmethod
    def open(cls) -> HostProbe:
        """The probes that this host has. Takes a while where a GPU driver has to wake up."""
        apple = open_apple(platform.system(), platform.machine(), cpu.cpu_model(), psutil.virtual_memory)
        return cls([probe for probe in (open_nvml(), open_amd(), apple) if probe is not None])

    def facts(self) -> HostFacts:
        """What the host is made of."""
        return replace(basic_facts(), gpus=self._gpus())

    def observe(self) -> HostObserved:
        """How the host does."""
        return HostObserved(
            ram_available_bytes=cpu.ram_available_bytes(),
            cpu_utilization=self._cpu.utilization(),
            gpus=self._observed_gpus(),
        )

    def _gpus(self) -> tuple[Gpu, ...]:
        """All vendors' GPUs, numbered through."""
        found = [gpu for probe in self._gpu_probes for gpu in probe.gpus()]
        return tuple(replace(gpu, index=index) for index, gpu in enumerate(found))

    def _observed_gpus(self) -> tuple[GpuObserved, ...]:
        observed: list[GpuObserved] = []
        offset = 0
        for probe in self._gpu_probes:
            observed += [replace(one, index=one.index + offset) for one in probe.observe()]
            offset += len(probe.gpus())
        return tuple(observed)


def basic_facts() -> HostFacts:
    """The facts without GPUs: what can be told at once."""
    return HostFacts(
        hostname=socket.gethostname(),
        os=platform.system().lower(),
        arch=platform.machine(),
        cpu_model=cpu.cpu_model(),
        cpu_count=cpu.cpu_count(),
        ram_total_bytes=cpu.ram_total_bytes(),
        agent_version=__version__,
    )
