"""Tokens: made, listed, revoked. The secret leaves once, in the answer to who made it; its hash is all that is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol, cast

from msgspec.structs import replace

from controlplane.audit import Auditor
from controlplane.auth import Context
from controlplane.events import RevokeRequested, TokenRequested
from controlplane.token_book import TokenBook
from geniehive import codec
from geniehive.access import INFERENCE, fault
from geniehive.clock import Clock
from geniehive.errors import InvalidRequest
from geniehive.resources import AccessKey, AuditEntry
from geniehive.tokens import new_secret, sha256
from geniehive.v1 import access_service_pb2 as pb
from geniehive.v1 import resources_pb2 as resources_pb

_MOST: Final = 1000
_DEFAULT: Final = 100


class Loop(Protocol):
    """What is asked of the control loop."""

    @property
    def tokens(self) -> TokenBook:
        """Every token."""
        ...

    async def ask(self, event: TokenRequested | RevokeRequested) -> object:
        """Have an event applied and stored; its answer."""
        ...


class AuditStore(Protocol):
    """Where the audit log is."""

    async def list_audit(self, limit: int, before: int, actor: str, action: str) -> Sequence[AuditEntry]:
        """At most `limit` entries, newest first."""
        ...


class TokenDesk:
    """The methods of AccessService that are about tokens and the audit log."""

    def __init__(
        self,
        loop: Loop,
        store: AuditStore,
        clock: Clock,
        auditor: Auditor,
        *,
        secret: Callable[[], str] = new_secret,
    ) -> None:
        self._loop = loop
        self._store = store
        self._clock = clock
        self._auditor = auditor
        self._secret = secret

    async def create(self, request: pb.CreateTokenRequest, context: Context) -> pb.CreateTokenResponse:
        """Makes a token."""
        async with self._auditor.doing(context, "token.create", request.key.name) as entry:
            secret = self._secret()
            key = replace(self._wanted(request, entry.actor), secret_sha256=sha256(secret))
            made = cast("AccessKey", await self._loop.ask(TokenRequested(key=key, audit=entry)))
        return pb.CreateTokenResponse(secret=secret, key=_shown(made))

    async def list(self, request: pb.ListTokensRequest, _context: Context) -> pb.ListTokensResponse:
        """Tokens without their secrets."""
        found = (key for key in self._loop.tokens.all if request.include_revoked or key.revoked_at is None)
        return pb.ListTokensResponse(keys=[_shown(key) for key in found])

    async def revoke(self, request: pb.RevokeTokenRequest, context: Context) -> pb.RevokeTokenResponse:
        """Ends a token."""
        async with self._auditor.doing(context, "token.revoke", request.name) as entry:
            at = self._clock.unix_ms() // 1000
            await self._loop.ask(RevokeRequested(name=request.name, at=at, audit=entry))
        return pb.RevokeTokenResponse()

    async def audit(self, request: pb.ListAuditEntriesRequest, _context: Context) -> pb.ListAuditEntriesResponse:
        """Who did what, newest first."""
        limit = min(request.limit or _DEFAULT, _MOST)
        before = min(request.before_entry_id, 2**62)
        found = await self._store.list_audit(limit, before, request.actor, request.action)
        return pb.ListAuditEntriesResponse(entries=[codec.audit_to_pb(entry) for entry in found])

    def _wanted(self, request: pb.CreateTokenRequest, actor: str) -> AccessKey:
        """The token that is asked for. Raises InvalidRequest naming the field."""
        given = codec.key_from_pb(request.key)
        if len(given.operations) != len(request.key.operations):
            raise InvalidRequest("operations: one of them is unknown here; the token was not made", param="operations")
        now_s = self._clock.unix_ms() / 1000
        key = replace(
            given,
            scopes=given.scopes or (INFERENCE,),
            created_at=int(now_s),
            created_by=actor,
            revoked_at=None,
        )
        field, words = fault(key, now_s)
        if words:
            raise InvalidRequest(f"{field}: {words}; the token was not made", param=field)
        return key


def _shown(key: AccessKey) -> resources_pb.AccessKey:
    return codec.key_to_pb(replace(key, secret_sha256=b""))
