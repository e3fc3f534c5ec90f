"""The stack under test as users start it: control plane, node agent and gateway, each `python -m geniehive.cli …`.

Auth is on, with a key for clients and one for nodes, and metrics are always on. The engines are named in the config;
nothing is discovered on this machine, which may have engines of its own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit import native
from kit.processes import Processes, Program, free_port

MODEL = "bench-chat"
CLIENT_KEY = "sk-bench-client-key-0123456789abcdef"
NODE_KEY = "bench-node-key-0123456789abcdef"
HEADERS = {"Authorization": f"Bearer {CLIENT_KEY}"}


@dataclass(frozen=True)
class Stack:
    """The running gateway."""

    gateway: Program
    port: int
    control_port: int


def start_upstream(programs: Processes, cores: Sequence[int], *, rate: float = 50) -> int:
    """Start the C engine; its port."""
    port = free_port()
    upstream = programs.start(
        "upstream",
        [native.program("upstream"), "--port", str(port), "--rate", str(rate), "--model", MODEL],
        cores=cores,
    )
    upstream.wait_until_answers(port, "/v1/models")
    return port


def service(service_id: str, port: int) -> dict[str, Any]:
    """A configured service at the C engine."""
    return {
        "service_id": service_id,
        "kinds": ["chat", "transcription"],
        "endpoint": f"http://127.0.0.1:{port}",
        "discover_protocol": "openai",
        "assets": [{"asset_id": MODEL}],
    }


def start_stack(
    programs: Processes,
    services: Sequence[dict[str, Any]],
    *,
    cores: Sequence[int],
    with_node: bool = True,
    model: str = MODEL,
    limits: Mapping[str, Any] | None = None,
) -> Stack:
    """Start all three and wait until the gateway lists the model (without a node agent: until it has a snapshot).

    `limits` are more keys of the config's section `gateway`.
    """
    config, port, control_port = _config(programs.folder, services, limits or {})
    control = _daemon(programs, "control", config, ())
    gateway = _daemon(programs, "gateway", config, cores)
    needs, says = [control], b""
    if with_node:
        needs.append(_daemon(programs, "node", config, ()))
        says = model.encode()
    gateway.wait_until_answers(port, "/v1/models", headers=HEADERS, says=says, needs=needs)
    return Stack(gateway, port, control_port)


def _daemon(programs: Processes, name: str, config: Path, cores: Sequence[int]) -> Program:
    argv = [sys.executable, "-m", "geniehive.cli", name, "--config", str(config), "--log-level", "warning"]
    return programs.start(name, argv, cores=cores)


def _config(folder: Path, services: Sequence[dict[str, Any]], limits: Mapping[str, Any]) -> tuple[Path, int, int]:
    port, control_port = free_port(), free_port()
    config = {
        "gateway": {"port": port, **limits},
        "control": {"listen": f"127.0.0.1:{control_port}"},
        "control_plane": {"address": f"127.0.0.1:{control_port}", "node_api_key": NODE_KEY},
        "storage": {"url": f"sqlite+aiosqlite:///{folder}/registry.sqlite3"},
        "auth": {"client_api_keys": [CLIENT_KEY], "node_api_keys": [NODE_KEY], "admin_api_keys": []},
        "node": {"host_id": "bench-host", "discover": False, "status_port": 0, "state_dir": str(folder / "node")},
        "services": list(services),
    }
    path = folder / "geniehive.yaml"
    path.write_text(json.dumps(config))  # JSON is YAML
    return path, port, control_port
