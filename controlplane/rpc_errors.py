"""The one doorway through which errors leave on gRPC: the table of `geniehive.errors`, nothing else.

Trailing metadata carries the error's code of the table, so that a caller can tell an answer of ours from a silence with
the same gRPC status. What is not ours becomes INTERNAL without a trace or a class name; the log has both.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import grpc
import grpc.aio

from geniehive.dial import ERROR_CODE
from geniehive.errors import GenieHiveError, InternalError, wire_of

_log = logging.getLogger(__name__)
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"  # generic in the stubs alone
_Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[_Handler]]"


class _Failed(Exception):
    """What a handler raised, as status code, words, and the code of our table."""

    def __init__(self, error: GenieHiveError) -> None:
        super().__init__(error.message)
        wire = wire_of(error)
        self.code = grpc.StatusCode[wire.grpc]
        self.words = error.message
        self.metadata = ((ERROR_CODE, wire.code),)


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every handler so that what it raises reaches the caller as the table says."""

    async def intercept_service(
        self, continuation: _Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> _Handler:
        """The handler, wrapped."""
        handler: Any = await continuation(handler_call_details)
        if handler is None:
            return None
        sides = (handler.request_streaming, handler.response_streaming)
        kind = "_".join("stream" if streams else "unary" for streams in sides)
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        wrapped = _wrap(getattr(handler, kind), handler_call_details.method)
        made: grpc.RpcMethodHandler[Any, Any] = make(
            wrapped,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )
        return made


def _wrap(behavior: Callable[..., Any], method: str) -> Callable[..., Any]:
    async def answer(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            with _translated(method):
                return await behavior(request, context)
        except _Failed as failed:
            await context.abort(failed.code, failed.words, failed.metadata)

    async def stream(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        try:
            with _translated(method):
                async for message in behavior(request, context):
                    yield message
        except _Failed as failed:
            await context.abort(failed.code, failed.words, failed.metadata)

    return stream if inspect.isasyncgenfunction(behavior) else answer


@contextmanager
def _translated(method: str) -> Iterator[None]:
    try:
        yield
    except GenieHiveError as error:
        raise _Failed(error) from error
    except (grpc.aio.AbortError, grpc.aio.UsageError):
        raise
    except Exception as error:
        _log.exception("%s failed", method)
        words = "the control plane failed to answer this; its log says why"
        raise _Failed(InternalError(words)) from error
