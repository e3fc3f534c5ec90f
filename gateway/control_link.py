"""A channel to the control plane that lives through renewals: each call begins on one with the newest certificate.

It looks like a gRPC channel to the stubs on it. Calls that run keep the channel that they began on; the last one to
end lets go of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self, cast

import grpc.aio

from geniehive import dial
from geniehive.credentials import CredentialSource, Plain

if TYPE_CHECKING:
    from geniehive.tls import Credentials  # loads cryptography, which plain gRPC needs not


class _Dialled:
    """A channel, what it shows, and its methods as they were asked for."""

    def __init__(self, channel: grpc.aio.Channel, shown: Credentials | None) -> None:
        self.channel = channel
        self.shown = shown
        self.methods: dict[object, Any] = {}

    def call(self, key: object, make: Callable[[grpc.aio.Channel], Any], *args: Any, **kwargs: Any) -> Any:
        """Call a method; until the call is done it holds this channel, which is closed with its last holder."""
        if key not in self.methods:
            self.methods[key] = make(self.channel)
        call = self.methods[key](*args, **kwargs)
        call.add_done_callback(lambda _: self)
        return call


class ControlLink:
    """See the module."""

    def __init__(self, addresses: Sequence[str], credentials: CredentialSource | None = None) -> None:
        self._addresses = addresses
        self._credentials = credentials or Plain()
        self._dialled: _Dialled | None = None

    async def __aenter__(self) -> Self:
        """Nothing is dialled before the first call."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """End the channel, and the calls on it."""
        if self._dialled is not None:
            await self._dialled.channel.close()

    @property
    def channel(self) -> grpc.aio.Channel:
        """For stubs."""
        return cast("grpc.aio.Channel", self)

    def _current(self) -> _Dialled:
        shown = self._credentials.current()
        if self._dialled is None or self._dialled.shown is not shown:
            self._dialled = _Dialled(dial.control_channel(self._addresses, shown), shown)
        return self._dialled

    def _method(self, kind: str, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        key = object()

        def make(channel: grpc.aio.Channel) -> Any:
            return getattr(channel, kind)(*args, **kwargs)

        return lambda *message, **options: self._current().call(key, make, *message, **options)

    def unary_unary(self, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        """As `grpc.aio.Channel` has it; the next three too."""
        return self._method("unary_unary", *args, **kwargs)

    def unary_stream(self, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        """See `unary_unary`."""
        return self._method("unary_stream", *args, **kwargs)

    def stream_unary(self, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        """See `unary_unary`."""
        return self._method("stream_unary", *args, **kwargs)

    def stream_stream(self, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        """See `unary_unary`."""
        return self._method("stream_stream", *args, **kwargs)
