"""What the control plane's refusals and silences become over HTTP."""

from __future__ import annotations

import grpc.aio

from geniehive.dial import answer_of
from geniehive.errors import ControlPlaneUnreachable, GenieHiveError, PayloadTooLarge, PermissionDenied


def refused(error: grpc.aio.AioRpcError, *, param: str | None = None) -> GenieHiveError:
    """What the control plane said to an order of a caller; `param` is the field that an invalid one is blamed on."""
    said = error.details() or ""
    match error.code():
        case grpc.StatusCode.PERMISSION_DENIED | grpc.StatusCode.UNAUTHENTICATED:
            return PermissionDenied(f"the control plane does not take this key for that: {said}")
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return PayloadTooLarge(f"this is too large for the control plane: {said}")
    answer = answer_of(error)
    if answer is None:
        return unreachable(error)
    answer.param = param
    return answer


def unreachable(error: grpc.aio.AioRpcError) -> ControlPlaneUnreachable:
    """That it does not answer, or not to this gateway."""
    if error.code() is grpc.StatusCode.UNAUTHENTICATED:
        return ControlPlaneUnreachable("the control plane refuses this gateway's key: set control_plane.node_api_key")
    return ControlPlaneUnreachable(
        f"the control plane does not answer ({error.code().name.lower()}): try again when it is back", retry_after_s=2
    )
