"""Which engine holds the beginning of which prompt: a mirror of the engines' KV caches, of what was sent there.

llama.cpp and Ollama keep one sequence a slot: a new request takes the idle slot that shares most with it,
or else the one that was idle longest, and until it ends nobody else can use that slot. vLLM and SGLang
keep a tree that all requests share, until it is full. The mirror follows the same rules, so it forgets
when they do; where an engine tells what was really cached, the mirror is corrected.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from geniehive.routing.affinity import NOTHING, Prefix, offset

if TYPE_CHECKING:
    from geniehive.routing.ledger import Place

SIMILAR = 0.1  # llama.cpp's --slot-prompt-similarity
_TREE_BYTES = 1_000_000  # of a shared cache, until its answers tell otherwise
_LEAST_TREE_BYTES = 50_000


class Sequence:
    """One prompt that an engine has read, with the answer that it wrote to it."""

    __slots__ = ("added", "answer", "cache", "ended_at", "lost", "lost_until", "prefix", "tokens")

    def __init__(self, cache: PlaceCache, prefix: Prefix) -> None:
        self.cache = cache
        self.prefix = prefix
        self.tokens = 0  # of the prompt, once the engine told; 0 as long as that is unknown
        self.answer = 0
        self.ended_at = 0.0
        self.added = prefix.size  # bytes that no other sequence had brought
        self.lost = 0.0  # tokens that are expected to be read again if it is thrown out, as the ledger found last
        self.lost_until = float("-inf")  # for so long that is good

    @property
    def end(self) -> int:
        """The key of the whole prompt."""
        return self.prefix.keys[-1] if self.prefix.keys else 0


class PlaceCache:
    """The mirror of one model's cache at one service. `slots` 0 stands for a shared tree."""

    __slots__ = ("capacity", "held", "idle", "life_s", "owner", "sequences", "slots")

    def __init__(self, owner: Place, slots: int) -> None:
        self.owner = owner
        self.slots = slots
        self.capacity = _TREE_BYTES
        self.sequences: dict[Sequence, None] = {}
        self.idle: dict[Sequence, None] = {}  # those among them whose answer is whole, longest idle first
        self.held = 0
        self.life_s = 60.0  # how long a sequence stays idle before somebody takes its slot, lately


Levels = list[tuple[int, dict["Place", Sequence]]]
"""Beginnings of a prompt in bytes, the longest first, each with the places that hold it."""


def match(levels: Levels, place: Place) -> tuple[int, Sequence | None]:
    """The longest beginning that the place holds, in bytes, and in which sequence."""
    for size, here in levels:
        held = here.get(place)
        if held is not None:
            return size, held
    return 0, None


class Warmth:
    """All mirrors of a gateway, indexed by prefix."""

    def __init__(self) -> None:
        self._holders: dict[int, dict[Place, Sequence]] = {}  # by key, then by owner of the cache
        self._asked: Prefix = NOTHING
        self._levels: Levels = []

    def levels(self, prefix: Prefix) -> Levels:
        """Who holds how much of the prompt: from the most that anyone holds to the least.

        What was found for the last prompt is kept: a request that was routed begins at once.
        """
        if prefix is self._asked:
            return self._levels
        found: Levels = []
        get, count = self._holders.get, 0
        for key in reversed(prefix.keys):
            here = get(key)
            if here is not None and len(here) != count:  # who holds more holds less as well: as many are the same
                count = len(here)
                found.append((offset(key), here))
        self._asked, self._levels = prefix, found
        return found

    def victim(self, cache: PlaceCache, prefix: Prefix, matched: int, found: Sequence | None) -> Sequence | None:
        """Whose slot a prompt would take, if it were sent there now; None if a fresh one, or its own."""
        if not cache.slots:
            return None
        if found is not None and matched >= SIMILAR * prefix.size:
            return None if matched == found.prefix.size else found
        if len(cache.sequences) < cache.slots:
            return None
        return next(iter(cache.idle), None) or next(iter(cache.sequences))  # all at work: the first to end, at a guess

    def begin(self, cache: PlaceCache, prefix: Prefix, now: float) -> Sequence:
        """A prompt is sent: it takes the place that the engine would give it."""
        matched, found = match(self.levels(prefix), cache.owner)
        return self.take(cache, prefix, now, matched, found)

    def take(self, cache: PlaceCache, prefix: Prefix, now: float, matched: int, found: Sequence | None) -> Sequence:
        """`begin`, where the match is known."""
        new = Sequence(cache, prefix)
        if not prefix.keys:
            return new
        if cache.slots:
            if len(cache.sequences) >= cache.slots:
                similar = found if found is not None and matched >= SIMILAR * prefix.size else None
                if victim := similar or next(iter(cache.idle), None):
                    self._evict(victim, prefix, now)
            cache.sequences[new] = None
            return new
        if found is not None and found.end in prefix.keys:
            self._drop(found)  # the same conversation, one turn on
            matched = found.prefix.size - found.added
        new.added = prefix.size - matched
        cache.held += new.added
        cache.sequences[new] = None
        self._index(new)
        return new

    def end(self, sequence: Sequence, now: float, *, tokens: int, answer: int) -> None:
        """The answer is whole: what was read and written can be used again."""
        cache = sequence.cache
        if sequence not in cache.sequences:
            return
        sequence.tokens, sequence.answer, sequence.ended_at = tokens, answer, now
        sequence.lost_until = float("-inf")
        cache.idle[sequence] = None
        if cache.slots:
            self._index(sequence)
            while len(cache.sequences) > cache.slots and cache.idle:
                self._evict(next(iter(cache.idle)), sequence.prefix, now)
            return
        while cache.held > cache.capacity and len(cache.idle) > 1:
            self._drop(next(iter(cache.idle)))

    def drop(self, sequence: Sequence) -> None:
        """The request failed: nothing is known of its slot."""
        if sequence in sequence.cache.sequences:
            self._drop(sequence)

    def clear(self, cache: PlaceCache) -> None:
        """The model was unloaded: nothing is warm."""
        for sequence in list(cache.idle):
            self._drop(sequence)

    def missed(self, cache: PlaceCache) -> None:
        """The engine had forgotten what the mirror still holds: the mirror of a tree gets smaller."""
        if not cache.slots:
            cache.capacity = max(round(cache.capacity * 0.95), _LEAST_TREE_BYTES)

    def _evict(self, victim: Sequence, by: Prefix, now: float) -> None:
        if victim.end not in by.keys:
            cache = victim.cache
            cache.life_s += 0.1 * (now - victim.ended_at - cache.life_s)
        self._drop(victim)

    def _index(self, sequence: Sequence) -> None:
        owner, holders = sequence.cache.owner, self._holders
        self._asked, self._levels = NOTHING, []  # who holds what has changed
        for key in sequence.prefix.keys:
            here = holders.get(key)
            if here is None:
                holders[key] = {owner: sequence}
            else:
                here[owner] = sequence

    def _drop(self, sequence: Sequence) -> None:
        cache, holders = sequence.cache, self._holders
        owner = cache.owner
        self._asked, self._levels = NOTHING, []
        del cache.sequences[sequence]
        cache.idle.pop(sequence, None)
        cache.held -= sequence.added
        for key in sequence.prefix.keys:
            here = holders.get(key)
            if here is not None and here.get(owner) is sequence:
                del here[owner]
                if not here:
                    del holders[key]
        if cache.slots and cache.idle:
            self._inherit(cache, sequence)

    def _inherit(self, cache: PlaceCache, gone: Sequence) -> None:
        """Other sequences there that begin with the same. A tree's many are not searched: they re-add it."""
        keys, owner, holders = gone.prefix.keys, cache.owner, self._holders
        for each in cache.idle:
            for key in each.prefix.keys:
                if key in keys:
                    holders.setdefault(key, {})[owner] = each
