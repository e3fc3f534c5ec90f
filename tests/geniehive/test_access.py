"""What scopes hold, and what a token may say."""

import msgspec
import pytest

from geniehive import access
from geniehive.access import MOST_TOKENS, fault, held, is_over
from geniehive.resources import AccessKey, Operation
from geniehive.tokens import new_secret

GOOD = AccessKey(name="laptop", secret_sha256=b"x")


@pytest.mark.parametrize(
    ("scopes", "may", "may_not"),
    [
        (("inference",), {"inference", "caller"}, {"read", "operator", "admin", "everybodys"}),
        (("read",), {"read", "caller", "everybodys"}, {"inference", "operator", "admin"}),
        (("operator",), {"operator", "read", "caller", "everybodys"}, {"inference", "admin"}),
        (("admin",), {"inference", "read", "operator", "admin", "caller", "everybodys"}, set()),
        (("inference", "read"), {"inference", "read", "everybodys"}, {"operator", "admin"}),
        (("of-a-newer-version",), set(), {"inference", "read", "operator", "admin", "caller"}),
        ((), set(), {"caller"}),
    ],
)
def test_what_scopes_hold(scopes, may, may_not):
    assert may <= held(scopes)
    assert not may_not & held(scopes)


def test_what_is_asked_of_a_key_is_never_handed_out_by_itself():
    assert {access.CALLER, access.EVERYBODYS} & set(access.SCOPES) == set()


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"name": ""}, "name", "give the token a name"),
        ({"name": "gh_0123"}, "name", "looks like a token itself"),
        ({"name": "two words"}, "name", "letters, digits"),
        ({"name": "\x1b[31m"}, "name", "letters, digits"),
        ({"name": "x" * 65}, "name", "at most 64"),
        ({"name": "client-1"}, "name", "key of the config"),
        ({"name": "Admin-12"}, "name", "key of the config"),
        ({"name": "anonymous"}, "name", "key of the config"),
        ({"scopes": ()}, "scopes", "give at least one of inference, read, operator, admin"),
        ({"scopes": ("inference", "root")}, "scopes", "'root' is no scope"),
        ({"scopes": ("caller",)}, "scopes", "is no scope"),
        ({"models": ("",)}, "models", "empty"),
        ({"models": ("m" * 513,)}, "models", "longer than 512"),
        ({"models": ("m",) * 1001}, "models", "at most 1000"),
        ({"priority": "urgent"}, "priority", "interactive, batch"),
        ({"max_concurrency": 0}, "max_concurrency", "at least 1"),
        ({"expires_at": 1000}, "expires_at", "over already"),
        ({"expires_at": 2**60}, "expires_at", "too far away"),
        ({"scopes": ("read",), "models": ("m",)}, "scopes", "need the scope inference"),
        ({"scopes": ("admin",), "operations": (Operation.CHAT,)}, "scopes", "no meaning with the scope admin"),
    ],
)
def test_a_token_that_makes_no_sense_is_told_what_to_change(fields, field, words):
    found = fault(msgspec.structs.replace(GOOD, **fields), now=1000)
    assert found[0] == field
    assert words in found[1]


@pytest.mark.parametrize("name", ["laptop", "ci@build.example", "a", "clients-1", "admin", "Zoe_2"])
def test_good_names(name):
    assert fault(msgspec.structs.replace(GOOD, name=name, max_concurrency=3, expires_at=1001), now=1000) == ("", "")


def test_a_key_is_over_from_its_last_second_on_and_once_it_is_revoked():
    ending = msgspec.structs.replace(GOOD, expires_at=1000)
    assert [is_over(ending, now) for now in (999.9, 1000, 1001)] == [False, True, True]
    assert is_over(msgspec.structs.replace(GOOD, revoked_at=5), 0)
    assert not is_over(GOOD, 1e12)


def test_secrets_are_long_and_begin_with_the_prefix():
    made = {new_secret() for _ in range(100)}
    assert len(made) == 100
    assert all(one.startswith("gh_") and len(one) == 51 and one.isascii() for one in made)


def test_all_tokens_together_fit_into_a_message():
    from geniehive import codec
    from geniehive.resources import Snapshot

    wordy = {f"token-{n:059d}": AccessKey(name=f"token-{n:059d}", secret_sha256=bytes(32)) for n in range(1000)}
    size = len(codec.snapshot_to_pb(Snapshot(access_keys=wordy)).SerializeToString())
    assert size * MOST_TOKENS / 1000 < 8 * 2**20
