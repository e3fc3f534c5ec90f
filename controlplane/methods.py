"""The one table of gRPC methods: who may call what.

A method that is not named here is for administrators alone, and a test fails until it is named. To call is to
hold one of what the method asks for: node agents and gateways are `A_NODE`, everybody else has scopes.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final

from geniehive import access

A_NODE: Final = "node"
"""What a node agent or a gateway is; this and the next three are no scopes of tokens."""

A_HOST: Final = "host"
"""A node agent: by the certificate of a host, or by a plain node key."""

A_GATEWAY: Final = "gateway"
"""A gateway, in the same way."""

A_MEMBER: Final = "member"
"""Whoever has a certificate of the cluster."""


class Need(Enum):
    """What a method asks of its caller: one of these."""

    NOTHING = frozenset[str]()
    HOST = frozenset({A_HOST})
    GATEWAY = frozenset({A_GATEWAY})
    MEMBER = frozenset({A_MEMBER})
    READ = frozenset({A_NODE, access.READ})
    OPERATOR = frozenset({access.OPERATOR})
    ADMIN = frozenset({access.ADMIN})


_TABLE: Final[Mapping[str, Mapping[str, Need]]] = {
    "grpc.health.v1.Health": {"Check": Need.NOTHING, "List": Need.NOTHING, "Watch": Need.NOTHING},
    "grpc.reflection.v1.ServerReflection": {"ServerReflectionInfo": Need.READ},
    "grpc.reflection.v1alpha.ServerReflection": {"ServerReflectionInfo": Need.READ},
    "geniehive.v1.NodeService": {"Connect": Need.HOST},
    "geniehive.v1.RoutingService": {"Watch": Need.GATEWAY},
    "geniehive.v1.ClusterService": {
        "GetCluster": Need.READ,
        "ListHosts": Need.READ,
        "GetHost": Need.READ,
        "ListServices": Need.READ,
        "GetService": Need.READ,
        "ListRoles": Need.READ,
        "GetRole": Need.READ,
        "ListCommands": Need.READ,
        "GetCommand": Need.READ,
        "ResolveRoute": Need.READ,
        "MatchRoutes": Need.READ,
        "WatchEvents": Need.READ,
        "LoadModel": Need.OPERATOR,
        "UnloadModel": Need.OPERATOR,
        "DrainHost": Need.OPERATOR,
        "ResumeHost": Need.OPERATOR,
        "ProbeService": Need.OPERATOR,
        "ForgetHost": Need.ADMIN,
    },
    "geniehive.v1.BenchmarkService": {"ListSamples": Need.READ, "IngestSamples": Need.OPERATOR},
    "geniehive.v1.AccessService": {
        "CreateToken": Need.ADMIN,
        "ListTokens": Need.ADMIN,
        "RevokeToken": Need.ADMIN,
        "ListAuditEntries": Need.ADMIN,
        "CreateJoinToken": Need.ADMIN,
        "ApproveNode": Need.ADMIN,
        "Join": Need.NOTHING,  # who asks has nothing yet but the join token in the message
        "RenewCertificate": Need.MEMBER,
        "RemoveMember": Need.ADMIN,
        "ListMembers": Need.READ,
        "GetTrustBundle": Need.NOTHING,  # public, and compared with the hash in a join token
    },
}


def need_of(method: str) -> Need:
    """What a full method name ("/package.Service/Method") asks for."""
    return named(method) or Need.ADMIN


def named(method: str) -> Need | None:
    """What the table says of a method; None if it does not name it."""
    service, _, name = method.strip("/").partition("/")
    return _TABLE.get(service, {}).get(name)


def table() -> Mapping[str, Mapping[str, Need]]:
    """Every service with its methods, for who writes them down."""
    return _TABLE
