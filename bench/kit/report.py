"""Tables for people, JSON for programs: bench/results/<name>.json holds the last run, the machine included."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kit.processes import REPO

RESULTS = REPO / "bench" / "results"


def machine() -> dict[str, Any]:
    """What a figure has to be read with."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    return {
        "cpu": _cpu(),
        "cores": len(cores),
        "load_average": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def save(name: str, figures: dict[str, Any]) -> Path:
    """Write the figures with the machine and the time."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    path.write_text(json.dumps({"at": at, "machine": machine(), **figures}, indent=2) + "\n")
    return path


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns padded with spaces; the first to the left, the others to the right."""
    widths = [max(len(row[at]) for row in (head, *rows)) for at in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(w) if at == 0 else cell.rjust(w) for at, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in (head, *rows)
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(line.rstrip() for line in lines)


def number(value: float | None, digits: int = 0) -> str:
    """With thousands' commas; a dash for what was not measured."""
    return "-" if value is None else f"{value:,.{digits}f}"


def ratio(value: float | None, base: float | None) -> str:
    """As a multiple of another one."""
    if not value or not base:
        return "-"
    times = value / base
    return f"{times:.0f}x" if times >= 10 else f"{times:.2f}x" if times >= 0.1 else f"{times:.4f}x"


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
