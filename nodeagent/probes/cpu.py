"""CPU and RAM, through psutil and the operating system's own words."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path
from typing import Final

import psutil

CPUINFO: Final = Path("/proc/cpuinfo")
DEVICE_TREE: Final = Path("/proc/device-tree/model")
_LEAST_S: Final = 0.2
"""CPU seconds; the kernel counts in hundredths, fewer than these are noise."""
_SYSCTL: Final = ("/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string")


class CpuProbe:
    """How busy the CPUs are between two observations."""

    def __init__(self) -> None:
        self._before = _times()

    def utilization(self) -> float | None:
        """Share of 0 to 1 over all CPUs since the last value; None if too little time has passed to tell."""
        busy_before, all_before = self._before
        busy, total = now = _times()
        if total - all_before < _LEAST_S:
            return None
        self._before = now
        return min(1.0, max(0.0, (busy - busy_before) / (total - all_before)))


def _times() -> tuple[float, float]:
    """Seconds that the CPUs worked, and all their seconds, since boot."""
    times = psutil.cpu_times()
    # Linux counts guests' time in user and nice too; waiting for a disk is not work.
    total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    return total - times.idle - getattr(times, "iowait", 0.0), total


def ram_total_bytes() -> int:
    """All RAM."""
    return int(psutil.virtual_memory().total)


def ram_available_bytes() -> int:
    """RAM that programs could still get without swapping."""
    return int(psutil.virtual_memory().available)


def cpu_count() -> int | None:
    """Logical CPUs."""
    return psutil.cpu_count()


def cpu_model() -> str:
    """Marketing name of the CPU; empty where nobody tells."""
    if platform.system() == "Darwin":
        return _from_sysctl()
    return cpu_model_of(_text(CPUINFO)) or _text(DEVICE_TREE).strip("\0\n ") or _plain(platform.processor())


def cpu_model_of(cpuinfo: str) -> str:
    """The name in the text of /proc/cpuinfo: `model name` on x86, `Model` on a Raspberry Pi; else empty."""
    fields: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    return fields.get("model name") or fields.get("Model") or ""


def _from_sysctl() -> str:
    try:
        done = subprocess.run(_SYSCTL, capture_output=True, text=True, timeout=2, check=False)  # noqa: S603 - constant
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def _plain(processor: str) -> str:
    """Linux often names only the architecture here, which is no name."""
    return "" if processor == platform.machine() else processor


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
