"""AccessService: who may use the cluster. Each desk does its own methods; this is the door to them."""

from __future__ import annotations

from controlplane.auth import Context
from controlplane.token_desk import TokenDesk
from geniehive.v1 import access_service_pb2 as pb
from geniehive.v1 import access_service_pb2_grpc as pb_grpc


class AccessService(pb_grpc.AccessServiceServicer):
    """The gRPC edge of tokens and the audit log."""

    def __init__(self, tokens: TokenDesk) -> None:
        self._tokens = tokens

    async def CreateToken(self, request: pb.CreateTokenRequest, context: Context) -> pb.CreateTokenResponse:
        """Makes a token; its secret is in this answer alone."""
        return await self._tokens.create(request, context)

    async def ListTokens(self, request: pb.ListTokensRequest, context: Context) -> pb.ListTokensResponse:
        """Tokens without their secrets, by name."""
        return await self._tokens.list(request, context)

    async def RevokeToken(self, request: pb.RevokeTokenRequest, context: Context) -> pb.RevokeTokenResponse:
        """Ends a token and the streams that it opened."""
        return await self._tokens.revoke(request, context)

    async def ListAuditEntries(
        self, request: pb.ListAuditEntriesRequest, context: Context
    ) -> pb.ListAuditEntriesResponse:
        """Who did what to the cluster, newest first."""
        return await self._tokens.audit(request, context)
