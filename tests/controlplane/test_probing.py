from __future__ import annotations

from pathlib import Path

import pytest

from controlplane.probing import HEALTH_PATHS, health_url, judge, targets
from geniehive.resources import HealthStatus, Host, LeaseState, Service, Snapshot
from nodeagent.engines.registry import ENGINES

SERVICE = Service(service_id="s", host_id="h", endpoint="http://10.0.0.2:8080")


def test_every_engine_has_a_path_and_none_has_a_side_effect():
    assert {engine.name for engine in ENGINES} | {"manifest"} == set(HEALTH_PATHS)
    assert "health" not in HEALTH_PATHS["sglang"]  # it generates a token
    assert not [path for path in HEALTH_PATHS.values() if "slots" in path or "?" in path]


def test_the_url_is_the_engines():
    def url(**fields):
        return health_url(Service(**{"service_id": "s", "host_id": "h", "endpoint": "http://10.0.0.2:1", **fields}))

    assert url(protocol="ollama") == "http://10.0.0.2:1/api/version"
    assert url(protocol="something-new") == "http://10.0.0.2:1/v1/models"
    assert url(reachable=False) == ""
    assert url(endpoint="file:///etc/passwd") == ""
    assert url(endpoint="") == ""


def test_services_of_hosts_that_are_not_up_are_not_asked():
    for lease, asked in ((LeaseState.UP, {"s"}), (LeaseState.STALE, set())):
        snapshot = Snapshot(hosts={"h": Host(host_id="h", lease=lease)}, services={"s": SERVICE})
        assert set(targets(snapshot)) == asked


@pytest.mark.parametrize(
    ("status", "body", "means"),
    [
        (200, b'{"status": "ok"}', HealthStatus.HEALTHY),
        (503, b'{"error": {"message": "Loading model"}}', HealthStatus.LOADING),
        (503, b"no capacity", HealthStatus.UNHEALTHY),
        (500, b"", HealthStatus.UNHEALTHY),
        (501, b"", None),
        (401, b"", None),
        (403, b"", None),
        (404, b"", None),
        (302, b"", None),
    ],
)
def test_an_answer_means_what_it_can_be_trusted_for(status, body, means):
    assert judge(status, body).status is means


def test_the_docs_name_every_path():
    page = Path("docs/probes.md").read_text(encoding="utf-8")
    assert [name for name, path in HEALTH_PATHS.items() if f"`{path}`" not in page or name not in page] == []
