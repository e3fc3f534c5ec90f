"""`GET /v1/audio/voices` and `/v1/audio/models`: what a cluster can speak with.

OpenAI has no such routes; Kokoro-FastAPI and speaches do, and Open WebUI and Home Assistant ask for them.
Open WebUI takes `voices[].id` and `.name`, and `models[].id`. The voices are those that the engines told
their node agents: no engine is asked here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from gateway import web
from gateway.exchange import Exchange
from gateway.permits import may_name
from gateway.view import RoutingView
from geniehive.resources import Asset, Operation, Voice
from geniehive.routing.eligibility import operations, unavailable
from geniehive.routing.table import RoutingTable


class Voices:
    """The handlers."""

    def __init__(self, view: RoutingView) -> None:
        self._view = view

    async def all(self, exchange: Exchange) -> web.Response:
        """GET /v1/audio/voices; `?model=` for those of one, `?legacy=true` for their ids alone, as Kokoro has it."""
        query = exchange.request.query
        model = query.get("model") or query.get("model_id") or ""
        found = voices(speakers(self._view.current(), exchange.principal), model)
        if query.get("legacy") == "true":
            return _json({"voices": [voice["id"] for voice in found]})
        return _json({"object": "list", "voices": found})

    async def models(self, exchange: Exchange) -> web.Response:
        """GET /v1/audio/models: the models that speak."""
        names = sorted({asset.asset_id for asset in speakers(self._view.current(), exchange.principal)})
        listed = [{"id": name, "name": name, "object": "model"} for name in names]
        return _json({"object": "list", "models": listed, "data": listed})


def voices(assets: Iterable[Asset], model: str = "") -> list[dict[str, Any]]:
    """Every voice of these assets, each once, by id; `model` is one of them, or an alias."""
    found: dict[str, list[tuple[str, Voice]]] = {}
    for asset in assets:
        if not model or model in {asset.asset_id, *asset.aliases}:
            for voice in asset.voices:
                found.setdefault(voice.voice_id, []).append((asset.asset_id, voice))
    return [_told(name, found[name]) for name in sorted(found)]


def _told(name: str, places: list[tuple[str, Voice]]) -> dict[str, Any]:
    """One voice, with what any of its models tells of it."""
    known = [voice for _, voice in places]
    return {
        "id": name,
        "name": next((voice.name for voice in known if voice.name), name),
        "language": next((voice.language for voice in known if voice.language), ""),
        "gender": next((voice.gender for voice in known if voice.gender), ""),
        "models": sorted({model for model, _ in places}),
    }


def speakers(table: RoutingTable, who: object = None) -> Iterator[Asset]:
    """The assets that speak, of services that can answer now; those that the caller may ask for."""
    shape = table.shape
    for name in sorted(shape.services):
        service = shape.services[name]
        if not unavailable(service, shape.hosts.get(service.host_id)):
            for asset in service.assets:
                can = operations(service, asset)
                if Operation.SPEECH in can and may_name(asset.asset_id, [(asset, can)], who):
                    yield asset


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")
