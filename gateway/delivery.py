"""The rest of an answer whose first byte is there: from here on there are no other attempts."""

from __future__ import annotations

from gateway import web
from gateway.answers import Stream
from gateway.errors import NO_STREAMS
from gateway.exchange import Exchange
from gateway.opening import Begun
from gateway.relay import commit, relay
from gateway.sse import too_large
from geniehive.config import GatewayConfig
from geniehive.errors import InvalidRequest, UpstreamError
from geniehive.routing.receipt import Tried


class Delivery:
    """Brings answers to clients."""

    def __init__(self, limits: GatewayConfig) -> None:
        self._limits = limits

    async def deliver(self, exchange: Exchange, begun: Begun, tried: Tried) -> tuple[web.StreamResponse, bool]:
        """The rest of an answer that is not whole; and whether it came to its proper end."""
        if begun.scanner is not None:
            response = exchange.response or commit(exchange)
            well = await relay(exchange, response, begun, begun.scanner, self._limits.idle_timeout_s)
            if not well:
                tried.reason = exchange.failure
            return response, well
        if exchange.response is not None:
            raise InvalidRequest(NO_STREAMS, param="stream")
        return await self._pass_large(exchange, begun, tried)

    async def _pass_large(self, exchange: Exchange, begun: Begun, tried: Tried) -> tuple[web.StreamResponse, bool]:
        """A body too large to be held: passed on as it comes; if it breaks, so does the client's connection."""
        headers = {**exchange.headers(), "content-type": begun.content_type}
        response = exchange.response = Stream(exchange.request, begun.upstream.status, headers)
        piece, idle = begun.head, self._limits.idle_timeout_s
        try:
            with exchange.deadline(idle):
                while piece:
                    await response.write(piece)
                    exchange.rearm(idle)
                    piece = await begun.upstream.read()
                    tried.answer_bytes += len(piece)
                    if tried.answer_bytes + len(begun.head) > self._limits.max_answer_bytes:
                        raise too_large(self._limits.max_answer_bytes)
        except (UpstreamError, TimeoutError) as error:
            tried.reason = error.message if isinstance(error, UpstreamError) else f"nothing moved for {idle:g} s"
            if exchange.request.transport is not None:
                exchange.request.transport.abort()
            return response, False
        await response.write_eof()
        return response, True
