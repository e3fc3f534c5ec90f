"""[pure] What is seen of services from outside: the traffic of gateways, benchmarks and probes."""

from __future__ import annotations

from collections.abc import Mapping

from controlplane import events as ev
from controlplane.books import Books
from controlplane.events import Effect, Instant
from controlplane.health import Ended
from controlplane.news import News


class Outside:
    """Decides what others than the nodes themselves tell of their services."""

    def __init__(self, books: Books) -> None:
        self._books = books

    def gateway(self, event: ev.GatewayConnected | ev.TrafficReported | ev.GatewayGone, now: Instant) -> list[Effect]:
        """A gateway came, told of its requests, or left."""
        news = News()
        match event:
            case ev.GatewayConnected():
                moved_services = self._books.traffic.connect(event.stream_id, event.gateway_id)
            case ev.TrafficReported():
                ended = self._books.traffic.ended(event.stream_id, event.services)
                moved_services = self._books.traffic.report(event.stream_id, event.services)
                self._judge_traffic(ended, now, news)
            case ev.GatewayGone():
                moved_services = self._books.traffic.disconnect(event.stream_id)
        self._books.fleet.merge(moved_services, self._books.traffic)
        self._books.picture.touch(services=set(moved_services))
        return self._books.publish(news, now)

    def _judge_traffic(self, ended: Mapping[str, tuple[int, int]], now: Instant, news: News) -> None:
        """Passive health: what requests that ended say about the services that they were for."""
        verdicts, differ = self._books.fleet.verdicts, set()
        for key, told in self._books.fleet.told_health(ended).items():
            what = Ended(*ended[key], busy=self._books.traffic.open(key) > 0)
            if verdicts.traffic(key, told, what, now.monotonic):
                differ.add(key)
        self._books.weigh(differ, news)

    def measured(self, event: ev.SamplesStored | ev.ProbesEnded, now: Instant) -> list[Effect]:
        """Benchmarks that were run, or a round of probes."""
        news = News()
        match event:
            case ev.SamplesStored():
                self._books.picture.touch(services=set(self._books.benchmarks.add(event.samples)))
            case ev.ProbesEnded():
                told = self._books.fleet.told_health(event.findings)
                self._books.weigh(self._books.fleet.verdicts.probed(event.findings, told), news)
        return self._books.publish(news, now)

    def observed_due(self) -> list[Effect]:
        """Measurements that wait to be shown."""
        found = self._books.picture.observed(self._books.fleet.hosts, self._books.fleet.services)
        return [] if found is None else [found]
