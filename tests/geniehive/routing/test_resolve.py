"""What a model name leads to."""

import pytest

from geniehive.errors import InvalidRequest, ModelNotFound, NoServiceAvailable
from geniehive.routing.resolve import resolve
from tests.geniehive.routing.fleet import (
    Asset,
    Availability,
    Health,
    HealthStatus,
    LeaseState,
    Operation,
    host,
    ids,
    role,
    service,
    table,
)


def test_an_asset_on_several_hosts_is_one_name():
    fleet = table(host("h1"), host("h2"), service("a", "h1"), service("b", "h2"))
    found = resolve(fleet, "qwen", Operation.CHAT)
    assert (found.match, ids(found.candidates)) == ("asset", ["a", "b"])


def test_aliases_and_service_ids_are_names():
    fleet = table(service("a", assets=(Asset(asset_id="qwen", aliases=("fast",)),)))
    assert resolve(fleet, "fast").match == "alias"
    assert resolve(fleet, "a").match == "service"


def test_a_name_without_tag_finds_ollamas_latest():
    assert ids(resolve(table(service("a", assets=("qwen:latest",))), "qwen").candidates) == ["a"]


def test_a_service_id_leads_only_to_that_service():
    fleet = table(service("a"), service("b"))
    assert ids(resolve(fleet, "b").candidates) == ["b"]


def test_a_direct_name_wins_over_a_role_of_the_same_name():
    assert resolve(table(service("a"), role("qwen")), "qwen").match == "asset"


def test_an_unknown_name_is_told_with_near_misses():
    with pytest.raises(ModelNotFound, match="'qwen3-8b'"):
        resolve(table(service("a", assets=("qwen3-8b",))), "qwen3-8")


def test_a_model_that_cannot_do_it_says_what_it_can():
    with pytest.raises(InvalidRequest, match="it serves chat"):
        resolve(table(service("a")), "qwen", Operation.EMBEDDINGS)


def test_an_assets_own_operations_win_over_its_services():
    fleet = table(service("a", assets=(Asset(asset_id="bge", operations=(Operation.EMBEDDINGS,)),)))
    assert resolve(fleet, "bge", Operation.EMBEDDINGS).candidates
    with pytest.raises(InvalidRequest):
        resolve(fleet, "bge", Operation.CHAT)


@pytest.mark.parametrize(
    ("broken", "word"),
    [
        ({"lease": LeaseState.STALE}, "stale"),
        ({"lease": LeaseState.OFFLINE}, "offline"),
        ({"availability": Availability.DRAINING}, "draining"),
        ({"availability": Availability.PAUSED_BY_USER}, "paused by user"),
        ({"availability": Availability.QUARANTINED}, "quarantined"),
    ],
)
def test_a_host_that_takes_no_work_leaves_the_routes_and_the_reason_is_told(broken, word):
    fleet = table(host("h1", **broken), host("h2"), service("a", "h1"), service("b", "h2"))
    found = resolve(fleet, "qwen")
    assert ids(found.candidates) == ["b"]
    assert word in found.dropped[0].reason


def test_an_unhealthy_service_leaves_the_routes_and_alone_it_is_a_503_with_its_reason():
    down = Health(status=HealthStatus.UNHEALTHY, reason="connection refused")
    with pytest.raises(NoServiceAvailable, match="a: unhealthy: connection refused"):
        resolve(table(service("a", health=down)), "qwen")


def test_an_unreachable_service_is_no_candidate():
    with pytest.raises(NoServiceAvailable, match="its own host only"):
        resolve(table(service("a", reachable=False)), "qwen")


def test_healthy_before_unknown_before_loading_and_loaded_before_cold():
    cold = Asset(asset_id="qwen", loaded=False)
    fleet = table(
        service("cold", assets=(cold,)),
        service("loading", health=Health(status=HealthStatus.LOADING)),
        service("unknown", health=Health()),
        service("warm"),
    )
    assert ids(resolve(fleet, "qwen").candidates) == ["warm", "cold", "unknown", "loading"]


def test_a_busy_host_comes_after_the_available_ones():
    fleet = table(host("h1", availability=Availability.BUSY), host("h2"), service("a", "h1"), service("b", "h2"))
    assert ids(resolve(fleet, "qwen").candidates) == ["b", "a"]


def test_a_role_prefers_families_in_order():
    fleet = table(
        service("l", assets=(Asset(asset_id="l", family="llama"),)),
        service("o", assets=(Asset(asset_id="o", family="other"),)),
        service("q", assets=(Asset(asset_id="q", family="qwen3"),)),
        role("code", preferred_families=("qwen3", "llama")),
    )
    assert ids(resolve(fleet, "code").candidates) == ["q", "l", "o"]


def test_a_family_without_a_healthy_service_gives_way():
    fleet = table(
        service("l", assets=(Asset(asset_id="l", family="llama"),)),
        service("q", assets=(Asset(asset_id="q", family="qwen3"),), health=Health(status=HealthStatus.LOADING)),
        role("code", preferred_families=("qwen3", "llama")),
    )
    assert ids(resolve(fleet, "code").candidates) == ["l", "q"]


@pytest.mark.parametrize(
    ("policy", "word"),
    [
        ({"require_loaded": True}, "loaded"),
        ({"min_context": 8192}, "8192"),
        ({"allowed_trust_tiers": ("home",)}, "trust tier guest"),
        ({"denied_trust_tiers": ("guest",)}, "denied"),
        ({"allowed_device_classes": ("gpu",)}, "device class cpu"),
        ({"denied_device_classes": ("cpu",)}, "denied"),
        ({"allowed_workload_classes": ("batch",)}, "workload class"),
        ({"denied_workload_classes": ("chat",)}, "denied"),
        ({"assets": ("other",)}, "allows only other"),
    ],
)
def test_what_a_role_does_not_want_is_dropped_with_the_reason(policy, word):
    asset = Asset(asset_id="qwen", loaded=False, context_size=4096)
    fleet = table(
        host("h1", trust_tier="guest", device_class="cpu", workload_classes=("chat",)),
        service("a", assets=(asset,)),
        role("r", **policy),
    )
    with pytest.raises(NoServiceAvailable, match=word):
        resolve(fleet, "r")


def test_preferred_labels_come_first():
    fleet = table(
        host("h1"), host("h2", labels={"room": "lab"}), service("a", "h1"), service("b", "h2"),
        role("r", preferred_labels={"room": "lab"}),
    )  # fmt: skip
    assert ids(resolve(fleet, "r").candidates) == ["b", "a"]


def test_fallback_roles_come_after_and_cycles_are_cut():
    small = Asset(asset_id="small", context_size=2048)
    fleet = table(
        service("a", assets=("big",)),
        service("b", assets=(small,)),
        role("deep", assets=("big",), fallback_roles=("fast",)),
        role("fast", assets=("small",), fallback_roles=("deep",)),
    )
    found = resolve(fleet, "deep")
    assert ids(found.candidates) == ["a", "b"]
    assert [candidate.role.role_id for candidate in found.candidates] == ["deep", "fast"]


def test_a_role_whose_services_all_died_falls_back():
    fleet = table(
        service("a", assets=("big",), health=Health(status=HealthStatus.UNHEALTHY)),
        service("b", assets=("small",)),
        role("deep", assets=("big",), fallback_roles=("fast",)),
        role("fast", assets=("small",)),
    )
    assert ids(resolve(fleet, "deep").candidates) == ["b"]


def test_a_role_for_another_operation_is_refused():
    with pytest.raises(InvalidRequest, match="is for embeddings"):
        resolve(table(service("a"), role("e", operation=Operation.EMBEDDINGS)), "e", Operation.CHAT)


def test_a_role_that_nothing_serves_is_a_503():
    with pytest.raises(NoServiceAvailable, match="no service of the cluster does embeddings"):
        resolve(table(service("a"), role("e", operation=Operation.EMBEDDINGS)), "e")
