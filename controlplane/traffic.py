"""What the gateways together have open to each service, merged into what the engine told.

Each gateway worker reports its whole traffic, so a report replaces the last one of its stream, and a
stream that ends takes its requests with it. Gateways know what engines such as Ollama do not tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from msgspec.structs import replace

from geniehive.resources import Observed, ServiceTraffic


@dataclass(slots=True)
class _Stream:
    gateway_id: str
    services: dict[str, ServiceTraffic] = field(default_factory=dict)
    reported: bool = False


class TrafficTable:
    """The last report of each gateway stream."""

    def __init__(self) -> None:
        self._streams: dict[str, _Stream] = {}
        self._seen: set[str] = set()

    @property
    def gateways(self) -> int:
        """How many gateway workers watch."""
        return len(self._streams)

    def connect(self, stream_id: str, gateway_id: str) -> frozenset[str]:
        """Begin a stream; an older one of the same worker ends. Services that this touches."""
        older = [key for key, one in self._streams.items() if one.gateway_id == gateway_id and key != stream_id]
        touched = frozenset[str]().union(*(self.disconnect(key) for key in older))
        self._streams.setdefault(stream_id, _Stream(gateway_id))
        return touched

    def disconnect(self, stream_id: str) -> frozenset[str]:
        """End a stream. Services that this touches."""
        stream = self._streams.pop(stream_id, None)
        return frozenset(stream.services) if stream is not None else frozenset()

    def ended(self, stream_id: str, services: Iterable[ServiceTraffic]) -> dict[str, tuple[int, int]]:
        """Requests that ended well and failed since the stream's last report, by service; ask before `report`.

        The first report of a stream tells nothing: its totals are as old as the worker.
        """
        stream = self._streams.get(stream_id)
        if stream is None or not stream.reported:
            return {}
        found = {}
        for one in services:
            before = stream.services.get(one.service_id, ServiceTraffic(service_id=one.service_id))
            well = one.succeeded_total - before.succeeded_total
            failed = one.failed_total - before.failed_total
            if well >= 0 and failed >= 0 and well + failed:
                found[one.service_id] = (well, failed)
        return found

    def report(self, stream_id: str, services: Iterable[ServiceTraffic]) -> frozenset[str]:
        """Replace a stream's report; one of a stream that has ended is ignored. Services that this touches."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return frozenset()
        before, stream.services = stream.services, {one.service_id: one for one in services}
        stream.reported = True
        self._seen.update(stream.services)
        ids = before.keys() | stream.services.keys()
        return frozenset(key for key in ids if before.get(key) != stream.services.get(key))

    def forget(self, service_id: str) -> None:
        """Drop what was seen of a service that is gone."""
        self._seen.discard(service_id)

    def open(self, service_id: str) -> int:
        """Requests that all gateways together have open to a service."""
        return sum(one.in_flight for s in self._streams.values() if (one := s.services.get(service_id)) is not None)

    def merge(self, service_id: str, observed: Observed) -> Observed:
        """The engine's measurements with the gateways' in-flight, and theirs where the engine told nothing."""
        if service_id not in self._seen:
            return observed
        found = [one for stream in self._streams.values() if (one := stream.services.get(service_id)) is not None]
        return replace(
            observed,
            in_flight=sum(one.in_flight for one in found),
            ttft_seconds=_known(observed.ttft_seconds, found, lambda one: one.ttft_seconds),
            latency_seconds=_known(observed.latency_seconds, found, lambda one: one.latency_seconds),
            tokens_per_second=_known(observed.tokens_per_second, found, lambda one: one.tokens_per_second),
            prompt_tokens_per_second=_known(
                observed.prompt_tokens_per_second, found, lambda one: one.prompt_tokens_per_second
            ),
        )


def _known(
    engine: float | None, found: list[ServiceTraffic], read: Callable[[ServiceTraffic], float | None]
) -> float | None:
    """The engine's value, else the middle one of the gateways' (the lower of two)."""
    if engine is not None:
        return engine
    values = sorted(value for one in found if (value := read(one)) is not None)
    return values[(len(values) - 1) // 2] if values else None
