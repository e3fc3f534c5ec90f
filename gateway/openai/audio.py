"""Transcription and translation: a form with a file, streamed through to an engine.

The model's name decides where the bytes go. If it comes before the file (Python's openai SDK, most
clients) the file is passed on while it arrives. If the file comes first (FormData in its given order,
some curl lines) the form waits on disk, not in memory, until the name is known. Either way the form is
written anew for the engine, whose dialect may differ: see `gateway.openai.dialect`.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import tempfile
from collections.abc import AsyncIterator, Container
from typing import IO, NamedTuple

from gateway import multipart, web
from gateway.attempts import Attempts, Plan
from gateway.exchange import Exchange
from gateway.http import Handler
from gateway.intake import ClientBody, welcome
from gateway.multipart import Event, FormEnd, MultipartScanner, PartBegin, PartData
from gateway.openai.dialect import Dialect, dialect_of
from gateway.openai.generate import engine_headers
from gateway.router import Router
from gateway.upstream import UpstreamRequest
from geniehive.config import GatewayConfig
from geniehive.errors import GenieHiveError, InvalidRequest, PayloadTooLarge
from geniehive.resources import Operation
from geniehive.routing.candidate import Candidate

_MAX_FIELD = 256 * 1024
_SPOOL_AT_ONCE = 1024 * 1024


class Field(NamedTuple):
    """A plain field of the form."""

    name: str
    value: bytes


class FormReader:
    """The client's form, event by event."""

    def __init__(self, body: ClientBody, boundary: bytes, dropped: Container[str] = ()) -> None:
        self._body = body
        self._dropped = dropped
        self._scanner = MultipartScanner(boundary)
        self._events: list[Event] = []
        self._at = 0

    def drops(self, name: str) -> bool:
        """Whether engines never see a field of this name."""
        return name in self._dropped

    async def next(self) -> Event:
        """The next event. Raises what the scanner and the body raise."""
        while self._at == len(self._events):
            piece = await self._body.read()
            if not piece:
                self._scanner.close()
            self._events, self._at = self._scanner.feed(piece), 0
        event = self._events[self._at]
        self._at += 1
        return event

    async def field(self, part: PartBegin) -> Field:
        """The value of the plain field that just began."""
        value = bytearray()
        while isinstance(event := await self.next(), PartData):
            value += event.data
            if len(value) > _MAX_FIELD:
                raise PayloadTooLarge(f"the field is larger than {_MAX_FIELD} bytes", param=part.name)
        return Field(part.name, bytes(value))

    async def until_file(self) -> tuple[list[Field], PartBegin | None]:
        """The fields before the file, and the file's head; None if the form ends without one."""
        fields: list[Field] = []
        while not isinstance(event := await self.next(), FormEnd):
            if isinstance(event, PartBegin):
                if event.filename is not None:
                    return fields, event
                field = await self.field(event)
                if field.name not in self._dropped:
                    fields.append(field)
        return fields, None

    async def file(self) -> AsyncIterator[bytes]:
        """The bytes of the file whose head was just returned."""
        while isinstance(event := await self.next(), PartData):
            yield event.data


class Upload:
    """The file and what follows it, to be sent on: once as it arrives, or from disk as often as needed."""

    def __init__(self, reader: FormReader, fields: list[Field], part: PartBegin) -> None:
        self.fields = fields
        self.part = part
        self.failure: GenieHiveError | None = None
        self._reader = reader
        self._spool: IO[bytes] | None = None
        self._begun = False

    def replayable(self) -> bool:
        """Whether it can be sent again."""
        return self._spool is not None or not self._begun

    async def keep_on(self, spool: IO[bytes]) -> None:
        """Read everything to disk; afterwards `fields` has all fields."""
        held = bytearray()
        async for piece in self._reader.file():
            held += piece
            if len(held) >= _SPOOL_AT_ONCE:
                await asyncio.to_thread(spool.write, bytes(held))
                held.clear()
        await asyncio.to_thread(spool.write, bytes(held))
        await asyncio.to_thread(spool.flush)
        self.fields += await self._fields_after()
        self._spool = spool

    async def sent_as(
        self, exchange: Exchange, dialect: Dialect, boundary: bytes, limit_s: float
    ) -> AsyncIterator[bytes]:
        """The form in an engine's dialect. Each piece taken moves the deadline: the engine is reading."""
        self._begun = True
        try:
            yield dialect.fields(boundary, self.fields) + multipart.file_head(boundary, self.part)
            if self._spool is not None:
                at = 0  # a place of its own: a hedge reads the same file at the same time
                while piece := await asyncio.to_thread(os.pread, self._spool.fileno(), _SPOOL_AT_ONCE, at):
                    yield piece
                    at += len(piece)
                    exchange.rearm(limit_s)
                after: list[Field] = []
            else:
                async for piece in self._reader.file():
                    yield piece
                    exchange.rearm(limit_s)
                after = await self._fields_after()
            yield b"\r\n" + dialect.fields(boundary, after) + dialect.missing(boundary, [*self.fields, *after])
            yield multipart.form_end(boundary)
            exchange.rearm(limit_s)
        except GenieHiveError as error:
            self.failure = error
            raise

    async def _fields_after(self) -> list[Field]:
        fields, second = await self._reader.until_file()
        if second is not None:
            raise InvalidRequest("the form has more than one file", param=second.name)
        return one_model([*self.fields, *fields])[len(self.fields) :]


def one_model(fields: list[Field]) -> list[Field]:
    """The fields. Raises InvalidRequest if the model is named twice: what is checked must be what is sent."""
    if sum(field.name == "model" for field in fields) > 1:
        raise InvalidRequest("`model` is given twice", param="model")
    return fields


def text_of(fields: list[Field], name: str) -> str | None:
    """The value of a field as text; None if it is not there."""
    for field in fields:
        if field.name == name:
            try:
                return field.value.decode()
            except UnicodeDecodeError:
                raise InvalidRequest("the field is not valid UTF-8", param=name) from None
    return None


class Audio:
    """Makes the handlers of the audio operations that take a file."""

    def __init__(self, router: Router, attempts: Attempts, limits: GatewayConfig) -> None:
        self._router = router
        self._attempts = attempts
        self._limits = limits

    def handler(self, operation: Operation) -> Handler:
        """The handler for transcription or translation."""

        async def handle(exchange: Exchange) -> web.StreamResponse:
            boundary = multipart.boundary_of(exchange.request.headers.get("content-type"))
            limits = self._limits
            body = ClientBody(exchange, cap=limits.max_upload_bytes, timeout_s=limits.body_timeout_s)
            await welcome(exchange)
            reader = FormReader(body, boundary, limits.dropped_parameters)
            fields, part = await reader.until_file()
            if part is None:
                raise InvalidRequest("the form has no file", param="file")
            if part.name != "file":
                raise InvalidRequest(
                    f"the file stands in the field {part.name[:64]!a}; send it as `file`", param="file"
                )
            upload = Upload(reader, one_model(fields), part)
            if text_of(fields, "model") is not None:
                return await self._run(exchange, operation, upload)
            with tempfile.TemporaryFile(prefix="geniehive-") as spool:
                await upload.keep_on(spool)
                return await self._run(exchange, operation, upload)

        return handle

    async def _run(self, exchange: Exchange, operation: Operation, upload: Upload) -> web.StreamResponse:
        model = text_of(upload.fields, "model")
        if not model:
            raise InvalidRequest("`model` is missing; GET /v1/models lists what can be asked for", param="model")
        candidates = self._router.candidates(model, operation, exchange)
        boundary = b"geniehive-" + secrets.token_hex(16).encode()
        headers = engine_headers(exchange, f"multipart/form-data; boundary={boundary.decode()}", "*/*")

        def build(candidate: Candidate) -> UpstreamRequest:
            dialect = dialect_of(candidate, operation)
            form = upload.sent_as(exchange, dialect, boundary, self._limits.first_byte_timeout_s)
            return UpstreamRequest("POST", candidate.service.endpoint + dialect.path, headers, form)

        def adapt(candidate: Candidate, content_type: str, body: bytes) -> tuple[str, bytes]:
            return dialect_of(candidate, operation).answer(content_type, body)

        plan = Plan(
            candidates,
            build,
            json=False,
            # whisper.cpp answers whole, whatever is asked; as OpenAI's own API does for whisper-1.
            stream=text_of(upload.fields, "stream") == "true"
            and any(each.service.protocol != "whispercpp" for each in candidates),
            replayable=upload.replayable,
            body_failure=lambda: upload.failure,
            adapt=adapt,
        )
        return await self._attempts.run(exchange, plan)
