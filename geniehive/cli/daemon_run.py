"""Starts one daemon in this process: its config, its checks, and the component itself."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

    from geniehive.cli.daemon import Ready
    from geniehive.cli.daemon_start import Start
    from geniehive.config import Config
    from geniehive.config_load import LoadedConfig


def run(start: Start) -> None:
    """Run it until it is told to stop. Raises GenieHiveError for what may well fail."""
    {"control": control, "gateway": gateway, "node": node}[start.daemon](start)


def control(start: Start) -> None:
    """Run the control plane."""
    import asyncio

    from geniehive.cli.daemon import serve
    from geniehive.config_check import check_exposure

    loaded = _with_tls(_load(start).config, insecure=start.insecure)
    check_exposure(loaded, insecure=start.insecure, gateway=False)
    reload = asyncio.Event()

    async def live(stop: asyncio.Event, ready: Ready) -> None:
        from controlplane import app

        await app.run(loaded, stop=stop, ready=ready, reload=reload)

    serve(start, live, reload=reload)


def gateway(start: Start) -> None:
    """Run the gateway."""
    import asyncio

    from geniehive.cli.daemon import serve
    from geniehive.cli.joined import as_joined
    from geniehive.config_check import check_exposure

    loaded = as_joined(_load(start), "gateway")
    check_exposure(loaded, insecure=start.insecure, control=False)
    reload = asyncio.Event() if loaded.gateway.tls_cert_file else None

    async def live(stop: asyncio.Event, ready: Ready) -> None:
        from gateway.run import run

        await run(loaded, stop=stop, ready=ready, reload=reload)

    serve(start, live, reload=reload)


def node(start: Start) -> None:
    """Run the node agent of this host."""
    from geniehive.cli.daemon import serve
    from geniehive.cli.joined import as_joined

    loaded = as_joined(_load(start), "node")

    async def live(stop: asyncio.Event, ready: Ready) -> None:
        from nodeagent import app

        await app.run(loaded, stop=stop, ready=ready)

    serve(start, live)


def _load(start: Start) -> LoadedConfig:
    from geniehive.config_load import load_config

    return load_config(start.config, os.environ)


def _with_tls(config: Config, *, insecure: bool) -> Config:
    """The config of a control plane, whose `control.tls: auto` is off where the operator insists."""
    if not insecure or config.control.tls != "auto":
        return config
    import msgspec

    return msgspec.structs.replace(config, control=msgspec.structs.replace(config.control, tls="off"))
