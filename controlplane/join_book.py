"""[pure] Who may join: what a join token is worth, and where its bearer then stands.

A token is used by the first key that comes with it; whoever has another key comes too late. The same key may ask
again: until it is approved, and for `REPEAT_MS` after it got its certificate, for an answer may have been lost. A token
that is for no one name lets nobody in under a name that somebody has already: that takes a token for this very name.
"""

from __future__ import annotations

import hmac
from enum import StrEnum
from typing import Final, NamedTuple

import msgspec

from geniehive.errors import Conflict, InvalidRequest, NotFound, Unauthenticated

REPEAT_MS: Final = 600_000
MORE: Final = "make a new one: geniehive token create --join"


class MemberState(StrEnum):
    """Where a member stands."""

    PENDING = "pending"
    APPROVED = "approved"
    JOINED = "joined"
    REMOVED = "removed"


class Ticket(msgspec.Struct, frozen=True, kw_only=True):
    """A join token as it is stored: without its secret. `name` "" is any; `used_by` is the hash of the key."""

    token_id: str
    secret_sha256: bytes
    kind: str
    name: str = ""
    expires_at_ms: int
    used_at_ms: int | None = None
    used_by: bytes = b""
    used_as: str = ""
    issued_at_ms: int | None = None


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody with a certificate, or on the way to one. `barred_before`: Unix seconds; older certificates are void."""

    kind: str
    name: str
    state: MemberState
    since_ms: int
    token_id: str = ""
    expires_at: int = 0
    barred_before: int = 0
    peer: str = ""


class Applicant(NamedTuple):
    """Who asks to join: with which secret, as what, and with which key."""

    secret_sha256: bytes
    name: str
    proposed_name: str
    key_sha256: bytes
    peer: str
    kinds: frozenset[str] = frozenset()
    """What it can be; empty is anything."""


class Admission(NamedTuple):
    """What becomes of ticket and member; a member that is JOINED gets its certificate now."""

    ticket: Ticket
    member: Member


def name_for(ticket: Ticket | None, who: Applicant, now_ms: int) -> str:
    """The name under which the bearer of a ticket comes.

    Raises:
        Unauthenticated: The token is not known, over, or used by another key.
        InvalidRequest: It is for another name or kind, or for any name and none is given.
    """
    if ticket is None or not hmac.compare_digest(ticket.secret_sha256, who.secret_sha256):
        raise Unauthenticated(f"this join token is not known here, or is too old to be remembered; {MORE}")
    if ticket.used_by and ticket.used_by != who.key_sha256:
        raise Unauthenticated(f"this join token was used already, by {ticket.used_as}: each works once; {MORE}")
    if ticket.issued_at_ms is not None and now_ms > ticket.issued_at_ms + REPEAT_MS:
        raise Unauthenticated(f"this join token was used already, by {ticket.used_as}: each works once; {MORE}")
    if not ticket.used_by and now_ms >= ticket.expires_at_ms:
        raise Unauthenticated(f"this join token has expired; {MORE}")
    if who.kinds and ticket.kind not in who.kinds:
        raise InvalidRequest(f"this join token is for a {ticket.kind}: paste the line as it was printed", param="token")
    bound = ticket.used_as or ticket.name
    if bound and who.name not in {"", bound}:
        raise InvalidRequest(f"this join token is for {ticket.kind} {bound}, not {who.name}", param="name")
    name = bound or who.name or who.proposed_name
    if not name:
        raise InvalidRequest("under which name? this join token is for any, so say one (--host-id)", param="name")
    return name


def admit(ticket: Ticket, member: Member | None, who: Applicant, now_ms: int, *, approval: bool) -> Admission:
    """Let the bearer in, or to the waiting room. Raises as `name_for` does, and Conflict."""
    name = name_for(ticket, who, now_ms)
    again = bool(ticket.used_by) and member is not None and member.token_id == ticket.token_id
    if member is not None and not again and not ticket.name and member.state is not MemberState.REMOVED:
        raise Conflict(
            f"{ticket.kind} {name} has joined already: choose another name, or let it join anew with a token for it: "
            f"geniehive token create --join --kind {ticket.kind} --host-id {name}"
        )
    if again and member is not None and member.state is MemberState.REMOVED:
        raise Unauthenticated(f"{ticket.kind} {name} was removed; {MORE}")
    let_in = not approval or (again and member is not None and member.state is not MemberState.PENDING)
    state = MemberState.JOINED if let_in else MemberState.PENDING
    barred = member.barred_before if member is not None else 0
    since = member.since_ms if again and member is not None and member.state is state else now_ms
    return Admission(
        ticket=msgspec.structs.replace(
            ticket,
            used_at_ms=ticket.used_at_ms or now_ms,
            used_by=who.key_sha256,
            used_as=name,
            issued_at_ms=(ticket.issued_at_ms or now_ms) if let_in else None,
        ),
        member=Member(
            kind=ticket.kind,
            name=name,
            state=state,
            since_ms=since,
            token_id=ticket.token_id,
            expires_at=member.expires_at if member is not None else 0,
            barred_before=barred,
            peer=who.peer,
        ),
    )


def approved(member: Member | None, name: str, now_ms: int) -> Member:
    """The member, let in. Raises NotFound, Conflict."""
    if member is None or member.state is MemberState.REMOVED:
        raise NotFound(f"nobody waits under the name {name}: geniehive nodes members shows who does", param="host_id")
    if member.state is not MemberState.PENDING:
        raise Conflict(f"{member.kind} {name} needs no approval: it is {member.state.value}")
    return msgspec.structs.replace(member, state=MemberState.APPROVED, since_ms=now_ms)


def removed(member: Member | None, name: str, now_ms: int) -> Member:
    """The member, taken out: certificates from before now are void. Raises NotFound.

    What was issued since the last removal is void too, be it in this very second, or while the clock was ahead.
    """
    if member is None or member.state is MemberState.REMOVED:
        raise NotFound(f"nobody has joined under the name {name}", param="name")
    barred = max(now_ms // 1000, member.barred_before + 1)
    return msgspec.structs.replace(
        member, state=MemberState.REMOVED, since_ms=now_ms, barred_before=barred, token_id=""
    )


def renewed(member: Member | None, fresh: Member, barred_before: int) -> Member:
    """The member, with the end of its next certificate; `fresh` is one who is not known yet.

    `barred_before` is what the certificate that it showed was held against. Raises Unauthenticated where the member was
    removed since then, be it that it has joined again: who asks with the old certificate gets no new one.
    """
    if member is not None and (member.state is MemberState.REMOVED or member.barred_before > barred_before):
        raise Unauthenticated(f"{fresh.kind} {fresh.name} was removed from this cluster: it must join again")
    return msgspec.structs.replace(member or fresh, expires_at=fresh.expires_at)
