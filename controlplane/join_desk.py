"""The joining half of AccessService: join tokens, certificates, approval, and who has joined.

`Join` and `GetTrustBundle` are open to everybody, for who joins has nothing yet but its token. Every change is stored
before it is answered.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from controlplane import join_book
from controlplane.audit import Auditor
from controlplane.auth import Context, Gatekeeper
from controlplane.ca import Authority, public_key_sha256
from controlplane.endpoint_policy import peer_address
from controlplane.events import AuditNoted
from controlplane.join_book import Applicant, Member, MemberState, Ticket
from controlplane.store.join_store import JoinStore
from geniehive.clock import Clock
from geniehive.config import ControlConfig
from geniehive.errors import Conflict, InvalidRequest, PermissionDenied, Unauthenticated
from geniehive.identity import NAME, Identity, Kind
from geniehive.join_token import JoinToken, parse_join_token
from geniehive.resources import AuditEntry
from geniehive.tokens import sha256
from geniehive.v1 import access_service_pb2 as pb

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
_NEVER: Final = 2**62
_TTL_S: Final = 3600
_LONGEST_TTL_S: Final = 30 * 86400
_JOIN: Final = "/geniehive.v1.AccessService/Join"
_PLAIN: Final = "nobody can join: this control plane speaks no TLS; set control.tls: on, or listen beyond loopback"


class Loop(Protocol):
    """What is asked of the control loop."""

    async def ask(self, event: AuditNoted) -> object:
        """Have an entry of the audit log stored."""

    def tell(self, kind: str, message: str, host_id: str = "") -> None:
        """Tell those who watch events."""


class Members:
    """Who joined, as it is stored; for all who ask about a name."""

    def __init__(self, known: tuple[Member, ...] = ()) -> None:
        self.all: dict[tuple[str, str], Member] = {}
        self.barred: dict[tuple[str, str], int] = {}
        """Kind and name of those who were taken out: certificates from before that time (Unix seconds) are void.

        Of one who is out now all are, whatever the clock was when they were made.
        """
        for member in known:
            self.note(member)

    def note(self, member: Member) -> None:
        """A member as it is now."""
        key = (member.kind, member.name)
        self.all[key] = member
        if member.barred_before:
            self.barred[key] = _NEVER if member.state is MemberState.REMOVED else member.barred_before


@dataclass(frozen=True, kw_only=True)
class Office:
    """What the desk works with. `authority` is None without TLS; `expel` ends the streams of one who was removed."""

    config: ControlConfig
    authority: Authority | None
    store: JoinStore
    members: Members
    clock: Clock
    loop: Loop
    auditor: Auditor
    gatekeeper: Gatekeeper
    expel: Callable[[Identity], None]
    address: str


class JoinDesk:
    """See the module. Without an authority nobody can join."""

    def __init__(self, office: Office) -> None:
        self._office = office
        self._config, self._authority, self._store = office.config, office.authority, office.store
        self._clock, self._members = office.clock, office.members

    # --- for operators -------------------------------------------------------------------------

    async def create_token(self, request: pb.CreateJoinTokenRequest, context: Context) -> pb.CreateJoinTokenResponse:
        """A join token. Raises InvalidRequest, Conflict, StoreError."""
        subject = f"{request.kind or 'node'} {request.host_id or '(any)'}"
        async with self._office.auditor.doing(context, "join_token.create", subject) as entry:
            answer = await self._create_token(request)
            await self._office.loop.ask(AuditNoted(entry))
        return answer

    async def _create_token(self, request: pb.CreateJoinTokenRequest) -> pb.CreateJoinTokenResponse:
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
            join_token=str(token), expires_at=ticket.expires_at_ms // 1000, address=self._office.address
        )

    async def approve(self, request: pb.ApproveNodeRequest, context: Context) -> pb.ApproveNodeResponse:
        """Let in who waits. Raises NotFound, Conflict, StoreError."""
        await self._change(context, "member.approve", request.kind, request.host_id, join_book.approved)
        return pb.ApproveNodeResponse()

    async def remove(self, request: pb.RemoveMemberRequest, context: Context) -> pb.RemoveMemberResponse:
        """Take a member out. Raises NotFound, StoreError."""
        await self._change(context, "member.remove", request.kind, request.name, join_book.removed)
        return pb.RemoveMemberResponse()

    async def _change(
        self, context: Context, action: str, word: str, name: str, decide: Callable[[Member | None, str, int], Member]
    ) -> None:
        async with self._office.auditor.doing(context, action, f"{word or 'node'} {name}") as entry:
            now_ms = self._clock.unix_ms()
            member = await self._store.change(_kind(word).value, name, lambda known: decide(known, name, now_ms))
            # It counts from here on, whatever becomes of the entry in the audit log.
            self._members.note(member)
            if member.state is MemberState.REMOVED:
                self._office.expel(Identity(Kind(member.kind), member.name))
            host_id = name if member.kind == Kind.HOST else ""
            self._office.loop.tell(f"{action}d", f"{member.kind} {name} was {action.partition('.')[2]}d", host_id)
            await self._office.loop.ask(AuditNoted(entry))

    def list(self) -> pb.ListMembersResponse:
        """Who joined, and who waits."""
        found = [self._members.all[key] for key in sorted(self._members.all)]
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
            refused=self._office.gatekeeper.refusals.counts.total(),
        )

    # --- for those who join --------------------------------------------------------------------

    def bundle(self) -> pb.GetTrustBundleResponse:
        """Whom the cluster trusts. Raises Conflict where there is no TLS."""
        if self._authority is None:
            raise Conflict(_PLAIN)
        return pb.GetTrustBundleResponse(ca_pem=self._authority.bundle_pem)

    async def join(self, request: pb.JoinRequest, context: Context) -> pb.JoinResponse:
        """A certificate for the bearer of a join token, or the waiting room.

        Raises:
            Unauthenticated: The token is not known, over, or used.
            InvalidRequest: The request or the name makes no sense.
            Conflict: The name is somebody else's.
        """
        try:
            member, answer = await self._join(request, str(peer_address(context.peer()) or "this machine"))
        except Unauthenticated as error:  # not in the audit log: strangers could fill it
            self._office.gatekeeper.refusals.note("bad_join_token", "", _JOIN, error.message)
            raise
        if not answer.pending_approval:
            who = f"{_WORDS[Kind(member.kind)]} {member.name}"
            entry = AuditEntry(at_ms=self._clock.unix_ms(), actor=who, action="member.join", subject=who)
            await self._office.loop.ask(AuditNoted(entry))
        return answer

    async def _join(self, request: pb.JoinRequest, peer: str) -> tuple[Member, pb.JoinResponse]:
        authority, token = self._issuing(), parse_join_token(request.join_token)
        if not all(NAME.fullmatch(name) for name in (request.name, request.proposed_name) if name):
            raise InvalidRequest("a name must be letters, digits, dots and dashes", param="name")
        who = Applicant(
            sha256(token.secret),
            request.name,
            request.proposed_name,
            public_key_sha256(request.certificate_request),
            peer,
            frozenset(KINDS[kind].value if kind in KINDS else kind for kind in request.kinds),
        )
        now_ms = self._clock.unix_ms()

        def admit(ticket: Ticket, known: Member | None) -> tuple[Ticket, Member]:
            kind = Kind(ticket.kind)
            approval = self._config.join_approval and kind not in PEOPLE
            ticket, member = join_book.admit(ticket, known, who, now_ms, approval=approval)
            if member.state is MemberState.JOINED:
                member = msgspec.structs.replace(member, expires_at=int(now_ms / 1000 + self._ttl_s(kind)))
            return ticket, member

        member = await self._store.use(token.token_id, lambda known: join_book.name_for(known, who, now_ms), admit)
        before = self._members.all.get((member.kind, member.name))
        self._members.note(member)
        if before is None or before.state is not member.state:
            self._tell(member)
        answer = pb.JoinResponse(
            ca_pem=authority.bundle_pem,
            pending_approval=member.state is MemberState.PENDING,
            name=member.name,
            kind=_WORDS[Kind(member.kind)],
        )
        if member.state is MemberState.JOINED:
            answer.certificate_chain_pem = self._issue(authority, request.certificate_request, member)
        return member, answer

    def _tell(self, member: Member) -> None:
        who, host_id = f"{_WORDS[Kind(member.kind)]} {member.name}", member.name if member.kind == Kind.HOST else ""
        if member.state is MemberState.PENDING:
            words = f"{who} at {member.peer} waits for approval: geniehive nodes approve {member.name}"
            self._office.loop.tell("member.pending", words, host_id)
        else:
            self._office.loop.tell("member.joined", f"{who} at {member.peer} joined", host_id)

    async def renew(self, request: pb.RenewCertificateRequest, context: Context) -> pb.RenewCertificateResponse:
        """A fresh certificate for the one who asks. Raises PermissionDenied, Unauthenticated, InvalidRequest."""
        authority, identity = self._issuing(), self._office.gatekeeper.identity(context)
        if identity is None or identity.kind is Kind.CONTROL:
            raise PermissionDenied("only a member with a good certificate can renew it: join again")
        now_ms, kind = self._clock.unix_ms(), identity.kind.value
        fresh = Member(
            kind=kind,
            name=identity.name,
            state=MemberState.JOINED,
            since_ms=now_ms,
            expires_at=int(now_ms / 1000 + self._ttl_s(identity.kind)),
        )
        # It may be removed while this waits for the database.
        barred = self._members.barred.get((kind, identity.name), 0)
        member = await self._store.change(kind, identity.name, lambda known: join_book.renewed(known, fresh, barred))
        self._members.note(member)
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
