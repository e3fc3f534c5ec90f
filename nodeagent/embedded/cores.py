"""How many cores this process may really use: containers and affinity masks included."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def usable_cores(quota_file: Path = _CGROUP_QUOTA) -> int:
    """Whole cores, at least 1: the affinity mask, cut by the cgroup's CPU quota (v2: "max 100000" or "200000 100000").

    Hyper-threads count as cores: nothing portable tells them apart without a dependency.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = quota_file.read_text().split()
        return max(1, min(allowed, int(quota) // int(period)))
    except (OSError, ValueError):  # no cgroup v2, or no quota ("max")
        return allowed
