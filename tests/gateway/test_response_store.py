"""Kept responses: bounded by number and bytes, the oldest go first, each for its owner alone."""

import pytest

from gateway.response_store import ResponseStore
from geniehive.errors import NotFound, ResponseNotKept


def kept(store, name, *, owner="a", size=10, before=()):
    store.keep(owner, {"id": name, "output": [f"answer {name}"]}, list(before), size)


def names(store):
    found = []
    for name in "abcdef":
        try:
            found.append(store.get(name, "a").response["id"])
        except NotFound:
            continue
    return "".join(found)


def test_the_oldest_go_first_by_number_and_by_bytes():
    store = ResponseStore(3, max_bytes=45)
    for name in "abcd":
        kept(store, name)
    assert names(store) == "bcd"
    kept(store, "e", size=20)
    assert (names(store), store.bytes) == ("cde", 40)
    kept(store, "f", size=40)
    assert (names(store), store.bytes) == ("f", 40)


def test_one_that_is_larger_than_all_together_may_be_is_not_kept_and_drives_nothing_out():
    store = ResponseStore(3, max_bytes=45)
    kept(store, "a")
    kept(store, "b", size=46)
    assert names(store) == "a"


def test_the_same_id_once_more_replaces_the_first_and_counts_once():
    store = ResponseStore(3)
    kept(store, "a")
    kept(store, "a", size=7)
    assert store.bytes == 7


def test_what_a_request_goes_on_from_is_all_that_came_before():
    store = ResponseStore(3)
    kept(store, "a", before=["question"])
    assert store.before("a", "a").items == ["question", "answer a"]


def test_nobody_else_sees_it_and_what_is_not_kept_is_told_in_openais_words():
    store = ResponseStore(3)
    kept(store, "a")
    for name, owner in (("a", "b"), ("z", "a"), (7, "a"), (None, "a")):
        with pytest.raises(ResponseNotKept, match="not found"):
            store.before(name, owner)
    with pytest.raises(NotFound):
        store.delete("a", "b")
    store.delete("a", "a")
    assert (names(store), store.bytes) == ("", 0)


def test_none_are_kept_where_none_are_wanted_and_odd_answers_are_no_failure():
    store = ResponseStore(0)
    kept(store, "a")
    store = ResponseStore(3)
    store.keep("a", {"id": None, "output": []}, [], 1)
    store.keep("a", {"id": "x"}, [], 1)
    assert store.bytes == 0
