"""`geniehive up` with a control plane that others may join: its own gateway and node agent join first, as others do.

The local administrator's certificate in the state folder makes the tokens; they are used at once and never seen.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from geniehive.cli.up_plan import Plan
from geniehive.errors import ConfigError

if TYPE_CHECKING:
    from geniehive.identity import Kind
    from geniehive.membership import Membership
    from geniehive.tls import Credentials

GATEWAY_ID = "up"


def speaks_tls(plan: Plan, *, insecure: bool) -> bool:
    """Whether the plan's control plane will: `control.tls` auto is on beyond loopback, unless --insecure was given."""
    from geniehive.config_check import is_loopback, parse_address

    control = plan.config.control
    return control.tls == "on" or (
        control.tls == "auto" and not insecure and not is_loopback(parse_address(control.listen)[0])
    )


async def join_locally(plan: Plan) -> None:
    """Have gateway and node agent join, where they have not yet. The control plane is ready. Raises GenieHiveError."""
    from geniehive.identity import Kind
    from geniehive.membership import Membership, folder_of
    from nodeagent.host import host_id_of

    config = plan.config
    admin = Membership(folder_of(config.control.state_dir, Kind.ADMIN)).credentials()
    if admin is None:
        raise ConfigError(
            "geniehive up cannot join its own gateway and node agent, for its control plane issues no certificates: "
            "set control.ca_key_file, or start geniehive control, gateway and node each with a config of its own"
        )
    for kind, state_dir, name in (
        (Kind.GATEWAY, config.gateway.state_dir, config.gateway.gateway_id or GATEWAY_ID),
        (Kind.HOST, config.node.state_dir, host_id_of(config.node)),
    ):
        membership = Membership(folder_of(state_dir, kind))
        if not _good(membership, plan, admin, name):
            await _join(plan, admin, membership, kind, name)


def _good(membership: Membership, plan: Plan, admin: Credentials, name: str) -> bool:
    """Whether it has joined this control plane before, with a certificate that is still good, under this name."""
    joined, credentials = membership.joined(), membership.credentials()
    return (
        joined is not None
        and credentials is not None
        and joined.name == name
        and set(joined.addresses) >= set(plan.config.control_plane.targets)
        and credentials.ca_pem == admin.ca_pem
        and time.time() < credentials.leaf.not_after
    )


async def _join(plan: Plan, admin: Credentials, membership: Membership, kind: Kind, name: str) -> None:
    from geniehive.cli.client import ClusterClient, Target
    from geniehive.dial import control_channel
    from geniehive.join_token import parse_join_token
    from geniehive.joining import Application, join
    from geniehive.v1 import access_service_pb2 as pb

    addresses = plan.config.control_plane.targets
    where = Target(addresses=addresses, credentials=admin)
    word = "node" if kind.value == "host" else kind.value
    async with control_channel(addresses, admin) as channel:
        request = pb.CreateJoinTokenRequest(kind=word, host_id=name, ttl_seconds=60)
        made = await ClusterClient(channel, where).access("CreateJoinToken", request)
    wish = Application(
        address=addresses[0],
        token=parse_join_token(made.join_token),
        name=name,
        kinds=frozenset({kind}),
        server_name=admin.server_name,
    )
    credentials, joined = await join(wish, lambda _: None)
    membership.keep(credentials, joined)
