"""The node's own page, over real HTTP."""

import aiohttp
import pytest

from geniehive.errors import ConfigError
from geniehive.resources import Gpu, GpuObserved, Health, HealthStatus, Host, HostFacts, HostObserved, Observed, Service
from nodeagent.agent import AgentView, SessionState
from nodeagent.node_metrics import NodeMetrics
from nodeagent.status import StatusPage, serving

VIEW = AgentView(
    state=SessionState.WELCOMED,
    session_id="s",
    host=Host(
        host_id="atlas",
        facts=HostFacts(gpus=(Gpu(index=0, name='H"100', vram_total_bytes=80),)),
        observed=HostObserved(cpu_utilization=0.5, gpus=(GpuObserved(index=0, vram_used_bytes=7),)),
    ),
    services=(
        Service(
            service_id="atlas/chat",
            host_id="atlas",
            health=Health(status=HealthStatus.HEALTHY),
            observed=Observed(running=0, kv_cache_usage=0.25),
        ),
        Service(service_id="atlas/dead", host_id="atlas"),
    ),
    heartbeat_interval_s=5,
    heartbeats_sent=3,
    welcomes=1,
    acked_at=1.0,
)


@pytest.fixture
async def page():
    metrics = NodeMetrics(lambda: VIEW, lambda: 2)
    async with serving(StatusPage(lambda: VIEW, metrics), "127.0.0.1", 0) as url, aiohttp.ClientSession(url) as client:
        yield client


async def test_healthz_says_that_it_runs_and_where_it_stands(page):
    async with page.get("/healthz") as answer:
        assert answer.status == 200
        assert "geniehive" in answer.headers["Server"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert (await answer.json()) == {"status": "ok", "component": "geniehive-node", "control_plane": "welcomed"}


async def test_the_inventory_has_host_services_and_what_was_observed(page):
    async with page.get("/v1/node/inventory") as answer:
        data = await answer.json()
    assert data["host"]["host_id"] == "atlas"
    assert [one["service_id"] for one in data["services"]] == ["atlas/chat", "atlas/dead"]
    assert data["observed"]["host"]["cpu_utilization"] == 0.5
    assert data["observed"]["services"] == {"atlas/chat": {"running": 0, "kv_cache_usage": 0.25}, "atlas/dead": {}}


async def test_metrics_tell_what_is_known_and_leave_out_what_is_not(page):
    async with page.get("/metrics") as answer:
        lines = (await answer.text()).splitlines()
    assert 'geniehive_node_service_up{protocol="openai",service_id="atlas/chat"} 1.0' in lines
    assert 'geniehive_node_service_running{service_id="atlas/chat"} 0.0' in lines
    assert 'geniehive_node_gpu_vram_used_bytes{gpu="0",name="H\\"100"} 7.0' in lines
    assert "geniehive_node_heartbeats_total 3.0" in lines
    assert "geniehive_node_connected 1.0" in lines
    assert not any(line.startswith("geniehive_node_service_waiting{") for line in lines)
    assert not any(line.startswith("geniehive_node_ram_available_bytes ") for line in lines)


async def test_what_is_not_there_is_told_in_json(page):
    async with page.get("/nope") as answer:
        assert answer.status == 404
        assert "/v1/node/inventory" in (await answer.json())["error"]["message"]
    async with page.post("/healthz") as answer:
        assert answer.status == 405
        assert "GET" in answer.headers["Allow"]


async def test_a_port_in_use_is_a_config_error_that_names_the_key(page):
    port = page._base_url.port
    with pytest.raises(ConfigError, match=rf"port {port} .* node\.status_port"):
        async with serving(StatusPage(lambda: VIEW, NodeMetrics(lambda: VIEW, lambda: 0)), "127.0.0.1", port):
            pass
