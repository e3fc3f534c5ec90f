"""Traces: what clients ask, made from a seed. Conversations arrive by chance; a turn follows on the answer before it.

`chat` is people: short turns, some with a document in them, a few personas as system prompts. `agent` is
programs: a long prompt of system and tools that all sessions of an agent share, many quick steps. `mixed`
is chat for a small model, and bursts of batch jobs with a document each for a larger one.

Prompts are real bytes (the messages of a chat request as JSON), since routing looks at bytes and only
learns afterwards how many tokens they were.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from geniehive.routing.affinity import Prefix, fingerprint
from simulator.cache import Chain, Piece

SMALL = "qwen3-8b"
LARGE = "qwen3-14b"
_PERSONAS = 8
_AGENTS = 4


@dataclass(frozen=True, slots=True)
class Turn:
    """One request: what the engine sees (pieces), what the gateway sees (prefix, max_tokens), what will come of it."""

    asset_id: str
    prompt: Chain
    prompt_tokens: int
    prefix: Prefix
    answer: Piece
    max_tokens: int | None
    pause_s: float
    """After the answer before it."""
    hardness: float


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns of one client, one after the other; `client` says which gateway it is connected to."""

    starts_at: float
    client: int
    turns: tuple[Turn, ...]


class _Writer:
    """Makes up texts; ids of pieces are never used twice."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self._ids = 0

    def tokens(self, median: float, sigma: float, low: int, high: int) -> int:
        return max(low, min(high, round(self.dice.lognormvariate(0.0, sigma) * median)))

    def piece(self, tokens: int) -> Piece:
        self._ids += 1
        return Piece(self._ids, tokens)

    def message(self, role: str, tokens: int, density: float) -> tuple[Piece, bytes]:
        """A message of so many tokens, each `density` bytes on average."""
        text = self.dice.randbytes(max(1, round(tokens * density / 2))).hex()
        return self.piece(tokens), f'{{"role":"{role}","content":"{text}"}}'.encode()


@dataclass
class _Talk:
    """A conversation as it grows."""

    writer: _Writer
    asset_id: str
    density: float
    pieces: list[Piece]
    texts: list[bytes]
    turns: list[Turn]

    def turn(self, ask: tuple[Piece, bytes], answer_tokens: int, pause_s: float, max_tokens: int | None) -> None:
        """A message of the client, and the answer to it."""
        self.pieces.append(ask[0])
        self.texts.append(ask[1])
        prompt = tuple(self.pieces)
        piece, text = self.writer.message("assistant", answer_tokens, self.density)
        prefix = fingerprint(b"[" + b",".join(self.texts) + b"]")
        hardness = self.writer.dice.lognormvariate(0.0, 0.05)
        total = sum(each.tokens for each in prompt)
        self.turns.append(Turn(self.asset_id, prompt, total, prefix, piece, max_tokens, pause_s, hardness))
        self.pieces.append(piece)
        self.texts.append(text)


Grow = Callable[[_Writer], tuple[Turn, ...]]


def _density(writer: _Writer) -> float:
    """Bytes a token: prose, code and other languages differ."""
    return min(5.5, max(2.2, writer.dice.lognormvariate(1.35, 0.2)))


def _chat(writer: _Writer) -> Grow:
    personas = [writer.message("system", writer.tokens(400, 0.7, 60, 1500), 4.0) for _ in range(_PERSONAS)]

    def grow(writer: _Writer) -> tuple[Turn, ...]:
        dice = writer.dice
        persona = personas[min(int(dice.expovariate(0.5)), _PERSONAS - 1)]
        talk = _Talk(writer, SMALL, _density(writer), [persona[0]], [persona[1]], [])
        for number in range(1 + min(int(dice.expovariate(0.25)), 15)):
            pasted = dice.random() < 0.12
            asked = writer.tokens(1600, 0.5, 400, 5000) if pasted else writer.tokens(50, 0.8, 5, 500)
            pause = 0.0 if number == 0 else 3.0 + dice.expovariate(1 / 15)
            talk.turn(
                writer.message("user", asked, talk.density), writer.tokens(190, 0.7, 8, 1200), min(pause, 90.0), None
            )
        return tuple(talk.turns)

    return grow


def _agent(writer: _Writer) -> Grow:
    agents = [writer.message("system", writer.tokens(7000, 0.3, 4000, 12000), 3.8) for _ in range(_AGENTS)]

    def grow(writer: _Writer) -> tuple[Turn, ...]:
        dice = writer.dice
        agent = agents[dice.randrange(_AGENTS)]
        talk = _Talk(writer, SMALL, _density(writer), [agent[0]], [agent[1]], [])
        for number in range(4 + min(int(dice.expovariate(1 / 6)), 20)):
            got = writer.tokens(300, 0.9, 20, 3000)
            pause = 0.0 if number == 0 else 0.3 + dice.expovariate(1 / 1.5)
            talk.turn(writer.message("user", got, talk.density), writer.tokens(80, 0.6, 10, 600), pause, 2048)
        return tuple(talk.turns)

    return grow


def _batch(writer: _Writer) -> Grow:
    task = writer.message("system", 500, 4.0)

    def grow(writer: _Writer) -> tuple[Turn, ...]:
        talk = _Talk(writer, LARGE, _density(writer), [task[0]], [task[1]], [])
        document = writer.message("user", writer.tokens(1800, 0.4, 500, 5000), talk.density)
        talk.turn(document, writer.tokens(140, 0.4, 30, 400), 0.0, 400)
        return tuple(talk.turns)

    return grow


def _arrivals(
    writer: _Writer, grow: Grow, rate: Callable[[float], float], count: int, burst: int
) -> Iterator[Conversation]:
    """Conversations until there are `count` requests; `rate` is in requests a second, given turns a conversation."""
    talks = []
    requests = 0
    while requests < count:
        talks.append(grow(writer))
        requests += len(talks[-1])
    each = requests / len(talks)
    at = 0.0
    for number, turns in enumerate(talks):
        if number % burst == 0:
            at += writer.dice.expovariate(rate(1.0) / each / burst)
        yield Conversation(at, writer.dice.randrange(1 << 30), turns)


def make(kind: str, seed: int, requests: int, rate: float) -> tuple[Conversation, ...]:
    """A trace of about so many requests, which arrive at `rate` a second on average, in order of their start."""
    writer = _Writer(seed)
    if kind == "chat":
        found = list(_arrivals(writer, _chat(writer), lambda _: rate, requests, 1))
    elif kind == "agent":
        found = list(_arrivals(writer, _agent(writer), lambda _: rate, requests, 1))
    elif kind == "mixed":
        people, jobs = _chat(writer), _batch(writer)
        found = list(_arrivals(writer, people, lambda _: rate * 0.7, round(requests * 0.7), 1))
        found += _arrivals(writer, jobs, lambda _: rate * 0.3, round(requests * 0.3), 12)
    else:
        raise ValueError(f"no trace is called {kind!r}: chat, agent or mixed")
    return tuple(sorted(found, key=lambda talk: talk.starts_at))
