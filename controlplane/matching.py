"""Scores roles and services for a task in words, by the words that they share. Pure.

A plain overlap: the share of the task's words that the role's or service's own texts contain, words
cut to a stem so that "transcribing" finds "transcription". It knows no meaning and claims none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from geniehive.errors import GenieHiveError
from geniehive.resources import Asset, Operation, Role, Service
from geniehive.routing.candidate import Candidate
from geniehive.routing.resolve import resolve
from geniehive.routing.strategy import order
from geniehive.routing.table import RoutingTable

_WORD = re.compile(r"[^\W_]+")
_STEM = 5
_EMPTY = frozenset(
    ("a", "an", "and", "are", "as", "at", "by", "for", "from", "in", "is", "it", "of", "on", "or", "that", "the", "to")
)
_MODALITY = {
    Operation.EMBEDDINGS: "vector",
    Operation.TRANSCRIPTION: "audio",
    Operation.TRANSLATION: "audio",
    Operation.SPEECH: "audio",
    Operation.IMAGE: "image",
}
_SAYS = {
    Operation.CHAT: "chat answer write talk converse assistant",
    Operation.COMPLETION: "completion complete continue text",
    Operation.EMBEDDINGS: "embeddings vectors semantic search similarity retrieval",
    Operation.RERANK: "rerank order documents relevance search",
    Operation.TRANSCRIPTION: "transcription transcribe audio recording speech subtitles",
    Operation.TRANSLATION: "translation translate audio recording speech english",
    Operation.SPEECH: "speech speak voice read aloud",
    Operation.IMAGE: "image picture draw generate edit",
}


class Wanted(NamedTuple):
    """What is looked for: tasks in words, and what a match has to be."""

    tasks: tuple[str, ...]
    workloads: tuple[str, ...] = ()
    operation: Operation | None = None
    modality: str = ""
    services: bool = False


class Match(NamedTuple):
    """A role or service that suits; `score` is 0 to 1, `words` are the shared ones."""

    kind: str
    name: str
    score: float
    candidate: Candidate
    words: tuple[str, ...]


def match(table: RoutingTable, wanted: Wanted) -> list[Match]:
    """What suits and can answer now, best first."""
    texts = [words for text in (*wanted.tasks, *wanted.workloads) if (words := _words(text))]
    found = []
    for kind, name, operation, own in _offers(table, wanted):
        score, shared = _score(texts, _words(own))
        if score > 0 and (candidate := _best(table, name, operation)) is not None:
            found.append(Match(kind, name, score, candidate, tuple(sorted(shared))))
    return sorted(found, key=lambda each: (-each.score, each.kind, each.name))


def modality(operation: Operation) -> str:
    """What goes in or comes out besides text; "text" where nothing does."""
    return _MODALITY.get(operation, "text")


def _offers(table: RoutingTable, wanted: Wanted) -> Iterator[tuple[str, str, Operation | None, str]]:
    for role in table.shape.roles.values():
        if _fits(wanted, (role.operation,), role.modality):
            yield "role", role.role_id, wanted.operation, _role_text(role)
    for service in table.shape.services.values() if wanted.services else ():
        if _fits(wanted, service.operations, ""):
            yield "service", service.service_id, wanted.operation, _service_text(service)


def _fits(wanted: Wanted, operations: Iterable[Operation], own: str) -> bool:
    able = [each for each in operations if wanted.operation in {None, each}]
    return any(wanted.modality in {"", own or modality(each)} for each in able)


def _role_text(role: Role) -> str:
    policy = role.routing_policy
    parts = (role.role_id, role.display_name, role.description, _SAYS[role.operation], role.modality)
    return " ".join((*parts, *policy.preferred_families, *policy.allowed_workload_classes))


def _service_text(service: Service) -> str:
    said = (_SAYS[operation] for operation in service.operations)
    return " ".join((service.service_id, *said, *map(_asset_text, service.assets)))


def _asset_text(asset: Asset) -> str:
    return " ".join((asset.asset_id, asset.family, *asset.aliases, *asset.capabilities))


def _words(text: str) -> frozenset[str]:
    return frozenset(word[:_STEM] for word in _WORD.findall(text.casefold()) if word not in _EMPTY)


def _score(texts: list[frozenset[str]], own: frozenset[str]) -> tuple[float, frozenset[str]]:
    """The best share over the texts, and the words that made it."""
    scored = ((len(text & own) / len(text), text & own) for text in texts)
    return max(scored, key=lambda each: each[0], default=(0.0, frozenset()))


def _best(table: RoutingTable, name: str, operation: Operation | None) -> Candidate | None:
    try:
        return order(table, resolve(table, name, operation), {}, 0)[0]
    except GenieHiveError:
        return None  # nothing answers for it now
