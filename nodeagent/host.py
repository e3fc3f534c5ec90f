"""Who the host is: its id, its address for others, and the boot epoch that fences an older agent out."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import re
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from geniehive.config import NodeConfig
from geniehive.config_check import is_loopback, parse_address
from geniehive.resources import Host, HostFacts

RESOLVE_TIMEOUT_S: Final = 2.0
_GPU_LEAST_BYTES: Final = 2 * 2**30
_log = logging.getLogger(__name__)


def host_id_of(config: NodeConfig) -> str:
    """The id from the config, else the host name with what an id must not have replaced."""
    name = config.host_id or re.sub(r"[^A-Za-z0-9._-]+", "-", socket.gethostname()).strip(".-_")
    return name or "localhost"


def host_of(config: NodeConfig, facts: HostFacts, *, boot_epoch: int, address: str = "") -> Host:
    """The host as it is announced."""
    host_id = host_id_of(config)
    return Host(
        host_id=host_id,
        display_name=config.display_name or host_id,
        labels=dict(config.labels),
        trust_tier=config.trust_tier,
        workload_classes=config.workload_classes,
        device_class=config.device_class or device_class_of(facts),
        address=address,
        facts=facts,
        boot_epoch=boot_epoch,
    )


def device_class_of(facts: HostFacts) -> str:
    """One of "apple", "gpu" and "cpu". The small graphics part of a desktop CPU does not make a GPU host."""
    vendors = {gpu.vendor for gpu in facts.gpus}
    if "apple" in vendors:
        return "apple"
    strong = any(gpu.vram_total_bytes is None or gpu.vram_total_bytes >= _GPU_LEAST_BYTES for gpu in facts.gpus)
    return "gpu" if strong or "nvidia" in vendors else "cpu"


async def find_address(config: NodeConfig, targets: Sequence[str]) -> str:
    """What other hosts dial to reach this one: from the config, else our end of the route to the control plane.

    Empty where there is no route (yet). No packet is sent, but a name may have to be resolved.
    """
    if config.address:
        return config.address.strip("[]")
    for target in targets:
        address = await _route_to(*parse_address(target))
        if address:
            return address
    return ""


async def _route_to(host: str, port: int) -> str:
    if is_loopback(host):
        return "::1" if ":" in host else "127.0.0.1"
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(RESOLVE_TIMEOUT_S):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):  # TimeoutError is an OSError
        return ""
    for family, kind, protocol, _, where in found:
        try:
            with socket.socket(family, kind, protocol) as sock:
                sock.connect(where)  # a datagram socket: this only asks for the route
                return _plain(sock.getsockname()[0])
        except OSError:
            continue
    return ""


def _plain(address: str) -> str:
    """An address without its zone; a link-local one is of no use to others."""
    found = ipaddress.ip_address(address.partition("%")[0])
    return "" if found.is_link_local or found.is_unspecified else str(found)


class _Epochs(msgspec.Struct):
    """The file: last boot epoch of each host id."""

    boot_epochs: dict[str, int] = {}


def next_boot_epoch(state_dir: Path, host_id: str, unix_ms: int) -> int:
    """This start of the agent: the time, but later than the last start even if the clock was set back.

    Kept in `state_dir`; a folder that cannot be written to costs only that protection.
    """
    path = state_dir / "node.json"
    try:
        kept = msgspec.json.decode(path.read_bytes(), type=_Epochs)
    except (OSError, msgspec.DecodeError):
        kept = _Epochs()
    epoch = max(unix_ms, kept.boot_epochs.get(host_id, 0) + 1)
    kept.boot_epochs[host_id] = epoch
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_bytes(msgspec.json.encode(kept))
        temporary.replace(path)
    except OSError as error:
        _log.warning("%s cannot be written (%s): choose another node.state_dir", path, error.strerror or error)
    return epoch
