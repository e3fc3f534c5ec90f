"""[pure] What operators post to `/v1/cluster`: orders to hosts and engines, tokens to make."""

from __future__ import annotations

from typing import Final, Literal, TypeVar

import msgspec

from geniehive.errors import InvalidRequest
from geniehive.resources import AccessKey, Operation

_MOST_S: Final = 2**40


class OrderBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """POST /v1/cluster/commands. `model` is what `service_id` shall load or unload; `host_id` is drained or resumed."""

    kind: Literal["load", "unload", "probe", "drain", "resume"]
    service_id: str = ""
    model: str = ""
    context_size: int | None = None
    host_id: str = ""
    command_id: str = ""


class TokenBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """POST /v1/cluster/tokens. `expires_at` is in Unix seconds, `expires_in_s` from now; at most one of them."""

    name: str
    scopes: tuple[str, ...] = ("inference",)
    models: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    operations: tuple[Operation, ...] = ()
    priority: str = ""
    max_concurrency: int | None = None
    expires_at: int | None = None
    expires_in_s: int | None = None


_BodyT = TypeVar("_BodyT", OrderBody, TokenBody)


def parse_order(raw: bytes) -> OrderBody:
    """An order that can be sent on. Raises InvalidRequest naming the field."""
    body = _parse(raw, OrderBody)
    wanted = ("host_id",) if body.kind in {"drain", "resume"} else ("service_id",)
    for field in (*wanted, "model") if body.kind in {"load", "unload"} else wanted:
        if not getattr(body, field):
            raise InvalidRequest(f"{field} is missing: to {body.kind} needs it", param=field)
    if body.context_size is not None and not 0 < body.context_size < 2**32:
        raise InvalidRequest("context_size: a whole number of tokens, at least 1", param="context_size")
    return body


def parse_token(raw: bytes, now: float) -> AccessKey:
    """The token that is wanted, without its secret. Raises InvalidRequest naming the field."""
    body = _parse(raw, TokenBody)
    if body.expires_at is not None and body.expires_in_s is not None:
        raise InvalidRequest("expires_at and expires_in_s: give one of them", param="expires_in_s")
    for field in ("expires_at", "expires_in_s"):
        if not 0 < (getattr(body, field) or 1) < _MOST_S:
            raise InvalidRequest(f"{field}: seconds, above 0 and not beyond all measure", param=field)
    if body.max_concurrency is not None and not 0 < body.max_concurrency < 2**32:
        raise InvalidRequest("max_concurrency: a whole number, at least 1", param="max_concurrency")
    return AccessKey(
        name=body.name,
        secret_sha256=b"",
        scopes=body.scopes,
        models=(*body.models, *body.roles),
        operations=body.operations,
        priority=body.priority,
        max_concurrency=body.max_concurrency,
        expires_at=body.expires_at if body.expires_in_s is None else int(now) + body.expires_in_s,
    )


def _parse(raw: bytes, kind: type[_BodyT]) -> _BodyT:
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"the body is not what is asked for: {error}") from None
