"""The error tree, split by whose fault it is, and the one table that maps it to the wires.

GenieHiveError
├── CallerError                 the request is wrong; a repeat would be wrong again
│   ├── InvalidRequest          400  malformed or nonsensical input
│   ├── Unauthenticated         401  no key, or a wrong one
│   ├── PermissionDenied        403  a good key for something else
│   ├── NotFound                404  no such route or thing
│   │   └── ModelNotFound       404  no such model, alias, service or role
│   ├── MethodNotAllowed        405
│   ├── RequestTimeout          408  the client stopped sending
│   ├── Conflict                409  the thing is in a state that forbids it
│   │   └── Fenced              409  a later node agent speaks for the host
│   ├── PayloadTooLarge         413
│   ├── UnsupportedMediaType    415
│   ├── TooManyRequests         429  the key has as many open as it may
│   ├── HeadersTooLarge         431
│   └── ConfigError             (a daemon that cannot start)
├── UpstreamError               an engine failed
│   ├── UpstreamUnavailable     502  refused, reset, nonsense
│   ├── UpstreamTimeout         504  no answer in time
│   └── NoServiceAvailable      503  the model is known and no service can answer now
└── InternalError               ours
    ├── NotReady                503  no snapshot yet
    ├── Overloaded              503  a bound of ours is reached
    ├── StoreError              503  the database refuses
    ├── ControlPlaneUnreachable 503
    └── GatewayUnreachable      (what the CLI says of a gateway that does not answer)
"""

from __future__ import annotations

from typing import NamedTuple


class GenieHiveError(Exception):
    """Base of every error that this program raises on purpose.

    `message` is one line for people and names the fix; `param` is the field at fault, if one is.
    """

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s


class CallerError(GenieHiveError):
    """The request is wrong; a repeat would be wrong again."""


class InvalidRequest(CallerError):
    """Malformed or nonsensical input."""


class Unauthenticated(CallerError):
    """No key, or a wrong one."""


class PermissionDenied(CallerError):
    """A good key for something else."""


class NotFound(CallerError):
    """No such route or thing."""


class ModelNotFound(NotFound):
    """No such model, alias, service or role."""


class MethodNotAllowed(CallerError):
    """The route exists for other methods."""


class RequestTimeout(CallerError):
    """The client stopped sending."""


class Conflict(CallerError):
    """The thing is in a state that forbids what was asked."""


class Fenced(Conflict):
    """A later node agent speaks for this host; this one must not go on."""


class PayloadTooLarge(CallerError):
    """The body is larger than allowed."""


class UnsupportedMediaType(CallerError):
    """The content type is missing or not one that the route takes."""


class TooManyRequests(CallerError):
    """The key has as many requests open as it may; later it may have another."""


class HeadersTooLarge(CallerError):
    """The request line or headers are larger than allowed."""


class ConfigError(CallerError):
    """The configuration is wrong; a daemon cannot start with it."""


class UpstreamError(GenieHiveError):
    """An engine failed."""


class UpstreamUnavailable(UpstreamError):
    """An engine refused, reset or answered nonsense."""


class UpstreamTimeout(UpstreamError):
    """An engine gave no answer in time."""


class NoServiceAvailable(UpstreamError):
    """The model is known, and no service can answer for it now."""


class InternalError(GenieHiveError):
    """Something of ours failed."""


class NotReady(InternalError):
    """There is nothing to route by yet."""


class Overloaded(InternalError):
    """A bound of ours is reached."""


class StoreError(InternalError):
    """The database refuses."""


class ControlPlaneUnreachable(InternalError):
    """The control plane does not answer."""


class GatewayUnreachable(InternalError):
    """The gateway does not answer."""


class Wire(NamedTuple):
    """How an error looks on the wires; `grpc` is the name of a gRPC status code."""

    status: int
    type: str
    code: str
    grpc: str
    retryable: bool


WIRE: dict[type[GenieHiveError], Wire] = {
    InvalidRequest: Wire(400, "invalid_request_error", "invalid_request", "INVALID_ARGUMENT", retryable=False),
    Unauthenticated: Wire(401, "authentication_error", "invalid_api_key", "UNAUTHENTICATED", retryable=False),
    PermissionDenied: Wire(403, "permission_error", "permission_denied", "PERMISSION_DENIED", retryable=False),
    NotFound: Wire(404, "invalid_request_error", "not_found", "NOT_FOUND", retryable=False),
    ModelNotFound: Wire(404, "invalid_request_error", "model_not_found", "NOT_FOUND", retryable=False),
    MethodNotAllowed: Wire(405, "invalid_request_error", "method_not_allowed", "UNIMPLEMENTED", retryable=False),
    RequestTimeout: Wire(408, "invalid_request_error", "request_timeout", "DEADLINE_EXCEEDED", retryable=False),
    Conflict: Wire(409, "invalid_request_error", "conflict", "FAILED_PRECONDITION", retryable=False),
    Fenced: Wire(409, "invalid_request_error", "fenced", "FAILED_PRECONDITION", retryable=False),
    PayloadTooLarge: Wire(413, "invalid_request_error", "payload_too_large", "RESOURCE_EXHAUSTED", retryable=False),
    UnsupportedMediaType: Wire(
        415, "invalid_request_error", "unsupported_media_type", "INVALID_ARGUMENT", retryable=False
    ),
    TooManyRequests: Wire(429, "rate_limit_error", "rate_limit_exceeded", "RESOURCE_EXHAUSTED", retryable=True),
    HeadersTooLarge: Wire(431, "invalid_request_error", "headers_too_large", "RESOURCE_EXHAUSTED", retryable=False),
    ConfigError: Wire(500, "server_error", "config_error", "FAILED_PRECONDITION", retryable=False),
    CallerError: Wire(400, "invalid_request_error", "invalid_request", "INVALID_ARGUMENT", retryable=False),
    UpstreamUnavailable: Wire(502, "upstream_error", "upstream_unavailable", "UNAVAILABLE", retryable=True),
    UpstreamTimeout: Wire(504, "upstream_error", "upstream_timeout", "DEADLINE_EXCEEDED", retryable=True),
    NoServiceAvailable: Wire(503, "upstream_error", "no_service_available", "UNAVAILABLE", retryable=True),
    UpstreamError: Wire(502, "upstream_error", "upstream_error", "UNAVAILABLE", retryable=True),
    NotReady: Wire(503, "server_error", "not_ready", "UNAVAILABLE", retryable=True),
    Overloaded: Wire(503, "server_error", "overloaded", "RESOURCE_EXHAUSTED", retryable=True),
    StoreError: Wire(503, "server_error", "store_error", "UNAVAILABLE", retryable=True),
    ControlPlaneUnreachable: Wire(503, "server_error", "control_plane_unreachable", "UNAVAILABLE", retryable=True),
    GatewayUnreachable: Wire(503, "server_error", "gateway_unreachable", "UNAVAILABLE", retryable=True),
    InternalError: Wire(500, "server_error", "internal_error", "INTERNAL", retryable=False),
    GenieHiveError: Wire(500, "server_error", "internal_error", "INTERNAL", retryable=False),
}


def wire_of(error: BaseException) -> Wire:
    """The row of the table for an error; anything that is not ours counts as `InternalError`."""
    for cls in type(error).__mro__:
        if cls in WIRE:
            return WIRE[cls]
    return WIRE[InternalError]
