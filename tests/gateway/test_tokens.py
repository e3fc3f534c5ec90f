"""Tokens at the gateway: what they open, what limits them, and how their streams end."""

from __future__ import annotations

import asyncio
import json
import time

import httpx
import msgspec
import pytest
from multidict import CIMultiDict

from gateway.auth import Authenticator
from geniehive.config import AuthConfig
from geniehive.errors import NotReady, PermissionDenied, Unauthenticated
from geniehive.resources import AccessKey, Operation
from geniehive.tokens import sha256
from tests.gateway.harness import gateway, role, service
from tests.gateway.hive import CLIENT_KEY, hive
from tests.gateway.hive import service as hive_service
from tests.gateway.misbehaving import DONE, HANG, KEEP, LAST_CHUNK, STREAM_HEAD, chunk, completion, delta, upstream

CHAT = "/v1/chat/completions"
EMBED = "/v1/embeddings"
TOKENS = "/v1/cluster/tokens"
AUDIT = "/v1/cluster/audit"
COMMANDS = "/v1/cluster/commands"


def token(name, *scopes, **fields):
    return AccessKey(name=name, secret_sha256=sha256(f"gh_{name}"), scopes=scopes or ("inference",), **fields)


def headers(secret):
    return CIMultiDict({"Authorization": f"Bearer {secret}"})


def told(view, *tokens):
    """The control plane says that these are all the tokens."""
    keys = {key.name: key for key in tokens}
    view.replace(msgspec.structs.replace(view.table.shape, access_keys=keys, keys_required=True))


def body(model="m", **more):
    return {"model": model, "messages": [{"role": "user", "content": "hi"}], **more}


def ask(gw, key="", **options):
    given = {"authorization": f"Bearer {key}"} if key else {}
    return httpx.AsyncClient(base_url=gw.url, headers=given, trust_env=False, timeout=10, **options)


# --- who is let in -----------------------------------------------------------------------------


def learned(*keys, clients=(), admins=(), required=None, now=100.0):
    auth = Authenticator(clients, admins, now=lambda: now)
    auth.learn({key.name: key for key in keys}, required=bool(keys) if required is None else required)
    return auth


def test_a_token_is_known_by_its_hash_and_named_by_its_name():
    auth = learned(token("laptop", models=("m",), operations=(Operation.CHAT,), priority="batch", max_concurrency=2))
    found = auth.check(headers("gh_laptop"), "inference")
    assert (found.name, found.models, found.operations) == ("laptop", {"m"}, {Operation.CHAT})
    assert (found.priority, found.max_concurrency, found.token) == ("batch", 2, True)
    assert "gh_" not in repr(found)
    with pytest.raises(PermissionDenied, match="needs the scope 'admin'"):
        auth.check(headers("gh_laptop"), "admin")


@pytest.mark.parametrize("secret", ["gh_nobody", "", sha256("gh_laptop").hex(), "laptop", "gh_laptop ", "x" * 5000])
def test_anything_else_is_unknown(secret):
    auth = learned(token("laptop"))
    with pytest.raises(Unauthenticated):
        auth.check_key(secret, None, "inference")


def test_a_token_is_over_at_its_second():
    times = iter([99.9, 100.0])
    auth = Authenticator((), (), now=lambda: next(times))
    auth.learn({"t": token("t", expires_at=100)}, required=True)
    assert auth.check(headers("gh_t"), "inference").name == "t"
    with pytest.raises(Unauthenticated, match="has expired"):
        auth.check(headers("gh_t"), "inference")


@pytest.mark.parametrize(
    ("auth", "opens"),
    [
        (learned(), True),
        (learned(token("t")), False),
        (learned(required=True), False),  # the last one was revoked
        (learned(clients=("c",)), False),
        (learned(admins=("a",)), True),
    ],
)
def test_any_client_key_or_token_closes_the_gateway(auth, opens):
    for sent in ({}, headers("anything")):
        if opens:
            assert auth.check(sent, "inference").name == "anonymous"
        else:
            with pytest.raises(Unauthenticated):
                auth.check(sent, "inference")


def test_an_open_gateway_with_an_admin_key_keeps_what_needs_more_for_it():
    auth = learned(admins=("a",))
    assert auth.check(headers("a"), "admin").name == "admin-1"
    for sent in ({}, headers("anything")):
        assert auth.check(sent, "read").name == "anonymous"
        with pytest.raises(Unauthenticated, match="admin key"):
            auth.check(sent, "operator")


def test_before_the_first_snapshot_nobody_knows_who_is_a_stranger():
    auth = Authenticator((), ())
    with pytest.raises(NotReady):
        auth.check({}, "inference")
    closed = Authenticator(("c",), ())
    assert closed.check(headers("c"), "inference").name == "client-1"
    with pytest.raises(Unauthenticated):
        closed.check(headers("wrong"), "inference")
    with pytest.raises(NotReady):  # it may be a good one
        closed.check(headers("gh_laptop"), "inference")


def test_a_token_that_did_not_change_is_the_same_principal():
    auth = learned(token("a"), token("b"))
    before = auth.check(headers("gh_a"), "inference")
    auth.learn({"a": token("a"), "c": token("c")}, required=True)
    assert auth.check(headers("gh_a"), "inference") is before
    assert auth.ended(before) is None
    auth.learn({"a": token("a", models=("m",))}, required=True)
    assert isinstance(auth.ended(before), Unauthenticated)


def fields(secret):
    return {b"authorization": b"Bearer " + secret.encode()}


def test_who_was_let_in_is_known_again_until_the_keys_change():
    auth = learned(token("a"), admins=("boss",))
    before = auth.check_fields(fields("gh_a"), "inference")
    assert auth.check_fields(fields("gh_a"), "inference") is before
    with pytest.raises(PermissionDenied):
        auth.check_fields(fields("gh_a"), "admin")
    auth.learn({"a": token("a", "read")}, required=True)
    with pytest.raises(PermissionDenied):
        auth.check_fields(fields("gh_a"), "inference")
    assert auth.check_fields(fields("gh_a"), "read").name == "a"
    auth.learn({}, required=True)
    for _ in range(2):
        with pytest.raises(Unauthenticated):
            auth.check_fields(fields("gh_a"), "read")
    assert auth.check_fields(fields("boss"), "admin").name == "admin-1"


def test_a_token_that_was_let_in_is_over_at_its_second():
    times = iter([99.8, 99.9, 100.0, 100.0])
    auth = Authenticator((), (), now=lambda: next(times))
    auth.learn({"t": token("t", expires_at=100)}, required=True)
    assert auth.check_fields(fields("gh_t"), "inference") is auth.check_fields(fields("gh_t"), "inference")
    with pytest.raises(Unauthenticated, match="has expired"):
        auth.check_fields(fields("gh_t"), "inference")


def test_the_two_headers_are_told_apart_when_they_come_again():
    auth = learned(clients=("c", "Bearer c"))
    for _ in range(2):
        assert auth.check_fields({b"authorization": b"Bearer c"}, "inference").name == "client-1"
        assert auth.check_fields({b"x-api-key": b"Bearer c"}, "inference").name == "client-2"
        with pytest.raises(Unauthenticated):
            auth.check_fields({b"authorization": b"c"}, "inference")
        with pytest.raises(Unauthenticated, match="two API keys"):
            auth.check_fields({b"authorization": b"Bearer c", b"x-api-key": b"d"}, "inference")


def test_strangers_and_public_routes_leave_nothing_to_be_known_again():
    auth = learned(admins=("a",))
    for _ in range(2):
        assert auth.check_fields(fields("anything"), "inference").name == "anonymous"
        assert auth.check_fields(fields("anything"), "").name == "anonymous"
        with pytest.raises(Unauthenticated):
            auth.check_fields(fields("anything"), "admin")
    assert not auth._seen


def test_only_so_many_headers_are_remembered_and_no_long_ones():
    auth = learned(token("t"))
    for padding in range(3000):
        auth.check_fields({b"authorization": b"Bearer" + b" " * (1 + padding) + b"gh_t"}, "inference")
    assert 0 < len(auth._seen) <= 1024
    long = {b"authorization": b"Bearer" + b" " * 5000 + b"gh_t"}
    assert auth.check_fields(long, "inference").name == "t"
    assert tuple(long.values()) not in {sent[1:] for sent in auth._seen}


# --- what limits it ----------------------------------------------------------------------------


@pytest.fixture
async def limited():
    """A gateway with models m (alias nick) and n, and the roles r and s; every token has limits."""
    ok = (completion(), KEEP)
    async with upstream(ok) as one, upstream(ok) as two:
        services = service(1, one.url), service(2, two.url, asset="n")
        async with gateway(*services, roles=(role("r"), role("s"))) as gw:
            told(
                gw.view,
                token("by-id", models=("m",)),
                token("by-alias", models=("nick",)),
                token("by-role", models=("r",)),
                token("embeds", operations=(Operation.EMBEDDINGS,)),
                token("free"),
            )
            yield gw


@pytest.mark.parametrize(
    ("key", "model", "status"),
    [
        ("by-id", "m", 200),
        ("by-id", "h1/s", 200),
        ("by-id", "n", 403),
        ("by-id", "h2/s", 403),
        ("by-id", "r", 403),
        ("by-id", "no-such", 403),  # whether it exists is not told
        ("by-alias", "nick", 200),
        ("by-alias", "r", 403),
        ("by-role", "r", 200),
        ("by-role", "s", 403),
        ("by-role", "m", 403),
        ("free", "n", 200),
        ("free", "no-such", 404),
        ("embeds", "m", 403),
    ],
)
async def test_limits_to_models_and_operations(limited, key, model, status):
    async with ask(limited, f"gh_{key}") as http:
        answer = await http.post(CHAT, json=body(model))
    assert answer.status_code == status, answer.text
    if status == 403:
        error = answer.json()["error"]
        assert error["code"] == "permission_denied"
        assert "this key may not ask for" in error["message"]
        assert answer.headers["x-should-retry"] == "false"


async def test_an_alias_that_several_models_have_leads_to_the_allowed_one_alone(limited):
    async with ask(limited, "gh_by-id") as http:
        for _ in range(4):  # both models have the alias, and the strategy takes turns
            answer = await http.post(CHAT, json=body("nick"))
            assert answer.headers["x-geniehive-model"] == "m"


@pytest.mark.parametrize(
    ("key", "names"),
    [
        ("by-id", ["m"]),
        ("by-alias", ["m", "n"]),
        ("by-role", ["r"]),
        ("embeds", ["m", "n"]),
        ("free", ["m", "n", "r", "s"]),
    ],
)
async def test_models_are_listed_that_the_key_may_ask_for(limited, key, names):
    async with ask(limited, f"gh_{key}") as http:
        listed = (await http.get("/v1/models")).json()["data"]
        assert [each["id"] for each in listed] == names
        for name in ("m", "n", "r", "s"):
            assert (await http.get(f"/v1/models/{name}")).status_code == (200 if name in names else 403)
        of_service = (await http.get("/v1/models/h1/s")).status_code
        assert of_service == (200 if "m" in names else 403)


async def test_so_many_at_once_and_no_more():
    async with upstream((STREAM_HEAD, chunk(delta("x")), HANG)) as up, gateway(up.url) as gw:
        told(gw.view, token("two", max_concurrency=2), token("free"))
        async with ask(gw, "gh_two") as http, http.stream("POST", CHAT, json=body(stream=True)) as one:
            assert one.status_code == 200
            async with http.stream("POST", CHAT, json=body(stream=True)) as two:
                assert two.status_code == 200
                refused = await http.post(CHAT, json=body())
                assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
                assert refused.headers["retry-after"] == "1"
                assert (await http.get("/v1/models")).status_code == 200
            async with asyncio.timeout(20):
                while len(gw.front.exchanges) > 1:
                    await asyncio.sleep(0.01)
            async with http.stream("POST", CHAT, json=body(stream=True)) as again:
                assert again.status_code == 200


# --- how its streams end -----------------------------------------------------------------------


async def test_a_revoked_token_ends_its_streams_with_an_error_event_and_nobody_elses():
    async with upstream((STREAM_HEAD, chunk(delta("x")), HANG)) as up, gateway(up.url) as gw:
        told(gw.view, token("gone"), token("stays"))
        async with ask(gw, "gh_gone") as http, ask(gw, "gh_stays") as other:
            async with (
                http.stream("POST", CHAT, json=body(stream=True)) as cut,
                other.stream("POST", CHAT, json=body(stream=True)) as kept,
            ):
                events, rest = cut.aiter_lines(), kept.aiter_lines()
                assert "x" in await anext(events)
                assert "x" in await anext(rest)
                told(gw.view, token("stays"))
                async with asyncio.timeout(20):
                    last = [line async for line in events if line][-1]
                error = json.loads(last.removeprefix("data: "))["error"]
                assert (error["type"], error["message"]) == (
                    "authentication_error",
                    "this token was revoked while the request ran",
                )
                assert len(gw.front.exchanges) == 1
            assert (await http.post(CHAT, json=body())).status_code == 401
            assert gw.in_flight.total <= 1
        assert up.gone.is_set()


async def test_a_token_that_expires_ends_its_streams():
    async with upstream((STREAM_HEAD, chunk(delta("x")), HANG)) as up, gateway(up.url) as gw:
        told(gw.view, token("brief", expires_at=int(time.time()) + 3))
        async with ask(gw, "gh_brief") as http, http.stream("POST", CHAT, json=body(stream=True)) as cut:
            async with asyncio.timeout(20):
                last = [line async for line in cut.aiter_lines() if line][-1]
            assert "this token has expired" in last


async def test_a_revoked_token_ends_a_request_that_still_waits():
    async with upstream((HANG,)) as up, gateway(up.url) as gw:
        told(gw.view, token("gone"))
        async with ask(gw, "gh_gone") as http:
            asked = asyncio.create_task(http.post(CHAT, json=body()))
            await up.arrived.wait()
            told(gw.view)
            async with asyncio.timeout(20):
                answer = await asked
            assert answer.status_code == 401
            assert "revoked" in answer.json()["error"]["message"]


# --- attribution -------------------------------------------------------------------------------


async def test_receipts_and_metrics_name_the_key_and_engines_see_nothing_of_it():
    good = (STREAM_HEAD, chunk(delta("x") + delta(finish="stop") + DONE), LAST_CHUNK, KEEP)
    async with upstream(good) as up, gateway(up.url, admins=("admin-key",)) as gw:
        told(gw.view, token("laptop"), token("reads", "read"))
        async with ask(gw, "gh_laptop") as http:
            given = {"cookie": "session=secret", "x-api-key": "gh_laptop", "authorization": "Bearer gh_laptop"}
            answer = await http.post(CHAT, json=body(stream=True), headers=given)
            assert answer.status_code == 200
            own = (await http.get("/v1/cluster/requests")).json()["data"]
            assert (await http.get("/metrics")).status_code == 403
        seen = str(up.seen[0].headers).lower() + up.seen[0].line
        assert not [word for word in ("gh_", "laptop", "authorization", "api-key", "cookie") if word in seen]
        async with ask(gw, "gh_reads") as http:
            every = (await http.get("/v1/cluster/requests")).json()["data"]
            metrics = (await http.get("/metrics")).text
        assert [each["principal"] for each in own] == [each["principal"] for each in every] == ["laptop"]
        assert 'geniehive_gateway_key_requests_total{key="laptop",status="200"} 2.0' in metrics
        assert "gh_" not in metrics + json.dumps(every)


async def test_names_in_metrics_are_bounded():
    from gateway.key_counts import KeyCounts

    counts = KeyCounts()
    for number in range(5000):
        counts.count(f"k{number}", 200)
    (family,) = counts.collect()
    assert len(family.samples) <= 2001
    assert sum(sample.value for sample in family.samples) == 5000
    assert {"key": "other", "status": "200"} in [sample.labels for sample in family.samples]


# --- over HTTP, with a control plane -----------------------------------------------------------


async def created(http, name, *scopes, **fields):
    answer = await http.post(TOKENS, json={"name": name, "scopes": list(scopes or ("inference",)), **fields})
    assert answer.status_code == 201, answer.text
    assert answer.headers["cache-control"] == "no-store"
    return answer.json()["secret"]


async def let_in(made, secret, path="/v1/models"):
    """Wait until the gateway has heard of a token, or of its end; the last status."""
    answer = await made.http.get(path, headers={"authorization": f"Bearer {secret}" if secret else ""})
    return answer.status_code


async def until_status(made, secret, status, path="/v1/models"):
    async with asyncio.timeout(20):
        while await let_in(made, secret, path) != status:
            await asyncio.sleep(0.01)


async def test_a_token_is_made_used_listed_and_revoked_over_http(tmp_path):
    async with hive(tmp_path, hive_service("one", "http://127.0.0.1:1")) as made:
        secret = await created(made.http, "laptop", models=["m"], roles=["r"], expires_in_s=3600, priority="batch")
        await until_status(made, secret, 200)
        (listed,) = (await made.http.get(TOKENS)).json()["data"]
        assert (listed["name"], listed["models"], listed["created_by"]) == ("laptop", ["m", "r"], "admin-1")
        assert listed["expires_at"] == pytest.approx(time.time() + 3600, abs=60)
        assert "secret_sha256" not in listed
        assert await let_in(made, secret, TOKENS) == 403
        twice = await made.http.post(TOKENS, json={"name": "laptop"})
        assert (twice.status_code, twice.json()["error"]["code"]) == (409, "conflict")
        revoked = await made.http.delete(f"{TOKENS}/laptop")
        assert revoked.json() == {"object": "token", "name": "laptop", "deleted": True}
        await until_status(made, secret, 401)
        assert (await made.http.get(TOKENS)).json()["data"] == []
        assert len((await made.http.get(f"{TOKENS}?revoked=true")).json()["data"]) == 1
        missing = await made.http.delete(f"{TOKENS}/laptop")
        assert (missing.status_code, missing.json()["error"]["param"]) == (404, "name")
        audit = (await made.http.get(AUDIT)).json()["data"]
        assert [(each["action"], each["outcome"].partition(":")[0]) for each in audit] == [
            ("token.revoke", "not_found"), ("token.revoke", "ok"), ("token.create", "conflict"), ("token.create", "ok"),
        ]  # fmt: skip
        assert len((await made.http.get(f"{AUDIT}?limit=1&action=token.create")).json()["data"]) == 1


@pytest.mark.parametrize(
    ("posted", "says"),
    [
        ({}, "name"),
        ({"name": "x", "scope": "admin"}, "unknown field `scope`"),
        ({"name": "x", "scopes": ["root"]}, "no scope"),
        ({"name": "x", "operations": ["dance"]}, "$.operations"),
        ({"name": "x", "expires_in_s": -5}, "expires_in_s"),
        ({"name": "x", "expires_at": 2, "expires_in_s": 2}, "one of them"),
        ({"name": "x", "max_concurrency": 0}, "max_concurrency"),
        ({"name": "x", "max_concurrency": 2**40}, "max_concurrency"),
        ([], "Expected `object`"),
    ],
)
async def test_a_body_that_makes_no_token_is_a_400(shared, posted, says):
    answer = await shared.http.post(TOKENS, json=posted)
    assert answer.status_code == 400, answer.text
    assert says in answer.json()["error"]["message"]


@pytest.fixture
async def shared(tmp_path):
    async with hive(tmp_path, hive_service("one", "http://127.0.0.1:1")) as made:
        yield made


async def test_orders_over_http_by_who_may(shared):
    made = shared
    ops, reads = await created(made.http, "ops", "operator"), await created(made.http, "reads", "read")
    await until_status(made, ops, 200)
    await until_status(made, reads, 200)
    as_ops, as_reads = ({"authorization": f"Bearer {key}"} for key in (ops, reads))

    async def order(who, **posted):
        return await made.http.post(COMMANDS, json=posted, headers=who)

    load = {"kind": "load", "service_id": "atlas/one", "model": "m", "context_size": 4096, "command_id": "c1"}
    assert (await order(as_reads, **load)).status_code == 403
    assert (await order({"authorization": f"Bearer {CLIENT_KEY}"}, **load)).status_code == 403
    taken = await order(as_ops, **load)
    assert (taken.status_code, taken.json()["command_id"], taken.json()["kind"]) == (202, "c1", "load")
    assert (await order(as_ops, kind="unload", service_id="atlas/one", model="m")).status_code == 202
    assert (await order(as_ops, kind="probe", service_id="atlas/one")).status_code == 202
    drained = await order(as_ops, kind="drain", host_id="atlas")
    assert (drained.status_code, drained.json()["availability"]) == (200, "draining")
    assert (await order(as_ops, kind="resume", host_id="atlas")).json()["availability"] == "available"
    for posted, status, says in (
        ({"kind": "load", "service_id": "nope", "model": "m"}, 404, "no service 'nope'"),
        ({"kind": "load", "service_id": "atlas/one"}, 400, "model is missing"),
        ({"kind": "drain"}, 400, "host_id is missing"),
        ({"kind": "explode"}, 400, "$.kind"),
    ):
        answer = await order(as_ops, **posted)
        assert (answer.status_code, says in answer.text) == (status, True), answer.text
    listed = (await made.http.get(COMMANDS, headers=as_reads)).json()["data"]
    assert len(listed) == 5
    assert (await made.http.get(f"{COMMANDS}/c1", headers=as_reads)).json()["kind"] == "load"
    assert (await made.http.get(f"{COMMANDS}/nope", headers=as_reads)).status_code == 404
    assert (await made.http.delete("/v1/cluster/hosts/atlas", headers=as_ops)).status_code == 403
    assert (await made.http.delete("/v1/cluster/hosts/atlas")).status_code == 409  # it is up
    actors = {(each["actor"], each["action"]) for each in (await made.http.get(AUDIT)).json()["data"]}
    assert actors >= {("ops", "model.load"), ("ops", "node.drain"), ("admin-1", "node.forget")}


async def test_a_stream_of_events_ends_with_its_token(shared):
    secret = await created(shared.http, "reads", "read")
    await until_status(shared, secret, 200)
    given = {"authorization": f"Bearer {secret}"}
    async with shared.http.stream("GET", "/v1/cluster/events", headers=given) as events:
        assert events.status_code == 200
        await shared.http.delete(f"{TOKENS}/reads")
        async with asyncio.timeout(20):
            lines = [line async for line in events.aiter_lines()]
    assert any("authentication_error" in line for line in lines)


async def test_the_first_token_closes_an_open_hive_and_the_last_ones_end_does_not_open_it(tmp_path):
    open_to_all = AuthConfig()
    async with hive(tmp_path, hive_service("one", "http://127.0.0.1:1"), auth=open_to_all, key="") as made:
        assert (await made.http.get("/v1/models")).status_code == 200
        root = await created(made.http, "root", "admin")
        await until_status(made, "", 401)
        await until_status(made, root, 200)
        given = {"authorization": f"Bearer {root}"}
        assert (await made.http.get(TOKENS, headers=given)).status_code == 200
        # The gateway has no key of its own that the control plane would take now: the caller's has to do.
        assert (await made.http.get("/v1/cluster/benchmarks", headers=given)).status_code == 200
        async with made.http.stream("GET", "/v1/cluster/events", headers=given) as events:
            assert events.status_code == 200
        assert (await made.http.delete(f"{TOKENS}/root", headers=given)).status_code == 200
        await until_status(made, root, 401)
        assert (await made.http.get("/v1/models")).status_code == 401
