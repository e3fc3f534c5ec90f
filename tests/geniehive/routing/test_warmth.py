"""The mirror of engines' caches."""

from hypothesis import given
from hypothesis import strategies as st

from geniehive.routing.affinity import Prefix, offset
from geniehive.routing.warmth import PlaceCache, Warmth, match


def prompt(*parts):
    """A prompt of parts of 1,000 bytes each, named by letters."""
    keys = [(hash(parts[: n + 1]) & 0xFFFFFFFF) | (1000 * (n + 1)) << 32 for n in range(len(parts))]
    return Prefix(1000 * len(parts), tuple(keys))


def place(slots):
    owner = type("Owner", (), {})()
    return owner, PlaceCache(owner, slots)


def used(warmth, cache, prefix, now=0.0):
    sequence = warmth.begin(cache, prefix, now)
    warmth.end(sequence, now, tokens=prefix.size // 4, answer=10)
    return sequence


def held(warmth, owner, prefix):
    return match(warmth.levels(prefix), owner)[0]


def test_the_next_turn_is_warm_where_the_last_one_was():
    warmth = Warmth()
    owner, cache = place(2)
    used(warmth, cache, prompt("a", "b"))
    assert held(warmth, owner, prompt("a", "b", "c")) == 2000
    assert held(warmth, owner, prompt("x")) == 0


def test_a_slot_forgets_what_was_idle_longest():
    warmth = Warmth()
    owner, cache = place(2)
    for name in "abc":
        used(warmth, cache, prompt(name))
    assert [held(warmth, owner, prompt(name)) for name in "abc"] == [0, 1000, 1000]


def test_a_slot_at_work_can_be_used_by_nobody_else():
    warmth = Warmth()
    owner, cache = place(1)
    used(warmth, cache, prompt("a"))
    warmth.begin(cache, prompt("a", "b"), 0.0)
    assert held(warmth, owner, prompt("a", "b")) == 0


def test_a_tree_keeps_what_all_share():
    warmth = Warmth()
    owner, cache = place(0)
    for name in "abcdef":
        used(warmth, cache, prompt("system", name))
    assert all(held(warmth, owner, prompt("system", name)) == 2000 for name in "abcdef")


def test_a_full_tree_forgets_its_oldest():
    warmth = Warmth()
    owner, cache = place(0)
    cache.capacity = 4000
    for name in "abcdef":
        used(warmth, cache, prompt("system", name))
    assert held(warmth, owner, prompt("system", "a")) == 1000
    assert held(warmth, owner, prompt("system", "f")) == 2000
    assert cache.held <= 5000


steps = st.lists(st.tuples(st.integers(0, 2), st.lists(st.sampled_from("abcd"), min_size=1, max_size=5), st.booleans()))


@given(st.sampled_from([0, 1, 3]), steps)
def test_a_mirror_is_bounded_and_its_index_leads_to_what_it_holds(slots, sent):
    warmth = Warmth()
    places = [place(slots) for _ in range(3)]
    opened = []
    for now, (which, names, ends) in enumerate(sent):
        opened.append(warmth.begin(places[which][1], prompt(*names), float(now)))
        if ends:
            warmth.end(opened.pop(0), float(now), tokens=1, answer=1)
    for sequence in opened:
        warmth.end(sequence, 1e3, tokens=1, answer=1)
    for owner, cache in places:
        assert not slots or len(cache.sequences) <= slots
        for sequence in cache.sequences:
            assert held(warmth, owner, sequence.prefix) == sequence.prefix.size
    for key, here in warmth._holders.items():
        for sequence in here.values():
            assert key in sequence.prefix.keys
            assert sequence in sequence.cache.sequences
    assert offset(prompt("a").keys[0]) == 1000


def test_nothing_stays_when_everything_is_dropped():
    warmth = Warmth()
    _, cache = place(3)
    sequences = [used(warmth, cache, prompt("system", name)) for name in "abc"]
    for sequence in sequences:
        warmth.drop(sequence)
    assert not warmth._holders
    assert not cache.sequences
