"""AMD GPUs through the amdgpu driver's files in sysfs.

Names and units: the kernel's "GPU Driver Documentation", amdgpu: `mem_info_vram_total` and `mem_info_vram_used` in
bytes, `gpu_busy_percent`, `product_name`, `unique_id`; hwmon: `temp1_input` (edge) in millidegrees Celsius,
`power1_average` (older) or `power1_input` in microwatts. Reading them is free of side effects.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from geniehive.resources import Gpu, GpuObserved

SYSFS_DRM: Final = Path("/sys/class/drm")
_VENDOR: Final = "0x1002"
_CARD: Final = re.compile(r"card(\d+)")


def open_amd(root: Path = SYSFS_DRM) -> AmdProbe | None:
    """The probe, or None where there is no AMD GPU. `root` is the folder with card0, card1, …"""
    probe = AmdProbe(root)
    return probe if probe.gpus() else None


class AmdProbe:
    """See `nodeagent.probes.base.GpuProbe`."""

    def __init__(self, root: Path) -> None:
        self._devices = tuple(path for path in _cards(root) if _read(path / "vendor") == _VENDOR)
        self._gpus = tuple(_describe(index, path) for index, path in enumerate(self._devices))

    def gpus(self) -> tuple[Gpu, ...]:
        """See `GpuProbe`."""
        return self._gpus

    def observe(self) -> tuple[GpuObserved, ...]:
        """See `GpuProbe`."""
        return tuple(_observe(index, path) for index, path in enumerate(self._devices))


def _cards(root: Path) -> list[Path]:
    """The device folders in order of their numbers; connectors such as card0-DP-1 are not cards."""
    try:
        found = [(int(match[1]), path) for path in root.iterdir() if (match := _CARD.fullmatch(path.name))]
    except OSError:
        return []
    return [path / "device" for _, path in sorted(found)]


def _describe(index: int, device: Path) -> Gpu:
    return Gpu(
        index=index,
        uuid=_read(device / "unique_id") or _slot(device),
        name=_read(device / "product_name") or f"AMD GPU {_read(device / 'device')}".strip(),
        vendor="amd",
        vram_total_bytes=_number(device / "mem_info_vram_total"),
        driver_version=_read(device / "driver" / "module" / "version"),
    )


def _observe(index: int, device: Path) -> GpuObserved:
    busy = _number(device / "gpu_busy_percent")
    degrees = _sensor(device, "temp1_input")
    microwatts = _sensor(device, "power1_average", "power1_input")
    return GpuObserved(
        index=index,
        vram_used_bytes=_number(device / "mem_info_vram_used"),
        utilization=None if busy is None else busy / 100,
        temperature_celsius=None if degrees is None else degrees / 1000,
        power_watts=None if microwatts is None else microwatts / 1_000_000,
    )


def _sensor(device: Path, *names: str) -> int | None:
    """The first of these files that has a number, in any of the device's hwmon folders."""
    try:
        folders = sorted((device / "hwmon").iterdir())
    except OSError:
        return None
    values = (_number(folder / name) for folder in folders for name in names)
    return next((value for value in values if value is not None), None)


def _slot(device: Path) -> str:
    """The PCI address, such as "0000:03:00.0"; empty where the kernel does not tell."""
    lines = _read(device / "uevent").splitlines()
    return next((line.partition("=")[2] for line in lines if line.startswith("PCI_SLOT_NAME=")), "")


def _number(path: Path) -> int | None:
    text = _read(path)
    return int(text) if text.isascii() and text.isdigit() else None


def _read(path: Path) -> str:
    """A file's text; empty where it cannot be read (a GPU that sleeps or is gone answers EBUSY, ENODEV, …)."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
