"""A snapshot is brought up to date without being changed."""

import pytest

from geniehive.resources import HostObserved, Observed, Role, Snapshot, SnapshotDelta
from geniehive.routing.apply import apply_delta, apply_observed
from tests.geniehive.routing.fleet import host, service

BASE = Snapshot(
    epoch=1, revision=4, hosts={"h1": host()}, services={"a": service("a"), "b": service("b")}
)  # fmt: skip


def test_a_delta_replaces_adds_and_removes():
    delta = SnapshotDelta(
        base_revision=4,
        services=(service("a", assets=("new",)), service("c")),
        removed_service_ids=("b",),
        roles=(Role(role_id="r"),),
    )
    after = apply_delta(BASE, delta, 5)
    assert (after.epoch, after.revision, sorted(after.services), list(after.roles)) == (1, 5, ["a", "c"], ["r"])
    assert after.services["a"].assets[0].asset_id == "new"
    assert BASE.services["a"].assets[0].asset_id == "qwen"


def test_a_delta_for_another_base_is_refused():
    with pytest.raises(ValueError, match="for revision 3, this is 4"):
        apply_delta(BASE, SnapshotDelta(base_revision=3), 4)


def test_measurements_of_the_unknown_are_ignored():
    after = apply_observed(BASE, {"a": Observed(running=1), "z": Observed(running=2)}, {"h1": HostObserved()})
    assert after.services["a"].observed.running == 1
    assert "z" not in after.services
