"""How node agents, gateways and the CLI dial the control plane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import grpc.aio

from geniehive.errors import WIRE, GenieHiveError

if TYPE_CHECKING:
    from geniehive.tls import Credentials  # loads cryptography, which plain gRPC needs not

NODE_KEY = "x-geniehive-node-key"
API_KEY = "x-api-key"

ERROR_CODE = "x-geniehive-error-code"
"""Trailing metadata of a failed call: the error's `code` of `errors.WIRE`. Without it, no GenieHive answered."""

# Dead peers are found by pings: half-open TCP says nothing by itself for many minutes.
_OPTIONS = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5_000),  # in spite of its name: how long one handshake may take
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.use_local_subchannel_pool", 1),
)


def control_channel(
    addresses: Sequence[str], credentials: Credentials | None = None, *, max_message_bytes: int = 16 * 2**20
) -> grpc.aio.Channel:
    """A channel to the control plane. Several addresses are tried in order; without credentials it is plain."""
    options: list[tuple[str, int | str]] = [
        *_OPTIONS,
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
    ]
    if credentials is None:
        return grpc.aio.insecure_channel(target(addresses), options=options)
    options.append(("grpc.ssl_target_name_override", credentials.server_name))  # addresses change, the name does not
    shown = grpc.ssl_channel_credentials(credentials.ca_pem, credentials.key_pem, credentials.chain_pem)
    return grpc.aio.secure_channel(target(addresses), shown, options=options)


def target(addresses: Sequence[str]) -> str:
    """The gRPC target of one or more "host:port" addresses."""
    if len(addresses) == 1:
        return addresses[0]
    kind = "ipv6" if all(address.startswith("[") for address in addresses) else "ipv4"
    return f"{kind}:{','.join(addresses)}"


def answer_of(error: grpc.aio.AioRpcError) -> GenieHiveError | None:
    """The error that a control plane itself answered with; None where nothing of ours answered."""
    told = dict(error.trailing_metadata() or ()).get(ERROR_CODE)
    status = error.code().name
    kind = next((kind for kind, row in WIRE.items() if (row.code, row.grpc) == (told, status)), None)
    return None if kind is None else kind(error.details() or "")


def metadata(*, node_key: str = "", admin_key: str = "") -> tuple[tuple[str, str], ...]:
    """The credentials of a call, as its metadata."""
    pairs = ((NODE_KEY, node_key), (API_KEY, admin_key))
    return tuple((name, value) for name, value in pairs if value)
