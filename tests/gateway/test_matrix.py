"""Who may ask what: scope x route x method x credential, made from the gateway's own table of routes."""

from __future__ import annotations

import asyncio

import httpx
import msgspec
import pytest

from gateway.auth import ADMIN, CALLER, INFERENCE, OPERATOR, PUBLIC, READ
from gateway.http import Route, RouteTable
from geniehive.resources import AccessKey
from geniehive.tokens import sha256
from tests.gateway.harness import gateway, raw

EVERYBODY = {"/", "/healthz", "/readyz"}  # a route for everybody has to be named here as well
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
TOKENS = {
    "inference": ("inference",),
    "read": ("read",),
    "operator": ("operator",),
    "admin": ("admin",),
    "inference and read": ("inference", "read"),
    "of a newer version": ("everything",),
}
# What each credential may: the scopes of routes that are not refused.
MAY = {
    "nothing": set(),
    "an unknown key": set(),
    "a node key": set(),
    "an expired token": set(),
    "a revoked token": set(),
    "the hash of a token": set(),
    "of a newer version": set(),
    "client key": {CALLER, INFERENCE, READ},
    "admin key": {CALLER, INFERENCE, READ, OPERATOR, ADMIN},
    "inference": {CALLER, INFERENCE},
    "read": {CALLER, READ},
    "inference and read": {CALLER, INFERENCE, READ},
    "operator": {CALLER, READ, OPERATOR},
    "admin": {CALLER, INFERENCE, READ, OPERATOR, ADMIN},
}
KNOWN = set(TOKENS) | {"client key", "admin key"}
KEYS = {
    "an unknown key": "gh_nobody",
    "a node key": "node-key",
    "an expired token": "gh_late",
    "a revoked token": "gh_gone",
    "the hash of a token": sha256("gh_admin").hex(),
    "client key": "client-key",
    "admin key": "admin-key",
} | {name: f"gh_{name.replace(' ', '-')}" for name in TOKENS}


def cluster():
    made = [AccessKey(name=name, secret_sha256=sha256(KEYS[name]), scopes=scopes) for name, scopes in TOKENS.items()]
    late = AccessKey(name="late", secret_sha256=sha256("gh_late"), scopes=("admin",), expires_at=1)
    return {key.name: key for key in (*made, late)}


@pytest.fixture
async def gw():
    async with gateway("http://127.0.0.1:1", keys=("client-key",), admins=("admin-key",)) as made:
        made.view.replace(_with_keys(made.view.table.shape))
        yield made


def _with_keys(shape):
    return msgspec.structs.replace(shape, access_keys=cluster(), keys_required=True)


def headers(credential, how):
    key = KEYS.get(credential)
    if key is None:
        return {}
    return {
        "bearer": {"authorization": f"Bearer {key}"},
        "x-api-key": {"x-api-key": key},
        "both": {"authorization": f"bearer {key}", "X-API-Key": key},
    }[how]


def path_of(route):
    return route.path + "some-name" if route.path.endswith("/") and route.path != "/" else route.path


def wanted(table, route, method, credential):
    """The status that has to come, 200 standing for any that is neither 401, 403 nor 405."""
    by_method = {each.method: each for each in table.routes if each.path == route.path}
    if "GET" in by_method:
        by_method.setdefault("HEAD", by_method["GET"])
    if method not in by_method:
        return 405
    scope = by_method[method].scope
    if scope == PUBLIC or scope in MAY[credential]:
        return 200
    return 403 if credential in KNOWN else 401


def cells(table, how):
    """What is asked: everything for bearer keys; the other headers at one route of each scope."""
    paths = {each.path: each for each in table.routes}
    if how != "bearer":
        paths = {each.scope: each for each in table.routes}
    for route in paths.values():
        for method in METHODS:
            there = wanted(table, route, method, "admin") != 405
            yield from ((route, method, one) for one in (MAY if there else ("nothing", "admin")))


@pytest.mark.parametrize("how", ["bearer", "x-api-key", "both"])
async def test_every_credential_at_every_route_with_every_method(gw, how):
    table = gw.front._table
    wrong = []
    async with httpx.AsyncClient(base_url=gw.url, trust_env=False, timeout=20) as http:
        for route, method, credential in cells(table, how):
            answer = await http.request(method, path_of(route), headers=headers(credential, how))
            got = answer.status_code if answer.status_code in {401, 403, 405} else 200
            if got != wanted(table, route, method, credential):
                wrong.append((method, route.path, credential, answer.status_code))
    assert wrong == []


def test_who_may_what_follows_rules_that_a_new_route_is_held_to():
    async def build():
        async with gateway("http://127.0.0.1:1") as made:
            return made.front._table.routes

    for route in asyncio.run(build()):
        where = f"{route.method} {route.path}: {route.scope!r}"
        assert (route.scope == PUBLIC) == (route.path in EVERYBODY), where
        assert (route.scope == INFERENCE) == (route.operation is not None), where
        if route.path.startswith(("/v1/cluster/tokens", "/v1/cluster/audit")):
            assert route.scope == ADMIN, where
        if route.path.startswith("/v1/cluster/") and route.method != "GET" and "routes/match" not in route.path:
            assert route.scope in {OPERATOR, ADMIN}, where


@pytest.mark.parametrize("scope", ["unset", "everybodys", "root"])
def test_a_route_that_does_not_say_who_may_ask_is_no_route(scope):
    async def handle(exchange):
        raise NotImplementedError

    with pytest.raises(ValueError, match="GET /new has no scope"):
        RouteTable([Route("/new", "GET", handle, scope=scope)] if scope != "unset" else [Route("/new", "GET", handle)])


async def test_nobody_is_refused_only_after_a_body_was_read(gw):
    posts = [route for route in gw.front._table.routes if route.method in {"POST", "DELETE"}]
    assert len(posts) > 8
    for route in posts:
        for key in ("", "gh_nobody", "' OR 1=1 --", "x" * 30_000, "cl\u00e9"):
            head = (
                f"{route.method} {path_of(route)} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
                f"content-length: 100000000\r\nauthorization: Bearer {key}\r\n\r\n"
            )
            answer = await raw(gw.port, head.encode("latin-1"), until_close=False)
            assert answer.startswith(b"HTTP/1.1 401 "), (route.path, key[:20], answer[:80])


@pytest.mark.parametrize("name", ["key", "api_key", "api-key", "access_token", "token", "x-api-key", "authorization"])
async def test_a_key_in_the_query_opens_nothing(gw, name):
    async with httpx.AsyncClient(base_url=gw.url, trust_env=False) as http:
        for value in ("admin-key", "gh_admin", "Bearer gh_admin"):
            answer = await http.get("/v1/cluster/hosts", params={name: value})
            assert answer.status_code == 401
            assert value not in answer.text


async def test_two_keys_that_differ_are_none(gw):
    async with httpx.AsyncClient(base_url=gw.url, trust_env=False) as http:
        for one, other in (("gh_admin", "gh_read"), ("gh_admin", "nonsense"), ("nonsense", "gh_admin")):
            answer = await http.get("/v1/models", headers={"authorization": f"Bearer {one}", "x-api-key": other})
            assert answer.status_code == 401
            assert "two API keys" in answer.json()["error"]["message"]
        basic = {"authorization": "Basic Zm9v", "x-api-key": "gh_admin"}  # a proxy's own, which says nothing of ours
        assert (await http.get("/v1/models", headers=basic)).status_code == 200
