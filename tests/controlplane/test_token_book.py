"""Which tokens are good, and what is remembered of those that were."""

import msgspec
import pytest

from controlplane import token_book
from controlplane.events import Delete, Kind, Put, RevokeRequested, TokenRequested
from controlplane.token_book import TokenBook
from geniehive.errors import Conflict, InvalidRequest, NotFound
from geniehive.resources import AccessKey
from geniehive.tokens import sha256


def key(name, secret="s", **fields):
    return AccessKey(name=name, secret_sha256=sha256(secret), **fields)


def create(book, made, now=100):
    event = TokenRequested(key=made)
    changes = book.changes(event, now)
    book.commit(event)
    return changes


def revoke(book, name, at=100):
    event = RevokeRequested(name=name, at=at)
    changes = book.changes(event, at)
    book.commit(event)
    return changes


def test_a_token_is_found_by_its_hash_until_it_is_revoked():
    book = TokenBook()
    assert create(book, key("ci")) == (Put(key("ci")),)
    assert book.by_hash(sha256("s")) == key("ci")
    assert book.good == {"ci": key("ci")}
    (change,) = revoke(book, "ci")
    mark = change.resource
    assert (mark.secret_sha256, mark.revoked_at) == (b"", 100)
    assert book.by_hash(sha256("s")) is None
    assert book.by_hash(b"") is None
    assert book.good == {}
    assert book.all == (mark,)


def test_a_name_is_unique_while_its_token_is_good_and_free_afterwards():
    book = TokenBook([key("ci"), key("late", "l", expires_at=50)])
    with pytest.raises(Conflict, match="there is a token 'ci' already"):
        book.changes(TokenRequested(key=key("ci", "other")), 100)
    create(book, key("late", "new"))
    assert book.by_hash(sha256("l")) is None
    revoke(book, "ci")
    create(book, key("ci", "again"))
    assert book.by_hash(sha256("again")).name == "ci"
    assert book.by_hash(sha256("s")) is None


def test_revoking_what_is_not_there_names_near_misses():
    book = TokenBook([key("laptop")])
    with pytest.raises(NotFound, match="did you mean 'laptop'"):
        book.changes(RevokeRequested(name="labtop", at=1), 1)
    with pytest.raises(InvalidRequest, match="name is empty"):
        book.changes(RevokeRequested(name="", at=1), 1)
    revoke(book, "laptop")
    with pytest.raises(NotFound, match="no token is known at all"):
        book.changes(RevokeRequested(name="laptop", at=1), 1)


def test_a_cluster_that_had_tokens_is_known_as_one_for_ever():
    book = TokenBook()
    assert (book.required, book.admins) == (False, False)
    create(book, key("ci"))
    assert (book.required, book.admins) == (True, False)
    create(book, key("root", "r", scopes=("admin",)))
    revoke(book, "ci")
    revoke(book, "root")
    assert (book.required, book.admins) == (True, True)
    again = TokenBook(book.all)
    assert (again.required, again.admins, again.good) == (True, True, {})


def test_so_many_revoked_ones_are_remembered_and_the_last_administrators_among_them(monkeypatch):
    monkeypatch.setattr(token_book, "REVOKED_KEPT", 3)
    book = TokenBook([key("root", "r", scopes=("admin",))])
    revoke(book, "root", at=1)
    for number in range(6):
        create(book, key(f"k{number}", f"s{number}"))
    changes = [revoke(book, f"k{number}", at=10 + number) for number in range(6)]
    assert [change[1:] for change in changes[:3]] == [(), (), ()]
    assert changes[5][1:] == (Delete(Kind.ACCESS_KEY, "k2"),)
    assert {one.name for one in book.all} == {"root", "k3", "k4", "k5"}
    assert book.admins


def test_there_is_an_end_to_how_many_there_can_be(monkeypatch):
    monkeypatch.setattr(token_book, "MOST_TOKENS", 2)
    book = TokenBook([key("a", "a"), key("b", "b")])
    with pytest.raises(Conflict, match="there are 2 tokens, the most there can be"):
        book.changes(TokenRequested(key=key("c", "c")), 1)


def test_a_refused_event_changes_nothing():
    book = TokenBook([key("ci")])
    before = (book.all, dict(book.good))
    for event in (TokenRequested(key=key("ci", "x")), RevokeRequested(name="nope", at=1)):
        with pytest.raises((Conflict, NotFound)):
            book.changes(event, 1)
    book.changes(RevokeRequested(name="ci", at=1), 1)  # proposed, and not stored
    assert (book.all, dict(book.good)) == before
    assert msgspec.structs.replace(key("ci")) == book.by_hash(sha256("s"))
