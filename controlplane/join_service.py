"""The joining half of AccessService: join tokens, certificates, approval, and who has joined.

`Join` and `GetTrustBundle` are open to everybody, for who joins has nothing yet but its token. Every change is stored
before it is answered.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from typing import Any, Final

import grpc.aio
import msgspec

from controlplane import join_book
from controlplane.ca import Authority, public_key_sha256
from controlplane.join_book import Applicant, Member, MemberState, Ticket
from controlplane.store.join_store import JoinStore
from geniehive.clock import Clock
from geniehive.config import ControlConfig
from geniehive.errors import Conflict, InvalidRequest, PermissionDenied
from geniehive.join_token import JoinToken, parse_join_token
from geniehive.tls import NAME, Identity, Kind
from geniehive.tokens import sha256
from geniehive.v1 import access_service_pb2 as pb

Context = grpc.aio.ServicerContext[Any, Any]

KINDS: Final[Mapping[str, Kind]] = {
    "": Kind.HOST,
    "node": Kind.HOST,
    "gateway": Kind.GATEWAY,
    "operator": Kind.OPERATOR,
    "admin": Kind.ADMIN,
}
PEOPLE: Final = frozenset({Kind.OPERATOR, Kind.ADMIN})
_WORDS: Final = {kind: word for word, kind in KINDS.items() if word}
_STATES: Final = {
    MemberState.PENDING: pb.MEMBER_STATE_PENDING,
    MemberState.APPROVED: pb.MEMBER_STATE_APPROVED,
    MemberState.JOINED: pb.MEMBER_STATE_JOINED,
    MemberState.REMOVED: pb.MEMBER_STATE_REMOVED,
}
_TTL_S: Final = 3600
_LONGEST_TTL_S: Final = 30 * 86400
_PLAIN: Final = "nobody can join: this control plane speaks no TLS; set control.tls: on, or listen beyond loopback"

_log = logging.getLogger(__name__)


class JoinDesk:
    """See the module. Without an authority nobody can join."""

    def __init__(
        self, config: ControlConfig, authority: Authority | None, store: JoinStore, clock: Clock, address: str
    ) -> None:
        self._config = config
        self._authority = authority
        self._store = store
        self._clock = clock
        self._address = address
        self.members: dict[tuple[str, str], Member] = {}
        self.barred: dict[tuple[str, str], int] = {}
        """Kind and name of those who were taken out: certificates from before that time (Unix seconds) are void."""

    async def load(self) -> None:
        """Read who joined. Raises StoreError."""
        for member in await self._store.members():
            self._note(member)

    def _note(self, member: Member) -> None:
        key = (member.kind, member.name)
        self.members[key] = member
        if member.barred_before:
            self.barred[key] = member.barred_before

    # --- for operators -------------------------------------------------------------------------

    async def create_token(self, request: pb.CreateJoinTokenRequest) -> pb.CreateJoinTokenResponse:
        """A join token. Raises InvalidRequest, Conflict, StoreError."""
        authority = self._issuing()
        kind = _kind(request.kind)
        if request.host_id and not NAME.fullmatch(request.host_id):
            raise InvalidRequest("host_id must be letters, digits, dots and dashes", param="host_id")
        if kind in PEOPLE and not request.host_id:
            raise InvalidRequest("a token for a person needs a name: --name NAME", param="host_id")
        ttl_s = request.ttl_seconds or _TTL_S
        if ttl_s > _LONGEST_TTL_S:
            raise InvalidRequest("a join token lasts 30 days at most", param="ttl_seconds")
        now_ms = self._clock.unix_ms()
        token = JoinToken(authority.sha256, secrets.token_hex(4), secrets.token_urlsafe(24))
        ticket = Ticket(
            token_id=token.token_id,
            secret_sha256=sha256(token.secret),
            kind=kind.value,
            name=request.host_id,
            expires_at_ms=now_ms + ttl_s * 1000,
        )
        await self._store.add_ticket(ticket, now_ms)
        return pb.CreateJoinTokenResponse(
            join_token=str(token), expires_at=ticket.expires_at_ms // 1000, address=self._address
        )

    async def approve(self, request: pb.ApproveNodeRequest) -> Member:
        """Let in who waits. Raises NotFound, Conflict, StoreError."""
        kind, now_ms = _kind(request.kind), self._clock.unix_ms()
        member = await self._store.change(
            kind.value, request.host_id, lambda known: join_book.approved(known, request.host_id, now_ms)
        )
        self._note(member)
        return member

    async def remove(self, request: pb.RemoveMemberRequest) -> Member:
        """Take a member out. Raises NotFound, StoreError."""
        kind, now_ms = _kind(request.kind), self._clock.unix_ms()
        member = await self._store.change(
            kind.value, request.name, lambda known: join_book.removed(known, request.name, now_ms)
        )
        self._note(member)
        return member

    def list(self, refused: int) -> pb.ListMembersResponse:
        """Who joined, and who waits."""
        found = [self.members[key] for key in sorted(self.members)]
        return pb.ListMembersResponse(
            members=[
                pb.Member(
                    name=member.name,
                    kind=_WORDS[Kind(member.kind)],
                    state=_STATES[member.state],
                    since_ms=member.since_ms,
                    expires_at=member.expires_at,
                    peer=member.peer,
                )
                for member in found
            ],
            ca_expires_at=int(self._authority.not_after) if self._authority is not None else 0,
            refused=refused,
        )

    # --- for those who join --------------------------------------------------------------------

    def bundle(self) -> pb.GetTrustBundleResponse:
        """Whom the cluster trusts. Raises Conflict where there is no TLS."""
        if self._authority is None:
            raise Conflict(_PLAIN)
        return pb.GetTrustBundleResponse(ca_pem=self._authority.bundle_pem)

    async def join(self, request: pb.JoinRequest, peer: str) -> tuple[Member, pb.JoinResponse]:
        """A certificate for the bearer of a join token, or the waiting room.

        Raises:
            Unauthenticated: The token is not known, over, or used.
            InvalidRequest: The request or the name makes no sense.
            Conflict: The name is somebody else's.
        """
        authority, token = self._issuing(), parse_join_token(request.join_token)
        if not all(NAME.fullmatch(name) for name in (request.name, request.proposed_name) if name):
            raise InvalidRequest("a name must be letters, digits, dots and dashes", param="name")
        who = Applicant(sha256(token.secret), request.name, request.proposed_name, public_key_sha256(request.certificate_request), peer)
        now_ms = self._clock.unix_ms()

        def admit(ticket: Ticket, known: Member | None) -> tuple[Ticket, Member]:
            kind = Kind(ticket.kind)
            approval = self._config.join_approval and kind not in PEOPLE
            ticket, member = join_book.admit(ticket, known, who, now_ms, approval=approval)
            if member.state is MemberState.JOINED:
                member = msgspec.structs.replace(member, expires_at=int(now_ms / 1000 + self._ttl_s(kind)))
            return ticket, member

        member = await self._store.use(token.token_id, lambda known: join_book.name_for(known, who, now_ms), admit)
        self._note(member)
        answer = pb.JoinResponse(
            ca_pem=authority.bundle_pem,
            pending_approval=member.state is MemberState.PENDING,
            name=member.name,
            kind=_WORDS[Kind(member.kind)],
        )
        if member.state is MemberState.JOINED:
            answer.certificate_chain_pem = self._issue(authority, request.certificate_request, member)
        return member, answer

    async def renew(self, request: pb.RenewCertificateRequest, identity: Identity | None) -> pb.RenewCertificateResponse:
        """A fresh certificate for the one who asks. Raises PermissionDenied, InvalidRequest."""
        authority = self._issuing()
        if identity is None or identity.kind is Kind.CONTROL:
            raise PermissionDenied("only a member with a good certificate can renew it: join again")
        now_ms = self._clock.unix_ms()

        def extend(known: Member | None) -> Member:
            member = known or Member(
                kind=identity.kind.value, name=identity.name, state=MemberState.JOINED, since_ms=now_ms
            )
            return msgspec.structs.replace(member, expires_at=int(now_ms / 1000 + self._ttl_s(identity.kind)))

        member = await self._store.change(identity.kind.value, identity.name, extend)
        self._note(member)
        return pb.RenewCertificateResponse(
            certificate_chain_pem=self._issue(authority, request.certificate_request, member),
            ca_pem=authority.bundle_pem,
        )

    def _issue(self, authority: Authority, request_der: bytes, member: Member) -> bytes:
        kind = Kind(member.kind)
        return authority.issue(
            request_der,
            Identity(kind, member.name),
            ttl_s=self._ttl_s(kind),
            now=self._clock.unix_ms() / 1000,
            not_before=member.barred_before,
        )

    def _ttl_s(self, kind: Kind) -> float:
        return self._config.operator_certificate_ttl_s if kind in PEOPLE else self._config.certificate_ttl_s

    def _issuing(self) -> Authority:
        if self._authority is None:
            raise Conflict(_PLAIN)
        if self._authority.key is None:
            raise Conflict("nobody can join: control.ca_key_file is not set, so certificates are yours to make")
        return self._authority


def _kind(word: str) -> Kind:
    try:
        return KINDS[word]
    except KeyError:
        raise InvalidRequest('kind must be "node", "gateway", "operator" or "admin"', param="kind") from None
