"""Servers that list nothing (WhisperX and the like): models from config, or from a JSON manifest.

The manifest is a file of the node, or a path on the server itself. It is a list of models, or an object with the list
under `models`, `assets` or `data`; an item is an id, or an object with `id` (or `asset_id`, `name`) and any of
`aliases`, `operations`, `capabilities`, `context_size`, `family`, `quantization`, `loaded`:

    {"models": [{"id": "whisperx-large-v3", "operations": ["transcription"], "family": "whisper"}]}

Whether the server lives is seen by any answer to GET /v1/models, the one route that is free of side effects on every
server: 404 is an answer.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, ClassVar

from geniehive.errors import UpstreamUnavailable
from geniehive.resources import Asset, Operation
from nodeagent.engines.base import HEALTHY, Engine, EngineState, Evidence, loading, refusal
from nodeagent.engines.http import Http, decode_json
from nodeagent.engines.llamacpp import is_loading
from nodeagent.engines.naming import SPEECH_TO_TEXT, family_of, quantization_of
from nodeagent.engines.reading import positive, rows, table, text, words

_ALIVE = "/v1/models"
_MAX_FILE_BYTES = 2**20


class Manifest(Engine):
    """A server whose models are known beforehand.

    `source` is the manifest: the name of a file, or else a path on the server, beginning with a slash; empty where
    config's assets are all. `speaks` is the protocol that the service is announced with.
    """

    name: ClassVar[str] = "manifest"
    runtime_name: ClassVar[str] = ""
    probes: ClassVar[tuple[str, ...]] = ()
    listen_fix: ClassVar[str] = "start the server so that it listens on 0.0.0.0"

    def __init__(self, source: str = "", speaks: str = "manifest") -> None:
        self._source = source
        self._speaks = speaks

    def recognise(self, seen: Evidence) -> bool:
        """Never: it is named in config or not at all."""
        del seen
        return False

    async def look(self, http: Http, previous: EngineState | None = None) -> EngineState:
        """See Engine.look. Raises UpstreamUnavailable for a manifest that cannot be read."""
        del previous
        alive = await http.get(_ALIVE)
        health = HEALTHY
        if is_loading(alive):
            health = loading(alive.complaint)
        elif alive.status >= 500 and alive.status != 501:
            health = refusal(alive, _ALIVE)
        assets = parse_manifest(await self._read(http), self._source) if self._source else ()
        return EngineState(
            protocol=self._speaks,
            runtime_name=self.runtime_name,
            health=health,
            assets=assets,
            operations=SPEECH_TO_TEXT if self._source else (),
            complete=False,
        )

    async def _read(self, http: Http) -> Any:
        raw = await asyncio.to_thread(_read_file, self._source)
        if raw is not None:
            return decode_json(raw)
        if not self._source.startswith("/"):
            raise UpstreamUnavailable(f"there is no manifest file {self._source}: check manifest of this service")
        reply = await http.get(self._source)
        if not reply.ok:
            raise UpstreamUnavailable(
                f"the manifest {self._source} is neither a file here nor a path there ({reply.status}): "
                "check manifest of this service"
            )
        return reply.data


def parse_manifest(data: Any, source: str = "manifest") -> tuple[Asset, ...]:
    """The models of a manifest; raises UpstreamUnavailable where it is none. An operation it misspells is named."""
    found = table(data)
    listed = next((found[key] for key in ("models", "assets", "data") if key in found), data)
    if not isinstance(listed, list):
        raise UpstreamUnavailable(f'the manifest {source} is no list of models: write {{"models": [{{"id": "…"}}]}}')
    named = [{"id": item} for item in words(listed)] + rows(listed)
    return tuple(_asset(item, source) for item in named)


def _asset(item: dict[str, Any], source: str) -> Asset:
    name = text(item.get("id")) or text(item.get("asset_id")) or text(item.get("name"))
    if not name:
        raise UpstreamUnavailable(f"a model in the manifest {source} has no id: give it one")
    loaded = item.get("loaded")
    return Asset(
        asset_id=name,
        aliases=words(item.get("aliases")),
        loaded=loaded if isinstance(loaded, bool) else None,
        context_size=positive(item.get("context_size")),
        family=text(item.get("family")) or family_of(name),
        quantization=text(item.get("quantization")) or quantization_of(name),
        capabilities=words(item.get("capabilities")),
        operations=tuple(_operation(word, source) for word in words(item.get("operations"))),
    )


def _operation(word: str, source: str) -> Operation:
    try:
        return Operation(word)
    except ValueError:
        known = ", ".join(Operation)
        raise UpstreamUnavailable(
            f"the manifest {source} names an operation {word!r}: it must be one of {known}"
        ) from None


def _read_file(source: str) -> bytes | None:
    """The bytes of a manifest file; None where there is no such file."""
    path = Path(source).expanduser()
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            return file.read(_MAX_FILE_BYTES)
    except OSError as error:
        raise UpstreamUnavailable(f"the manifest {path} cannot be read ({error.strerror})") from error
