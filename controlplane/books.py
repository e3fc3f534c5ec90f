"""[pure] What the control plane knows, book by book, and the picture of it that gateways and onlookers get.

Those who decide share the books: what nodes say (`controlplane.node_events`), what operators order
(`controlplane.orders`), what is seen from outside (`controlplane.outside`), and time (`controlplane.cluster`). What
they have in common stands here: a change is put into its book, the news of it are noted, and `publish` shows what
moved.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet

from msgspec.structs import replace

from controlplane import events as ev
from controlplane.benchmark_book import BenchmarkBook
from controlplane.commands import CommandBook
from controlplane.events import Effect, Instant
from controlplane.fleet import Fleet
from controlplane.leases import LeaseTable, LeaseTerms
from controlplane.news import News
from controlplane.sessions import SessionTable
from controlplane.snapshots import SnapshotBook
from controlplane.token_book import TokenBook
from controlplane.traffic import TrafficTable
from geniehive.resources import Availability, Command, LeaseState, Snapshot


class Books:
    """All of it. Restored hosts start with one fresh lease, so a restart of the control plane never empties the routes.

    `heard`: when each host was last heard of, in monotonic seconds. `measured`: hosts whose measurements are shown.
    """

    def __init__(self, terms: LeaseTerms, epoch: int, registry: ev.Registry, now: Instant) -> None:
        self.terms = terms
        self.fleet = Fleet((replace(one, lease=LeaseState.UP) for one in registry.hosts), registry.services)
        self.leases = LeaseTable(terms)
        for host_id in self.fleet.hosts:
            self.leases.renew(host_id, now.monotonic)
        self.heard: dict[str, float] = {}
        self.measured: set[str] = set()
        self.sessions = SessionTable()
        self.commands = CommandBook(registry.commands)
        self.traffic = TrafficTable()
        self.benchmarks = BenchmarkBook(registry.samples)
        self.tokens = TokenBook(registry.access_keys)
        self.roles = {role.role_id: role for role in registry.roles}
        self.picture = SnapshotBook(
            Snapshot(
                epoch=epoch,
                revision=1,
                hosts=dict(self.fleet.hosts),
                services=dict(self.fleet.services),
                roles=dict(self.roles),
                benchmarks={key: one for key, one in self.benchmarks.summaries.items() if key in self.fleet.services},
                access_keys=dict(self.tokens.good),
                keys_required=self.tokens.required,
            )
        )

    @property
    def snapshot(self) -> Snapshot:
        """The picture that gateways have, or are about to get."""
        return self.picture.snapshot

    def put_commands(self, commands: Iterable[Command], news: News) -> None:
        """Commands as they are now."""
        for command in commands:
            self.commands.put(command)
            news.command(command)

    def set_availability(self, host_id: str, availability: Availability, news: News) -> None:
        """What an operator wants of a host."""
        host = self.fleet.hosts[host_id]
        if host.availability is not availability:
            self.fleet.put_host(replace(host, availability=availability))
            news.add("host.availability", f"host {host_id} is {availability}", host_id)
            self.picture.touch(hosts={host_id})

    def weigh(self, service_ids: AbstractSet[str], news: News) -> None:
        """Let verdicts count that are not the nodes' own: they change health alone."""
        before = {key: self.fleet.services[key].health for key in service_ids if key in self.fleet.services}
        self.fleet.merge(before, self.traffic)
        for key in sorted(before):
            news.health(before[key], self.fleet.services[key])
        self.picture.touch(services=set(before))

    def publish(self, news: News, now: Instant) -> list[Effect]:
        """What gateways and onlookers get to know."""
        found = self.picture.shape(
            self.fleet.hosts, self.fleet.services, self.roles, self.benchmarks.summaries, self.tokens.good
        )
        announced = news.announce(now, self.snapshot.revision)
        return announced if found is None else [found, *announced]
