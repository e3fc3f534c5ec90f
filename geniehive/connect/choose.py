"""[pure] Which models a client is given: the best one for its main work, a quick one for small work, and so on.

All that counts is in the catalogue (`GET /v1/models`). For the main work: what can be used now before what cannot, what
has tools before what has not, a role before a bare model, the larger model, the longer context. For small work: the
fastest of the same, by measured speed, else by size. Ties go by name, so that the same catalogue gives the same choice.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from geniehive.errors import NotFound

Json = Mapping[str, Any]

_READY: Final = ("loaded", "unloaded", "loading", "unavailable")
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([KMBT])", re.IGNORECASE)
_UNITS: Final = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}


class Choice(NamedTuple):
    """What a client is told of a model; `context` in tokens, None is unknown."""

    model: str
    context: int | None = None
    tools: bool = False
    vision: bool = False
    reasoning: bool = False


class Choices(NamedTuple):
    """Models by what they are for; None where the cluster has none."""

    main: Choice
    small: Choice
    embeddings: Choice | None = None
    rerank: Choice | None = None
    transcription: Choice | None = None
    speech: Choice | None = None
    voice: str = ""
    image: Choice | None = None


def choose(entries: list[Json], main: str = "", small: str = "") -> Choices:
    """The models for a client; `main` and `small` are the user's own choice. Raises NotFound where nothing chats."""
    chats = sorted(_that_can(entries, "chat"), key=_for_main_work)
    if not chats and not main:
        raise NotFound("no model of the cluster chats now: start one, or name one with --model")
    best = _named(entries, main) if main else _told(chats[0])
    quick = min(chats, key=_for_small_work, default=None)
    speech = _first(entries, "speech")
    return Choices(
        main=best,
        small=_named(entries, small) if small else (_told(quick) if quick is not None else best),
        embeddings=_best(entries, "embeddings"),
        rerank=_best(entries, "rerank"),
        transcription=_best(entries, "transcription"),
        speech=None if speech is None else _told(speech),
        voice=next(iter(speech["geniehive"].get("voices") or ()), "") if speech is not None else "",
        image=_best(entries, "image"),
    )


def _named(entries: list[Json], name: str) -> Choice:
    """A model of the user's choice; one that the catalogue does not list, an alias, is taken by its word."""
    for entry in entries:
        if name == entry["id"] or name in entry["geniehive"]["aliases"]:
            return _told(entry)._replace(model=name)
    return Choice(name)


def _can(entry: Json, operation: str) -> bool:
    """Whether it does; a role is for its own operation, whatever its models could do besides."""
    own = entry["geniehive"]
    return bool(operation == own["operation"] if own["kind"] == "role" else operation in own["operations"])


def _that_can(entries: list[Json], operation: str) -> list[Json]:
    usable = [entry for entry in entries if _can(entry, operation)]
    return [entry for entry in usable if entry["status"]["value"] != "unavailable"] or usable


def _first(entries: list[Json], operation: str) -> Json | None:
    return min(_that_can(entries, operation), key=_for_main_work, default=None)


def _best(entries: list[Json], operation: str) -> Choice | None:
    found = _first(entries, operation)
    return None if found is None else _told(found)


def _for_main_work(entry: Json) -> tuple[Any, ...]:
    return (
        _READY.index(entry["status"]["value"]) > 1,
        not entry["capabilities"].get("tools"),
        entry["geniehive"]["kind"] != "role",
        -_size(entry),
        -(entry["context_length"] or 0),
        entry["id"],
    )


def _for_small_work(entry: Json) -> tuple[Any, ...]:
    speed = entry["geniehive"]["observed"]["tokens_per_sec"]
    return (
        _READY.index(entry["status"]["value"]),
        not entry["capabilities"].get("tools"),
        -(speed or 0),
        _size(entry) or float("inf"),
        entry["id"],
    )


def _size(entry: Json) -> float:
    """Parameters, 0 where nobody says."""
    found = _SIZE.fullmatch((entry["geniehive"].get("parameter_size") or "").strip())
    return float(found[1]) * _UNITS[found[2].upper()] if found else 0.0


def _told(entry: Json) -> Choice:
    can = entry["capabilities"]
    return Choice(
        entry["id"],
        entry["context_length"],
        tools=bool(can.get("tools")),
        vision=bool(can.get("vision")),
        reasoning=bool(can.get("thinking")),
    )
