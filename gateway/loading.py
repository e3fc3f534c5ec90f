"""A cold load is not a hang: for how long an engine is waited for that is loading the request's model.

What nodes observe of the engine says whether it is: the service's health is `loading`, or the model is not
loaded where it was asked for. As long as that is so the first byte is not due; once it is loaded the engine has
the whole of `first_byte_timeout_s` from then. All of it is bounded by `load_timeout_s`.
"""

from __future__ import annotations

from typing import Final

from gateway.exchange import Exchange
from gateway.view import RoutingView
from geniehive.config import GatewayConfig
from geniehive.resources import Asset, HealthStatus, Service
from geniehive.routing.candidate import Candidate
from geniehive.routing.receipt import Tried

LOOK_EVERY_S: Final = 1.0


class Loading:
    """Knows by the routing view which engines load."""

    def __init__(self, view: RoutingView, limits: GatewayConfig) -> None:
        self._view = view
        self._limits = limits

    def first_look_s(self, tried: Tried) -> float:
        """When to look first whether the engine is still silent: early if its model has to be loaded."""
        limit = self._limits.first_byte_timeout_s
        if not cold(tried.candidate.service, tried.candidate.asset):
            return limit
        self.seen(tried, tried.began)
        return min(limit, LOOK_EVERY_S)

    def more_s(self, exchange: Exchange, tried: Tried) -> float:
        """How much longer to wait; 0 if the engine has had its time."""
        if exchange.interrupted:
            return 0.0
        now, limits = exchange.now(), self._limits
        left = tried.began + limits.load_timeout_s - now
        if self._loads(tried.candidate):
            self.seen(tried, now)
            return max(0.0, min(LOOK_EVERY_S, left))
        if tried.loading_at is None:
            return 0.0
        return max(0.0, min(tried.loading_at + limits.first_byte_timeout_s - now, left))

    @staticmethod
    def seen(tried: Tried, now: float) -> None:
        """The engine was loading just now."""
        tried.loading_at = now
        if not tried.note:
            tried.note = "the model had to be loaded"

    def _loads(self, candidate: Candidate) -> bool:
        table = self._view.table
        service = None if table is None else table.shape.services.get(candidate.service.service_id)
        if service is None:
            return False
        asset_id = candidate.asset.asset_id
        return any(cold(service, asset) for asset in service.assets if asset.asset_id == asset_id)


def cold(service: Service, asset: Asset) -> bool:
    """Whether a request for the model has to wait for it to be loaded there."""
    return asset.loaded is False or service.health.status is HealthStatus.LOADING
