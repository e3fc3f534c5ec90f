"""Every engine is recognised by what it answers, never by its port, and none is made to work by being asked."""

import asyncio

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from geniehive.errors import ConfigError
from nodeagent.engines import ENGINES, by_protocol, engine_session, fingerprint, identify
from tests.nodeagent.engines.replay import Answer, fixture, replaying
from tests.nodeagent.engines.worlds import HEALTH_GENERATES, WORLDS, unknown_of
from tests.ports import free_port


@pytest.fixture
async def session():
    async with engine_session() as session:
        yield session


@pytest.mark.parametrize("name", WORLDS)
async def test_each_engine_is_recognised_without_a_side_effect(name, session):
    routes = {key: route for key, route in WORLDS[name].items() if key.startswith("GET")}
    async with replaying(routes, unknown=unknown_of(name), forbidden=HEALTH_GENERATES) as server:
        engine = await fingerprint(server.url, session)
    assert engine is not None
    assert engine.name == name
    assert all(asked.startswith("GET ") for asked in server.asked)


def test_the_order_is_the_one_that_tells_imitators_apart():
    assert [engine.name for engine in ENGINES] == [
        "sglang",
        "lmstudio",
        "lemonade",
        "llamaswap",
        "llamacpp",
        "vllm",
        "ollama",
        "speaches",
        "whispercpp",
        "kokoro",
        "sdcpp",
        "openai",
    ]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("lmstudio", {"GET /api/v1/models": fixture("lmstudio/api_v1_models_empty.json")}),
        ("lemonade", {"GET /v1/health": fixture("lemonade/v1_health_empty.json")}),
        ("llamaswap", {"GET /running": fixture("llamaswap/running_empty.json")}),
        ("ollama", {"GET /api/ps": fixture("ollama/ps_loaded.json")}),
        (
            "speaches",
            {
                "GET /v1/models": fixture("speaches/v1_models_empty.json"),
                "GET /api/ps": fixture("speaches/api_ps_empty.json"),
            },
        ),
        ("sglang", {"GET /v1/loads": fixture("sglang/v1_loads_not_ready.json")}),
        ("vllm", {"GET /metrics": fixture("vllm/metrics_log_stats_off.txt")}),
    ],
)
async def test_an_engine_with_nothing_in_it_is_recognised_as_well(name, changes, session):
    async with replaying({**WORLDS[name], **changes}, unknown=unknown_of(name)) as server:
        engine = await fingerprint(server.url, session)
    assert engine is not None
    assert engine.name == name


async def test_a_llama_cpp_that_is_loading_is_recognised(session):
    async with replaying({}, unknown=fixture("llamacpp/health_loading.json", 503)) as server:
        engine = await fingerprint(server.url, session)
    assert engine is not None
    assert engine.name == "llamacpp"


@pytest.mark.parametrize(
    "body",
    [
        '{"object": "list", "data": [{"id": "qwen3", "geniehive": {"kind": "asset"}}]}',
        '{"object": "list", "data": ["qwen3"]}',
        '{"data": []}',
        '{"detail": "Not Found"}',
        "<html>a page</html>",
        "[" * 100_000,
        '{"data": [{"id": NaN}]}',
    ],
)
async def test_what_is_no_engine_is_not_taken_for_one(body, session):
    async with replaying({"GET /v1/models": Answer(body)}, unknown=Answer(body)) as server:
        assert await fingerprint(server.url, session) is None


@pytest.mark.parametrize(
    ("routes", "expected"),
    [
        ({"GET /api/version": Answer('{"version": "1"}'), "GET /api/ps": fixture("speaches/api_ps.json")}, None),
        ({"GET /api/ps": fixture("ollama/ps_loaded.json"), "GET /api/tags": fixture("ollama/tags.json")}, None),
        (
            {
                "GET /v1/models": fixture("speaches/v1_models_empty.json"),
                "GET /api/ps": fixture("ollama/ps_loaded.json"),
            },
            "openai",
        ),
    ],
)
async def test_one_route_of_an_engine_is_not_the_engine(routes, expected, session):
    async with replaying(routes) as server:
        engine = await fingerprint(server.url, session)
    assert (engine.name if engine else None) == expected


async def test_a_server_that_hangs_costs_the_budget_and_no_more(session):
    async def hang(_request):
        await asyncio.sleep(60)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", hang)
    server = TestServer(app, host="127.0.0.1")
    await server.start_server()
    try:
        async with asyncio.timeout(30):
            assert await fingerprint(f"http://127.0.0.1:{server.port}", session, 0.2) is None
    finally:
        await server.runner.cleanup()


async def test_nobody_listening_is_no_engine(session):
    assert await fingerprint(f"http://127.0.0.1:{free_port()}", session) is None


async def test_a_redirect_is_not_followed(session):
    async with replaying(WORLDS["ollama"]) as ollama:

        async def elsewhere(request):
            raise web.HTTPFound(ollama.url + request.path)

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", elsewhere)
        server = TestServer(app, host="127.0.0.1")
        await server.start_server()
        try:
            assert await fingerprint(f"http://127.0.0.1:{server.port}", session) is None
        finally:
            await server.close()
        assert ollama.asked == []


@pytest.mark.parametrize("word", [*WORLDS, "manifest"])
def test_each_word_of_config_has_its_engine(word):
    assert by_protocol(word).name == word


def test_an_unknown_word_is_refused_and_the_known_ones_are_named():
    with pytest.raises(ConfigError, match="ollama, speaches"):
        by_protocol("olama")


async def test_auto_finds_the_engine(session):
    async with replaying(WORLDS["ollama"]) as server:
        engine = await identify("auto", server.url + "/v1/", session)
    assert engine is not None
    assert engine.name == "ollama"


@pytest.mark.parametrize(
    ("routes", "expected"),
    [
        (WORLDS["whispercpp"], "whispercpp"),
        (WORLDS["speaches"], "speaches"),
        ({"GET /docs": Answer("<html></html>")}, "manifest"),
    ],
)
async def test_whisper_is_whichever_whisper_server_answers(routes, expected, session):
    async with replaying(routes, forbidden=HEALTH_GENERATES) as server:
        engine = await identify("whisper", server.url, session)
    assert engine is not None
    assert engine.name == expected


async def test_whisper_with_nobody_there_is_not_decided_yet(session):
    assert await identify("whisper", f"http://127.0.0.1:{free_port()}", session) is None
