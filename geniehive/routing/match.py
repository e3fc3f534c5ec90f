"""Which roles and services suit a task in words. Pure.

A plain overlap of words: the share of the task's words that the role's or service's own texts contain.
It knows no meaning and claims none. What shares no word with the task, and was benchmarked in nothing
that resembles it, is not offered; the rest is ordered by score (`geniehive.routing.score`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from geniehive.config import WeightsConfig
from geniehive.errors import GenieHiveError, InvalidRequest
from geniehive.resources import Asset, Operation, Role, Service
from geniehive.routing.candidate import Candidate
from geniehive.routing.resolve import resolve
from geniehive.routing.score import Score, Task, score, words
from geniehive.routing.strategy import order
from geniehive.routing.table import RoutingTable

DEFAULT_LIMIT: Final = 10
_MOST_TASKS: Final = 100
_LONGEST: Final = 10_000
_MODALITY: Final = {
    Operation.EMBEDDINGS: "vector",
    Operation.TRANSCRIPTION: "audio",
    Operation.TRANSLATION: "audio",
    Operation.SPEECH: "audio",
    Operation.IMAGE: "image",
}
MODALITIES: Final = ("text", *sorted(set(_MODALITY.values())))
_SAYS: Final = {
    Operation.CHAT: "chat answer write talk converse assistant",
    Operation.COMPLETION: "completion complete continue text",
    Operation.EMBEDDINGS: "embeddings vectors semantic search similarity retrieval",
    Operation.RERANK: "rerank order documents relevance search",
    Operation.TRANSCRIPTION: "transcription transcribe audio recording speech subtitles",
    Operation.TRANSLATION: "translation translate audio recording speech english",
    Operation.SPEECH: "speech speak voice read aloud",
    Operation.IMAGE: "image picture draw generate edit",
    Operation.MODERATION: "moderation moderate harmful unsafe content classify",
}


class Wanted(NamedTuple):
    """What is looked for: tasks in words, benchmark workloads that resemble them, and what a match has to be."""

    tasks: tuple[str, ...] = ()
    workloads: tuple[str, ...] = ()
    operation: Operation | None = None
    modality: str = ""
    services: bool = False


class Match(NamedTuple):
    """A role or service that suits, with the candidate that would answer for it now."""

    kind: str  # "role" or "service"
    name: str
    candidate: Candidate
    score: Score


def check(wanted: Wanted) -> None:
    """Refuse what nothing can be found for. Raises InvalidRequest."""
    texts = (*wanted.tasks, *wanted.workloads)
    if not any(text.strip() for text in texts):
        raise InvalidRequest("tasks is empty: say in words what the model is for", param="tasks")
    if len(texts) > _MOST_TASKS:
        raise InvalidRequest(f"more than {_MOST_TASKS} tasks and workloads in one call", param="tasks")
    if any(len(text) > _LONGEST for text in texts):
        raise InvalidRequest(f"a task is longer than {_LONGEST} characters", param="tasks")


def match(
    table: RoutingTable, wanted: Wanted, weights: WeightsConfig, in_flight: Mapping[str, int] | None = None
) -> list[Match]:
    """What suits and can answer now, best first. `in_flight` counts the caller's own open requests by service id."""
    check(wanted)
    task = Task(wanted.tasks, wanted.workloads, wanted.operation)
    texts = [found for text in (*wanted.tasks, *wanted.workloads) if (found := words(text))]
    matches = []
    for kind, name, own in _offers(table, wanted):
        share, shared = _overlap(texts, words(own))
        best = _best(table, name, task, share, weights, in_flight or {})
        if best is None or (not shared and not best[1].signals.get("workload_overlap")):
            continue
        matches.append(Match(kind, name, best[0], _with_words(best[1], shared)))
    return sorted(matches, key=lambda each: (-each.score.value, each.kind, each.name))


def modality(operation: Operation) -> str:
    """What goes in or comes out besides text; "text" where nothing does."""
    return _MODALITY.get(operation, "text")


def _offers(table: RoutingTable, wanted: Wanted) -> Iterator[tuple[str, str, str]]:
    for role in table.shape.roles.values():
        if _fits(wanted, (role.operation,), role.modality):
            yield "role", role.role_id, _role_text(role)
    for service in table.shape.services.values() if wanted.services else ():
        if _fits(wanted, service.operations, ""):
            yield "service", service.service_id, _service_text(service)


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


def _overlap(texts: list[frozenset[str]], own: frozenset[str]) -> tuple[float, frozenset[str]]:
    """The best share over the texts, and the words that made it."""
    scored = ((len(text & own) / len(text), text & own) for text in texts)
    return max(scored, key=lambda each: each[0], default=(0.0, frozenset()))


def _with_words(found: Score, shared: frozenset[str]) -> Score:
    reasons = (f"shares the words {', '.join(sorted(shared))}", *found.reasons) if shared else found.reasons
    return found._replace(reasons=reasons)


def _best(
    table: RoutingTable, name: str, task: Task, text: float, weights: WeightsConfig, in_flight: Mapping[str, int]
) -> tuple[Candidate, Score] | None:
    """Of those who would be asked first, the one with the best score; None if nothing answers for it now."""
    try:
        ordered = order(table, resolve(table, name, task.operation), in_flight, 0)
    except GenieHiveError:
        return None
    first = (each for each in ordered if each.tier == ordered[0].tier)
    scored = (
        (each, score(table, each, task, text, weights, in_flight.get(each.service.service_id, 0))) for each in first
    )
    return max(scored, key=lambda pair: pair[1].value)
