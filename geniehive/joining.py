"""The gRPC edge for who joins: check the CA by the token's hash, send the secret and a certificate request, and renew.

1. Ask the address for its certificate, whoever it is. 2. Ask that very peer for the cluster's CA: nothing secret is
said yet. 3. The hash in the token decides whether this is the right cluster. 4. With that CA as the only one that is
trusted, connect anew and join. The same request gets the same answer, so one that was lost is asked for again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import grpc
import grpc.aio
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from geniehive import tls_trouble
from geniehive.dial import answer_of, control_channel
from geniehive.errors import (
    ControlPlaneUnreachable,
    GenieHiveError,
    InternalError,
    InvalidRequest,
    PermissionDenied,
    Unauthenticated,
)
from geniehive.identity import CONTROL_NAME, Kind
from geniehive.join_token import JoinToken
from geniehive.membership import Joined
from geniehive.tls import Credentials, as_nobody, bundle_sha256, certificate_request, new_key
from geniehive.v1 import access_service_pb2 as pb
from geniehive.v1 import access_service_pb2_grpc as rpc

_log = logging.getLogger(__name__)

TIMEOUT_S: Final = 10.0
TRIES: Final = 3
POLL_S: Final = 2.0
"""Between questions whether an operator has approved."""
_KINDS: Final = {"node": Kind.HOST, "gateway": Kind.GATEWAY, "operator": Kind.OPERATOR, "admin": Kind.ADMIN}


@dataclass(frozen=True, kw_only=True)
class Application:
    """Who wants to join, and where. `proposed_name` is taken where neither `name` nor the token says one."""

    address: str
    token: JoinToken
    name: str
    kinds: frozenset[Kind]
    proposed_name: str = ""
    server_name: str = CONTROL_NAME


async def join(wish: Application, waiting: Callable[[str], None]) -> tuple[Credentials, Joined]:
    """Join; where an operator has to approve, `waiting` is told the name once, and it is asked for until then.

    Raises:
        ControlPlaneUnreachable: Nobody answers there.
        PermissionDenied: It is another cluster's control plane than the token's.
        GenieHiveError: What the control plane says against it.
    """
    trusted = await _trusted(wish)
    key = new_key()
    request = pb.JoinRequest(
        join_token=str(wish.token),
        certificate_request=certificate_request(key),
        name=wish.name,
        proposed_name=wish.proposed_name,
        kinds=sorted(word for word, kind in _KINDS.items() if kind in wish.kinds),
    )
    answer = await _ask(wish.address, trusted, "Join", request)
    if answer.pending_approval:
        waiting(answer.name)
        answer = await _approved(wish.address, trusted, request)
    kind = _KINDS.get(answer.kind)
    if kind is None or kind not in wish.kinds:
        raise InvalidRequest(f"this join token is for a {answer.kind}: paste the line as it was printed")
    return (
        Credentials(
            key_pem=key, chain_pem=answer.certificate_chain_pem, ca_pem=answer.ca_pem, server_name=wish.server_name
        ),
        Joined(addresses=(wish.address,), kind=kind, name=answer.name, server_name=wish.server_name),
    )


async def _approved(address: str, trusted: Credentials, request: pb.JoinRequest) -> Any:
    """The answer once an operator has approved.

    A control plane that is restarted meanwhile, or cannot answer for another reason of its own, is asked again: the key
    that the token went to is here alone. Raises GenieHiveError: it will not have this host.
    """
    lost = False
    while True:
        await asyncio.sleep(POLL_S)
        try:
            answer = await _ask(address, trusted, "Join", request)
        except InternalError as error:
            if not lost:
                _log.warning("%s Asking again and again until there is an answer.", error)
            lost = True
            continue
        lost = False
        if not answer.pending_approval:
            return answer


async def renew(address: str, credentials: Credentials) -> Credentials:
    """Fresh credentials, with a fresh key, for the same identity. Raises GenieHiveError."""
    key = new_key()
    request = pb.RenewCertificateRequest(certificate_request=certificate_request(key))
    answer = await _ask(address, credentials, "RenewCertificate", request)
    return Credentials(
        key_pem=key,
        chain_pem=answer.certificate_chain_pem,
        ca_pem=answer.ca_pem,
        server_name=credentials.server_name,
    )


async def _trusted(wish: Application) -> Credentials:
    """Nobody's credentials, with a CA that the token vouches for."""
    nobody = as_nobody(b"", wish.server_name)
    try:
        shown = await asyncio.to_thread(_leaf, wish.address, nobody)
    except OSError as error:
        raise ControlPlaneUnreachable(
            f"cannot reach the control plane at {wish.address} ({error.strerror or error}): is it started, and is the "
            "address right?"
        ) from None
    pinned = as_nobody(shown, wish.server_name)
    bundle: bytes = (await _ask(wish.address, pinned, "GetTrustBundle", pb.GetTrustBundleRequest())).ca_pem
    if bundle_sha256(bundle) != wish.token.ca_sha256:
        raise PermissionDenied(
            f"the control plane at {wish.address} is not the one that made this join token: its CA is another one; "
            "nothing was sent to it"
        )
    return as_nobody(bundle, wish.server_name)


def _leaf(address: str, nobody: Credentials) -> bytes:
    """The certificate that is shown there, PEM."""
    der = tls_trouble.peer_certificate(address, nobody)
    return x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)


async def _ask(address: str, credentials: Credentials, method: str, request: Any) -> Any:
    """One call, again where nobody answered. Raises GenieHiveError."""
    for left in reversed(range(TRIES)):
        async with control_channel([address], credentials) as channel:
            try:
                return await getattr(rpc.AccessServiceStub(channel), method)(request, timeout=TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE or not left:
                    raise await _explained(error, address, credentials) from None
        await asyncio.sleep(0.2)
    raise AssertionError("unreachable")  # pragma: no cover - the last try returns or raises


async def _explained(error: grpc.aio.AioRpcError, address: str, credentials: Credentials) -> GenieHiveError:
    if (answer := answer_of(error)) is not None:
        return answer
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        trouble = await asyncio.to_thread(tls_trouble.why, address, credentials)
        return ControlPlaneUnreachable(trouble or f"cannot reach the control plane at {address}: is it started?")
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return ControlPlaneUnreachable(
            f"what answers at {address} is no GenieHive control plane as new as this program"
        )
    if error.code() is grpc.StatusCode.UNAUTHENTICATED:
        return Unauthenticated(error.details() or "refused")
    return InternalError(f"the control plane at {address}: {error.code().name}: {error.details()}")
