"""AccessService: who may use the cluster. Each desk does its own methods; this is the door to them."""

from __future__ import annotations

from controlplane.auth import Context
from controlplane.join_desk import JoinDesk
from controlplane.token_desk import TokenDesk
from geniehive.v1 import access_service_pb2 as pb
from geniehive.v1 import access_service_pb2_grpc as pb_grpc


class AccessService(pb_grpc.AccessServiceServicer):
    """The gRPC edge of tokens, the audit log, and who joins."""

    def __init__(self, tokens: TokenDesk, joins: JoinDesk) -> None:
        self._tokens = tokens
        self._joins = joins

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

    async def CreateJoinToken(self, request: pb.CreateJoinTokenRequest, context: Context) -> pb.CreateJoinTokenResponse:
        """Makes a join token; its secret is in this answer alone."""
        return await self._joins.create_token(request, context)

    async def Join(self, request: pb.JoinRequest, context: Context) -> pb.JoinResponse:
        """Exchanges a join token and a certificate request for a certificate."""
        return await self._joins.join(request, context)

    async def RenewCertificate(
        self, request: pb.RenewCertificateRequest, context: Context
    ) -> pb.RenewCertificateResponse:
        """Replaces a certificate by a fresh one for the same identity."""
        return await self._joins.renew(request, context)

    async def ApproveNode(self, request: pb.ApproveNodeRequest, context: Context) -> pb.ApproveNodeResponse:
        """Lets a host in that waits for approval."""
        return await self._joins.approve(request, context)

    async def RemoveMember(self, request: pb.RemoveMemberRequest, context: Context) -> pb.RemoveMemberResponse:
        """Takes a host, gateway or person out, and ends its streams."""
        return await self._joins.remove(request, context)

    async def ListMembers(self, _request: pb.ListMembersRequest, _context: Context) -> pb.ListMembersResponse:
        """Who joined, and who waits for approval."""
        return self._joins.list()

    async def GetTrustBundle(self, _request: pb.GetTrustBundleRequest, _context: Context) -> pb.GetTrustBundleResponse:
        """The CA certificates of the cluster."""
        return self._joins.bundle()
