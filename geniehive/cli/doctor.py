"""`geniehive doctor`: is the config good, does everybody answer, does a certificate end soon; and what to do about it.

It asks only, and changes nothing. Exit code 1 if anything is wrong, 0 if there are warnings at most.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from geniehive.cli import client, options
from geniehive.cli.options import Output
from geniehive.cli.output import Listing, print_listing
from geniehive.errors import GenieHiveError, PermissionDenied, Unauthenticated

if TYPE_CHECKING:
    from geniehive.config import Config
    from geniehive.tls import Leaf

OK, WARNING, WRONG = "ok", "warning", "wrong"
_CA_WARN_S = 180 * 86400


class Finding(NamedTuple):
    """One thing that was looked at."""

    state: str
    what: str
    words: str


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(doctor)


def doctor(
    config: options.ConfigFile = None,
    control: options.Control = "",
    api_key: options.ApiKey = "",
    gateway: Annotated[bool, typer.Option(" /--no-gateway", help="Do not ask the gateway.")] = True,
    output: options.OutputFormat = Output.TABLE,
) -> None:
    """Look for what is wrong, or will be soon."""
    from geniehive.config_load import load_config

    loaded = load_config(config, os.environ).config
    findings = [Finding(OK, "config", str(config) if config else "no file, defaults")]
    findings += _certificates(loaded)
    findings += _control(config, control, api_key)
    if gateway:
        findings += _gateway(config)
    rows = [(one.state, one.what, one.words) for one in findings]
    print_listing(
        Listing(columns=("STATE", "WHAT", "MORE"), rows=rows, values=[one._asdict() for one in findings]), output
    )
    if any(one.state == WRONG for one in findings):
        raise typer.Exit(1)


def _certificates(config: Config) -> Iterator[Finding]:
    """Those that lie on this machine, where this user may read them."""
    own = config.control_plane
    state = {name: Path(getattr(config, name).state_dir) for name in ("control", "node", "gateway")}
    for what, path in (
        ("the CA", Path(config.control.ca_cert_file) if config.control.ca_cert_file else state["control"] / "ca.pem"),
        ("control.tls_cert_file", Path(config.control.tls_cert_file)),
        ("gateway.tls_cert_file", Path(config.gateway.tls_cert_file)),
        ("control_plane.cert_file", Path(own.cert_file)),
        ("this host's certificate", state["node"] / "node-identity/identity.pem"),
        ("the gateway's certificate", state["gateway"] / "gateway-identity/identity.pem"),
    ):
        if str(path) != "." and path.expanduser().exists():
            yield _certificate(what, path.expanduser())


def _certificate(what: str, path: Path) -> Finding:
    from geniehive.tls import certificates_in, leaf_of

    try:
        leaf = leaf_of(certificates_in(path.read_bytes())[0])
    except (OSError, ValueError, IndexError) as error:
        return Finding(WRONG, what, f"{path} cannot be read: {error}")
    return judged(what, leaf, time.time(), ca=what == "the CA")


def judged(what: str, leaf: Leaf, now: float, *, ca: bool = False) -> Finding:
    """What is to be said of a certificate at a time in Unix seconds."""
    from geniehive.renewal import warns_from
    from geniehive.tls_trouble import day

    until = f"until {day(leaf.not_after)}"
    if now > leaf.not_after:
        return Finding(WRONG, what, f"has ended on {day(leaf.not_after)}: renew it, or join again")
    if now < leaf.not_before:
        return Finding(WRONG, what, f"is not valid before {day(leaf.not_before)}: is the clock right?")
    if now > (leaf.not_after - _CA_WARN_S if ca else warns_from(leaf)):
        return Finding(WARNING, what, f"{until}: it should have been renewed by now; is its daemon running?")
    return Finding(OK, what, until)


def _control(config: Path | None, control: str, api_key: str) -> Iterator[Finding]:
    from geniehive.v1 import cluster_service_pb2 as pb

    try:
        where = client.target(config, control, api_key)
        begun = time.monotonic()
        answer = _ask(where, "GetCluster", pb.GetClusterRequest())
    except GenieHiveError as error:
        yield Finding(WRONG, "control plane", error.message)
        return
    how = "mTLS" if where.credentials is not None else "no TLS"
    took = (time.monotonic() - begun) * 1000
    yield Finding(OK, "control plane", f"{where.shown} answers in {took:.0f} ms, {how}, version {answer.version}")
    yield _count("hosts", answer.hosts_up, answer.hosts_total, "up: geniehive nodes")
    yield _count("services", answer.services_healthy, answer.services_total, "healthy: geniehive services -o wide")
    if where.credentials is not None:
        yield from _members(where)


def _count(what: str, good: int, total: int, words: str) -> Finding:
    return Finding(OK if good == total else WARNING, what, f"{good} of {total} {words}")


def _members(where: client.Target) -> Iterator[Finding]:
    """Certificates of others that end, who waits, and what was refused."""
    from geniehive.cli import members
    from geniehive.v1 import access_service_pb2 as pb

    try:
        answer = members.call(where, "ListMembers", pb.ListMembersRequest())
    except (PermissionDenied, Unauthenticated) as error:
        yield Finding(WARNING, "members", error.message)
        return
    now = time.time()
    joined = [one for one in answer.members if one.state == pb.MEMBER_STATE_JOINED]
    for one in joined:
        if one.expires_at < now:
            yield Finding(
                WARNING, f"{one.kind} {one.name}", "its certificate has ended: it must join again, or remove it"
            )
    waiting = [one.name for one in answer.members if one.state == pb.MEMBER_STATE_PENDING]
    if waiting:
        yield Finding(WARNING, "approval", f"{', '.join(waiting)}: geniehive nodes approve NAME")
    refused = f", {answer.refused} calls refused since its start" if answer.refused else ""
    yield Finding(OK, "members", f"{len(joined)} have certificates{refused}")


def _gateway(config: Path | None) -> Iterator[Finding]:
    from geniehive.cli.gateway_client import GatewayClient, gateway_target

    try:
        where = gateway_target(config, "", "")
        with GatewayClient(where) as asked:
            answer = asked.get("/v1/cluster/health")
    except (Unauthenticated, PermissionDenied):
        yield Finding(OK, "gateway", "answers, and wants a key")
    except GenieHiveError as error:
        yield Finding(WARNING, "gateway", error.message)
    else:
        stale = answer.get("stale")
        words = "has lost the control plane" if stale else "answers"
        yield Finding(WARNING if stale else OK, "gateway", f"{where.url} {words}")


def _ask(where: client.Target, method: str, request: Any) -> Any:
    async def talk(cluster: client.ClusterClient) -> Any:
        return await cluster.call(method, request)

    return client.ask(where, talk)
