"""Who may do what."""

import pytest
from multidict import CIMultiDict

from gateway.auth import ADMIN, INFERENCE, OPERATOR, PUBLIC, READ, Authenticator
from geniehive.errors import PermissionDenied, Unauthenticated

AUTH = Authenticator(("client-key",), ("admin-key",))
AUTH.learn({}, required=False)


@pytest.mark.parametrize("header", [("X-Api-Key", "{}"), ("Authorization", "Bearer {}"), ("x-api-key", "{}")])
@pytest.mark.parametrize(
    ("key", "allowed"), [("client-key", {INFERENCE, READ}), ("admin-key", {INFERENCE, READ, OPERATOR, ADMIN})]
)
@pytest.mark.parametrize("scope", [INFERENCE, READ, OPERATOR, ADMIN])
def test_both_headers_carry_the_same_scopes(header, key, allowed, scope):
    headers = CIMultiDict({header[0]: header[1].format(key)})
    if scope in allowed:
        assert scope in AUTH.check(headers, scope).scopes
    else:
        with pytest.raises(PermissionDenied):
            AUTH.check(headers, scope)


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Basic client-key"}, {"X-Api-Key": "wrong"}, {"Authorization": "Bearer \udcff"},
     {"X-Api-Key": "x" * 1_000_000}, {"X-Api-Key": "' OR 1=1"}],
)  # fmt: skip
def test_no_key_or_a_wrong_one_is_a_401(headers):
    with pytest.raises(Unauthenticated):
        AUTH.check(CIMultiDict(headers), INFERENCE)


def test_a_public_route_needs_no_key():
    assert AUTH.check(CIMultiDict(), PUBLIC).name == "anonymous"


def test_without_client_keys_everybody_may():
    auth = Authenticator((), ())
    auth.learn({}, required=False)
    assert auth.check(CIMultiDict(), ADMIN).name == "anonymous"


def test_a_principal_carries_a_name_and_not_the_key():
    assert "client-key" not in repr(AUTH.check(CIMultiDict({"X-Api-Key": "client-key"}), READ))
