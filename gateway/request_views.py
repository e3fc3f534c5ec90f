"""`/v1/cluster/requests`: the receipts of this gateway, over all of its workers.

A client's key sees what was asked with it; keys with the scope read, operator or admin see everything.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Final

import msgspec

from gateway import web
from gateway.auth import EVERYBODYS, Principal
from gateway.exchange import Exchange
from gateway.receipts import Page, Query, Receipts, is_status
from gateway.siblings import Siblings
from geniehive.errors import InvalidRequest, NotFound
from geniehive.routing.receipt import LONGEST_NAME, OUTCOMES

_MOST: Final = 1000
_USUAL: Final = 50


class RequestViews:
    """The handlers."""

    def __init__(self, receipts: Receipts, siblings: Siblings) -> None:
        self.receipts = receipts
        self._siblings = siblings

    def answering(self) -> AbstractAsyncContextManager[None]:
        """Answers the questions of sibling workers for as long as the context lasts."""
        return self._siblings.listening(self.receipts.page)

    async def all(self, exchange: Exchange) -> web.Response:
        """GET /v1/cluster/requests[?limit=…&model=…&service_id=…&status=…]: newest first."""
        query = _query(exchange)
        pages, silent = await self._pages(query)
        found = sorted((each for page in pages for each in page.receipts), key=lambda each: -each.at_ms)
        kept = sum(page.kept for page in pages)
        body = {"object": "list", "data": found[: query.limit], "kept": kept, "silent_workers": silent}
        return _json(body)

    async def one(self, exchange: Exchange) -> web.Response:
        """GET /v1/cluster/requests/{request_id}."""
        query = Query(request_id=exchange.tail[:LONGEST_NAME], limit=1, principal=_only(exchange))
        here = self.receipts.page(query)
        pages, silent = ([here], 0) if here.receipts else await self._pages(query)
        for page in pages:
            for found in page.receipts:
                return _json(found)
        raise NotFound(self._missing(query.request_id, sum(page.kept for page in pages), silent), param="request_id")

    async def _pages(self, query: Query) -> tuple[list[Page], int]:
        """A page of each worker that answers, and how many do not."""
        asked = await self._siblings.ask(query)
        pages = [self.receipts.page(query), *(page for page in asked if page is not None)]
        return pages, 1 + len(asked) - len(pages)

    def _missing(self, request_id: str, kept: int, silent: int) -> str:
        if not self.receipts.limit:
            return "this gateway keeps no receipts: set gateway.receipts to how many it shall keep"
        lost = f"; {silent} of its workers did not answer" if silent else ""
        return (
            f"no receipt of request {request_id!r}: this gateway keeps {kept}, the last {self.receipts.limit} of each "
            f"worker (gateway.receipts){lost}; GET /v1/cluster/requests lists them"
        )


def _query(exchange: Exchange) -> Query:
    given = exchange.request.query
    status = given.get("status", "")
    if status and not is_status(status):
        raise InvalidRequest(f"status: one of {', '.join(OUTCOMES)}, a code such as 502, or 5xx", param="status")
    return Query(
        limit=_limit(given.get("limit")),
        model=given.get("model", "")[:LONGEST_NAME],
        service_id=given.get("service_id", "")[:LONGEST_NAME],
        status=status,
        principal=_only(exchange),
    )


def _limit(word: str | None) -> int:
    if word is None:
        return _USUAL
    if not word.isascii() or not word.isdigit() or not 1 <= int(word[:5]) <= _MOST:
        raise InvalidRequest(f"limit: a whole number from 1 to {_MOST}", param="limit")
    return int(word)


def _only(exchange: Exchange) -> str | None:
    """Whose requests may be seen; None is everybody's."""
    who = exchange.principal
    if isinstance(who, Principal):
        return None if EVERYBODYS in who.scopes else who.name
    return ""


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")
