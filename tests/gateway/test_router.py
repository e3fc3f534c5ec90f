"""What a key with limits is answered, is worked out once."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

from gateway.auth import Principal
from gateway.circuit import Circuits
from gateway.inflight import InFlight
from gateway.permits import Permits
from gateway.router import Router
from gateway.view import RoutingView
from geniehive.config import GatewayConfig
from geniehive.resources import Operation, Role
from geniehive.routing.resolve import resolve
from geniehive.routing.strategy import LIMIT
from tests.gateway.harness import service, snapshot


def test_the_same_limits_lead_to_the_same_resolution_until_the_cluster_changes() -> None:
    services = [service(n, f"http://127.0.0.1:{n}", asset=name) for n, name in enumerate(("one", "two", "two"), 1)]
    view = RoutingView()
    view.replace(snapshot(services, [Role(role_id="any")]))
    router = Router(view, InFlight(time.monotonic), Circuits(GatewayConfig().ejection), permits=_TwoAlone())
    exchange: Any = SimpleNamespace(principal=Principal("k", frozenset()), now=time.monotonic)

    def found() -> object:
        assert {each.asset.asset_id for each in router.candidates("any", Operation.CHAT, exchange)} == {"two"}
        return exchange.found

    first = found()
    assert found() is first
    view.replace(snapshot(services, [Role(role_id="any")]))
    assert found() is not first


def test_where_the_best_are_all_kept_back_the_others_are_looked_at() -> None:
    view, circuits = RoutingView(), Circuits(GatewayConfig().ejection)
    view.replace(snapshot([service(n, f"http://127.0.0.1:{n}", asset="one") for n in range(1, LIMIT + 2)], []))
    router = Router(view, InFlight(time.monotonic), circuits)
    exchange: Any = SimpleNamespace(principal=None, now=lambda: 1.0)
    free, *others = [each.service.service_id for each in resolve(view.current(), "one").candidates]
    for each in others:
        circuits.busy(each, 1.0, 30.0)
    for _ in range(3 * len(others)):  # the strategy takes turns, so it leaves each out once
        first, *_ = router.candidates("one", Operation.CHAT, exchange)
        assert first.service.service_id == free
        assert exchange.decision.kept_back.keys() <= set(others)


class _TwoAlone(Permits):
    def check(self, *_: object) -> frozenset[str]:
        return frozenset({"two"})
