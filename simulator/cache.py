"""Prompts as engines see them, and what engines keep of them: the KV cache.

A prompt is a chain of pieces (system prompt, messages, answers), each with an id that stands for its
text. Two engines families differ in what they can use again:

- llama.cpp and Ollama keep one sequence a slot: a request takes the free slot that shares most with it,
  or else the slot that was idle longest, and what that slot held beyond the shared part is lost.
- vLLM and SGLang share one tree over all requests, evicted from its least recently used leaves.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple, Protocol

_SIMILAR = 0.1  # llama.cpp's --slot-prompt-similarity


class Piece(NamedTuple):
    """A stretch of a prompt that is shared whole or not at all."""

    id: int
    tokens: int


Chain = tuple[Piece, ...]


def length(chain: Chain) -> int:
    """Tokens."""
    return sum(piece.tokens for piece in chain)


def shared(one: Chain, other: Chain) -> int:
    """Tokens of the longest common prefix."""
    tokens = 0
    for mine, yours in zip(one, other, strict=False):
        if mine.id != yours.id:
            break
        tokens += mine.tokens
    return tokens


class Taken(NamedTuple):
    """A place to work in: its number, the tokens of the prompt that are there already, and what is lost by it."""

    place: int
    cached: int
    lost: Chain = ()


class Cache(Protocol):
    """The KV cache of one model in one engine."""

    def take(self, prompt: Chain) -> Taken:
        """A place to work in for a request."""
        ...

    def filled(self, prompt: Chain) -> None:
        """The prompt was read: others may share it from now on, where the engine can."""
        ...

    def give(self, place: int, whole: Chain) -> None:
        """The request is over; `whole` is its prompt and its answer."""
        ...

    def frozen(self) -> Cache:
        """A copy to look ahead with: it may be taken from and given to."""
        ...


class SlotCache:
    """One sequence a slot."""

    def __init__(self, slots: int) -> None:
        self._held: list[Chain] = [()] * slots
        self._free = list(range(slots))  # longest idle first

    def take(self, prompt: Chain) -> Taken:
        """The most similar free slot, else the one that was idle longest."""
        best, most = self._free[0], 0
        for slot in self._free:
            common = shared(self._held[slot], prompt)
            if common > most:
                best, most = slot, common
        if most < _SIMILAR * length(prompt):
            best = self._free[0]
            most = shared(self._held[best], prompt)
        self._free.remove(best)
        held = self._held[best]
        return Taken(best, most, held if most < length(held) else ())

    def filled(self, prompt: Chain) -> None:
        """Slots share nothing."""

    def give(self, place: int, whole: Chain) -> None:
        """The slot keeps the sequence."""
        self._held[place] = whole
        self._free.append(place)

    def frozen(self) -> SlotCache:
        """A copy."""
        copy = SlotCache.__new__(SlotCache)
        copy._held, copy._free = self._held[:], self._free[:]  # noqa: SLF001 - a copy of its own class
        return copy


class TreeCache:
    """One tree of shared prefixes, `capacity` tokens large; nodes are named by the chain that leads to them."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._nodes: OrderedDict[int, int] = OrderedDict()  # least recently used first
        self._size = 0

    def take(self, prompt: Chain) -> Taken:
        """Every request shares what the tree holds of its prompt."""
        tokens, node = 0, 0
        for piece in prompt:
            node = hash((node, piece.id))
            if node not in self._nodes:
                break
            tokens += piece.tokens
        return Taken(0, tokens)

    def filled(self, prompt: Chain) -> None:
        """The prompt joins the tree."""
        self._insert(prompt)

    def give(self, place: int, whole: Chain) -> None:  # noqa: ARG002 - no places here
        """The answer joins the tree."""
        self._insert(whole)

    def _insert(self, chain: Chain) -> None:
        path, node = [], 0
        for piece in chain:
            node = hash((node, piece.id))
            path.append((node, piece.tokens))
        for node, tokens in reversed(path):  # leaves first: a parent is never older than its children
            if node not in self._nodes:
                self._size += tokens
            self._nodes[node] = tokens
            self._nodes.move_to_end(node)
        while self._size > self._capacity and self._nodes:
            self._size -= self._nodes.popitem(last=False)[1]

    def frozen(self) -> FrozenTree:
        """The tree as it is, without a copy of it: looking ahead does not change it."""
        return FrozenTree(self)


class FrozenTree:
    """A tree that is only read."""

    def __init__(self, tree: TreeCache) -> None:
        self._tree = tree

    def take(self, prompt: Chain) -> Taken:
        """What the tree holds of the prompt."""
        return self._tree.take(prompt)

    def filled(self, prompt: Chain) -> None:
        """Nothing is kept."""

    def give(self, place: int, whole: Chain) -> None:
        """Nothing is kept."""

    def frozen(self) -> FrozenTree:
        """Itself, since it never changes."""
        return self
