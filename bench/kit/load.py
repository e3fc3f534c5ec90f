"""The load generators: wrk for short requests, our C program for event streams."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kit import native
from kit.processes import BenchError, pinned
from kit.stack import CLIENT_KEY, MODEL

_SCRIPT = """
wrk.method = "POST"
wrk.path = "%(path)s"
wrk.body = '{"model":"%(model)s","messages":[{"role":"user","content":"How many bees are in a hive?"}]}'
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer %(key)s"
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('@@{"requests":%%d,"seconds":%%.6f,"p50_ms":%%.4f,"p99_ms":%%.4f,"errors":%%d}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


def wrk(port: int, *, connections: int, seconds: float, cores: Sequence[int], model: str = MODEL) -> dict[str, Any]:
    """Short chats as fast as they come back: `requests_per_s, p50_ms, p99_ms, errors`."""
    threads = min(2, connections, len(cores) or 2)
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(_SCRIPT % {"path": "/v1/chat/completions", "model": model, "key": CLIENT_KEY})
        script.flush()
        argv = [
            native.tool("wrk", "wrk"), f"-t{threads}", f"-c{connections}", f"-d{max(1, round(seconds))}s",
            "--timeout", "10s", "-s", script.name, f"http://127.0.0.1:{port}",
        ]  # fmt: skip
        said = _run(pinned(argv, cores), seconds + 30)
    found: dict[str, Any] = json.loads(said.split("@@", 1)[1])
    found["requests_per_s"] = found["requests"] / found["seconds"]
    return found


def streams(
    port: int, *, count: int, seconds: float, cores: Sequence[int], rate: float = 50, opening: float = 3
) -> dict[str, Any]:
    """Event streams at a rate each; see bench/load/sse_load.c for what comes back."""
    ramp = max(1.0, count / 1000)
    argv = [
        native.program("sse_load"), "--port", str(port), "--streams", str(count), "--rate", str(rate),
        "--seconds", str(seconds), "--ramp", str(ramp), "--opening", str(opening),
        "--key", CLIENT_KEY, "--model", MODEL,
    ]  # fmt: skip
    found: dict[str, Any] = json.loads(_run(pinned(argv, cores[:1]), seconds + ramp + opening + 60))
    return found


def _run(argv: Sequence[str], limit_s: float) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=limit_s, check=False)
    if done.returncode:
        raise BenchError(f"{Path(argv[0]).name} failed: {done.stderr or done.stdout}")
    return done.stdout
