"""What `geniehive up` finds once everything runs: waits for the first model, and prints what there is."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from geniehive import __version__
from geniehive.cli import cells, tables, up_plan, up_text
from geniehive.cli.client import ClusterClient, Target
from geniehive.cli.output import Listing, print_table
from geniehive.cli.up_plan import Plan
from geniehive.errors import PermissionDenied, Unauthenticated
from geniehive.resources import Asset, Service

_PATIENCE_S = 10.0
_MODEL_PATIENCE_S = 600.0
_TALK_AFTER_S = 3.0
_POLL_S = 0.05


async def report(plan: Plan, *, expect: bool, model: Path | None, tiny: bool, log_dir: Path | None) -> None:
    """Print engines, models, URLs and a `curl`, after waiting for the first model if one is to be expected."""
    patience = 0.0 if not expect else _PATIENCE_S if model is None else _MODEL_PATIENCE_S
    services, closed = await _wait(plan, patience, loading=str(model) if model else "")
    found = up_text.serving(services)
    print(f"GenieHive {__version__} is up.\n")
    _print_services(services)
    _print_models(found)
    print(f"OpenAI base URL   {plan.url}/v1")
    print(f"Control plane     {plan.config.control_plane.address} (gRPC)")
    if log_dir is not None:
        print(f"Logs              {log_dir}")
    print("\nTry it:")
    if plan.client_key:
        print("  # GENIEHIVE_KEY: one of auth.client_api_keys")
    elif closed:
        print("  # GENIEHIVE_KEY: a token of this cluster (geniehive token list)")
    print(f"  {up_text.curl(plan.url, found, with_key=closed or bool(plan.client_key))}")
    if tiny:
        print(f"\n{up_text.NOISE}")
    elif closed and not services:
        print(f"\n{up_text.CLOSED}")
    elif not services:
        print(f"\n{up_text.NOTHING}")
        if not up_plan.embedded_installed():
            print(up_text.NOT_INSTALLED)
    elif not found:
        print(f"\n{up_text.NO_MODEL}")
    print("\nCtrl-C ends everything.", flush=True)


class Seen(NamedTuple):
    """The services, and whether the cluster lets nobody in without a token."""

    services: tuple[Service, ...]
    closed: bool


async def _wait(plan: Plan, patience_s: float, *, loading: str) -> Seen:
    """What there is, once a model answers through the gateway, or once there was patience enough."""
    from geniehive.cli.trust import credentials_for
    from geniehive.dial import control_channel

    config = plan.config
    where = Target(
        addresses=config.control_plane.targets,
        node_key=config.control_plane.node_api_key,
        admin_key=next(iter(config.auth.admin_api_keys), "") or os.environ.get("GENIEHIVE_API_KEY", ""),
        credentials=credentials_for(config, config.control_plane.targets),
    )
    clock = asyncio.get_running_loop().time
    begun = clock()
    async with control_channel(where.addresses, where.credentials) as channel:
        cluster = ClusterClient(channel, where)
        while True:
            try:
                services = await tables.fetch_services(cluster)
            except (Unauthenticated, PermissionDenied):
                return Seen((), closed=True)
            found = up_text.serving(services)
            listed = await _gateway_lists(plan, found[0][1].asset_id) if found else False
            if listed is not False or clock() - begun >= patience_s:
                return Seen(services, closed=listed is None)
            if loading and clock() - begun > _TALK_AFTER_S:
                print(f"loading {loading} ...", flush=True)
                loading = ""
            await asyncio.sleep(_POLL_S)


async def _gateway_lists(plan: Plan, model: str) -> bool | None:
    """Whether the gateway knows the model already; None where it does not say so without a token."""
    import aiohttp

    from geniehive.cli.gateway_client import trusting

    headers = {"Authorization": f"Bearer {plan.client_key}"} if plan.client_key else {}
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
            tls = trusting(plan.config.gateway.tls_cert_file) if plan.url.startswith("https:") else True
            answer = await session.get(f"{plan.url}/v1/models", headers=headers, ssl=tls)
            if answer.status == 401:
                return None
            listed = (await answer.json()).get("data", [])
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return False
    return any(entry.get("id") == model for entry in listed)


def _print_services(services: Sequence[Service]) -> None:
    if not services:
        return
    rows = [
        (one.service_id, cells.text(one.runtime.engine), one.health.status.value, cells.text(one.endpoint),
         cells.text("; ".join(part for part in (one.health.reason, *one.notes) if part)))
        for one in services
    ]  # fmt: skip
    print_table(Listing(columns=("SERVICE", "ENGINE", "HEALTH", "ENDPOINT", "NOTES"), rows=rows, values=None))
    print()


def _print_models(found: Sequence[tuple[Service, Asset]]) -> None:
    if not found:
        return
    rows = [
        (asset.asset_id, cells.joined(up_text.operations(service, asset)), cells.loaded(asset),
         cells.tokens(asset.context_size), service.service_id)
        for service, asset in found
    ]  # fmt: skip
    print_table(Listing(columns=("MODEL", "KIND", "LOADED", "CONTEXT", "SERVICE"), rows=rows, values=None))
    print()
