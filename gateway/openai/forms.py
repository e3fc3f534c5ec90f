"""Forms with any number of files: image edits, and forms for routes that are only allowed through.

As in `gateway.openai.audio` the model's name decides where the bytes go. If it comes before the first file
everything is passed on while it arrives. If not, what arrives is written to disk, already in the form in
which engines get it, until the name is known. Names and values go on as they came, in their order; the
model's is put right.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import tempfile
from collections.abc import AsyncIterator
from typing import IO

from gateway import multipart, web
from gateway.attempts import Attempts
from gateway.exchange import Exchange
from gateway.http import Handler
from gateway.intake import ClientBody, welcome
from gateway.multipart import FormEnd, PartBegin
from gateway.openai.audio import Field, FormReader, one_model, text_of
from gateway.openai.generate import engine_headers
from gateway.plan import Plan
from gateway.router import Router
from gateway.upstream import UpstreamRequest
from geniehive.config import GatewayConfig
from geniehive.errors import GenieHiveError, InvalidRequest
from geniehive.resources import Operation
from geniehive.routing.candidate import Candidate

_AT_ONCE = 1024 * 1024
_GRACE_S = 2.0


class Freight:
    """What follows the fields at the front of a form: files and fields, passed on or kept on disk."""

    def __init__(self, reader: FormReader, first: PartBegin | None, boundary: bytes) -> None:
        self.boundary = boundary
        self.models: list[Field] = []
        """Every `model` that stood among the files."""
        self.streams = False
        """Whether a `stream` among them said true."""
        self.failure: GenieHiveError | None = None
        self._reader = reader
        self._first = first
        self._spool: IO[bytes] | None = None
        self._begun = False

    def replayable(self) -> bool:
        """Whether it can be sent again."""
        return self._spool is not None or not self._begun

    async def keep_on(self, spool: IO[bytes]) -> None:
        """Take all of it to disk."""
        held = bytearray()
        async for piece in self._arriving():
            held += piece
            if len(held) >= _AT_ONCE:
                await asyncio.to_thread(spool.write, bytes(held))
                held.clear()
        await asyncio.to_thread(spool.write, bytes(held))
        await asyncio.to_thread(spool.flush)
        self._spool = spool

    async def sent(self, exchange: Exchange, front: list[Field], limit_s: float) -> AsyncIterator[bytes]:
        """The whole form behind these fields. Each piece taken moves the deadline: the engine is reading."""
        self._begun = True
        try:
            yield b"".join(multipart.field(self.boundary, *each) for each in front)
            async for piece in self._arriving() if self._spool is None else self._from_disk(self._spool):
                yield piece
                exchange.rearm(limit_s)
            if self._spool is None and self.models:
                raise InvalidRequest("`model` is given twice", param="model")
            yield multipart.form_end(self.boundary)
            exchange.rearm(limit_s)
        except GenieHiveError as error:
            self.failure = error
            raise

    async def _from_disk(self, spool: IO[bytes]) -> AsyncIterator[bytes]:
        """From a place of its own: a hedge reads the same file at the same time."""
        at = 0
        while piece := await asyncio.to_thread(os.pread, spool.fileno(), _AT_ONCE, at):
            yield piece
            at += len(piece)

    async def _arriving(self) -> AsyncIterator[bytes]:
        """The parts as they are sent on; what says the model is kept back."""
        part = self._first
        while part is not None:
            if part.filename is None:
                if (field := await self._reader.field(part)).name == "model":
                    self.models.append(field)
                else:
                    self.streams = self.streams or field == Field("stream", b"true")
                    yield multipart.field(self.boundary, *field)
            else:
                yield multipart.file_head(self.boundary, part)
                async for piece in self._reader.file():
                    yield piece
                yield b"\r\n"
            part = await self._next_part()

    async def _next_part(self) -> PartBegin | None:
        while not isinstance(event := await self._reader.next(), FormEnd):
            if isinstance(event, PartBegin) and (event.filename is not None or not self._reader.drops(event.name)):
                return event
        return None


class Forms:
    """Makes the handlers of routes that take forms."""

    def __init__(self, router: Router, attempts: Attempts, limits: GatewayConfig) -> None:
        self._router = router
        self._attempts = attempts
        self._limits = limits

    def handler(self, operation: Operation | None, path: str, *, wants_file: str = "") -> Handler:
        """The handler for forms of one route; `wants_file` names the field without whose file nothing can be done."""

        async def handle(exchange: Exchange) -> web.StreamResponse:
            limits = self._limits
            given = multipart.boundary_of(exchange.request.headers.get("content-type"))
            body = ClientBody(exchange, cap=limits.max_upload_bytes, timeout_s=limits.body_timeout_s)
            await welcome(exchange)
            reader = FormReader(body, given, limits.dropped_parameters)
            front, first = await reader.until_file()
            if first is None and wants_file:
                raise InvalidRequest("the form has no file", param=wants_file)
            freight = Freight(reader, first, b"geniehive-" + secrets.token_hex(16).encode())
            if text_of(one_model(front), "model") is not None:
                return await self._run(exchange, operation, path, front, freight)
            with tempfile.TemporaryFile(prefix="geniehive-") as spool:
                await freight.keep_on(spool)
                front = one_model([*front, *freight.models])
                return await self._run(exchange, operation, path, front, freight)

        return handle

    async def _run(
        self, exchange: Exchange, operation: Operation | None, path: str, front: list[Field], freight: Freight
    ) -> web.StreamResponse:
        model = text_of(front, "model")
        if not model:
            raise InvalidRequest("`model` is missing; GET /v1/models lists what can be asked for", param="model")
        candidates = self._router.candidates(model, operation, exchange)
        content_type = f"multipart/form-data; boundary={freight.boundary.decode()}"
        headers = engine_headers(exchange, content_type, "*/*")

        def build(candidate: Candidate) -> UpstreamRequest:
            name = candidate.asset.asset_id.encode()
            fields = [Field("model", name) if each.name == "model" else each for each in front]
            form = freight.sent(exchange, fields, self._limits.first_byte_timeout_s)
            return UpstreamRequest("POST", candidate.service.endpoint + path, headers, form)

        plan = Plan(
            candidates,
            build,
            json=False,
            stream=freight.streams or text_of(front, "stream") == "true",
            replayable=freight.replayable,
            body_failure=lambda: freight.failure,
            # Of several images each has a last event, and the next one may take its time.
            grace_s=_GRACE_S if text_of(front, "n") in {None, "1"} else self._limits.idle_timeout_s,
        )
        return await self._attempts.run(exchange, plan)
