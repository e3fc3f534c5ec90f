"""NVIDIA GPUs through NVML (nvidia-ml-py), the library behind nvidia-smi.

The library is loaded when it is asked for. Its absence, the driver's absence and a call that a GPU does not support
(memory on unified systems, utilization under MIG) all mean "unknown". GPUs are found again by UUID for each
observation: one that fell off the bus reads as unknown, and reads again when it is back.

Function names and units: NVML API reference, "Device Queries" (memory in bytes, utilization in percent, temperature in
degrees Celsius, power in milliwatts).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from geniehive.resources import Gpu, GpuObserved


def open_nvml(load: Callable[[], Any] | None = None) -> NvmlProbe | None:
    """The probe, or None where there is no library, no driver or no GPU. `load` imports the library."""
    try:
        library = load() if load is not None else importlib.import_module("pynvml")
    except (ImportError, OSError):
        return None
    try:
        library.nvmlInit()
        probe = NvmlProbe(library)
    except library.NVMLError:
        return None
    return probe if probe.gpus() else None


class NvmlProbe:
    """See `nodeagent.probes.base.GpuProbe`. `library` has the functions of pynvml, and is initialised."""

    def __init__(self, library: Any) -> None:
        self._nvml = library
        driver = _text(self._try(library.nvmlSystemGetDriverVersion))
        self._gpus = tuple(self._describe(index, driver) for index in range(library.nvmlDeviceGetCount()))

    def gpus(self) -> tuple[Gpu, ...]:
        """See `GpuProbe`."""
        return self._gpus

    def observe(self) -> tuple[GpuObserved, ...]:
        """See `GpuProbe`."""
        return tuple(self._observe(gpu) for gpu in self._gpus)

    def _describe(self, index: int, driver: str) -> Gpu:
        handle = self._try(self._nvml.nvmlDeviceGetHandleByIndex, index)
        if handle is None:
            return Gpu(index=index, vendor="nvidia", driver_version=driver)
        memory = self._try(self._nvml.nvmlDeviceGetMemoryInfo, handle)
        return Gpu(
            index=index,
            uuid=_text(self._try(self._nvml.nvmlDeviceGetUUID, handle)),
            name=_text(self._try(self._nvml.nvmlDeviceGetName, handle)),
            vendor="nvidia",
            vram_total_bytes=None if memory is None else int(memory.total),
            driver_version=driver,
        )

    def _observe(self, gpu: Gpu) -> GpuObserved:
        handle = self._handle(gpu)
        if handle is None:
            return GpuObserved(index=gpu.index)
        memory = self._try(self._nvml.nvmlDeviceGetMemoryInfo, handle)
        rates = self._try(self._nvml.nvmlDeviceGetUtilizationRates, handle)
        degrees = self._try(self._nvml.nvmlDeviceGetTemperature, handle, self._nvml.NVML_TEMPERATURE_GPU)
        milliwatts = self._try(self._nvml.nvmlDeviceGetPowerUsage, handle)
        return GpuObserved(
            index=gpu.index,
            vram_used_bytes=None if memory is None else int(memory.used),
            utilization=None if rates is None else rates.gpu / 100,
            temperature_celsius=None if degrees is None else float(degrees),
            power_watts=None if milliwatts is None else milliwatts / 1000,
        )

    def _handle(self, gpu: Gpu) -> Any:
        """The GPU's handle; after a reload of the driver the library wants to be initialised again."""
        handle = self._find(gpu)
        if handle is None and self._try(self._nvml.nvmlInit, default=False) is None:
            handle = self._find(gpu)
        return handle

    def _find(self, gpu: Gpu) -> Any:
        if gpu.uuid:
            return self._try(self._nvml.nvmlDeviceGetHandleByUUID, gpu.uuid)
        return self._try(self._nvml.nvmlDeviceGetHandleByIndex, gpu.index)

    def _try(self, call: Callable[..., Any], *args: Any, default: Any = None) -> Any:
        try:
            return call(*args)
        except self._nvml.NVMLError:
            return default


def _text(value: Any) -> str:
    """A string of the library; older releases give bytes."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return "" if value is None else str(value)
