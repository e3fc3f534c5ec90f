"""The pure core of the control plane: what happened goes in, what to do comes out.

`ClusterState` alone decides; the loop feeds it and carries out its effects. It knows no I/O, no clock and no dice. It
hands each event to its part: what nodes say (`NodeEvents`), what operators order (`Orders`), what is seen from outside
(`Outside`); itself it sees to time, and to the two steps in which an event that has to be stored is applied (see
`controlplane.events`). All of them write into the same `Books`: the fleet (hosts, services), leases, sessions,
commands, the gateways' traffic, and the snapshot that all of it shows as.
"""

from __future__ import annotations

from msgspec.structs import replace

from controlplane import events as ev
from controlplane.books import Books
from controlplane.events import Append, Change, Effect, Instant, Kind, Persist
from controlplane.leases import LeaseTerms
from controlplane.news import News
from controlplane.node_events import NodeEvents
from controlplane.orders import Orders
from controlplane.outside import Outside
from controlplane.token_book import TokenBook
from geniehive.errors import StoreError
from geniehive.resources import Command, Host, Snapshot


class ClusterState:
    """The cluster as the control plane knows it."""

    def __init__(self, terms: LeaseTerms, epoch: int, registry: ev.Registry, now: Instant) -> None:
        self._books = books = Books(terms, epoch, registry, now)
        self._nodes = NodeEvents(books)
        self._orders = Orders(books)
        self._outside = Outside(books)
        self._unsaved: dict[tuple[Kind, str], Change] = {}

    # --- reads ---------------------------------------------------------------------------------

    @property
    def terms(self) -> LeaseTerms:
        """How long leases last."""
        return self._books.terms

    @property
    def tokens(self) -> TokenBook:
        """Who has access."""
        return self._books.tokens

    @property
    def snapshot(self) -> Snapshot:
        """The picture that gateways have, or are about to get."""
        return self._books.snapshot

    @property
    def commands(self) -> tuple[Command, ...]:
        """Every command, oldest first."""
        return self._books.commands.all

    @property
    def gateways(self) -> int:
        """Gateway workers that watch."""
        return self._books.traffic.gateways

    @property
    def observed_moved(self) -> bool:
        """Whether measurements wait for `ObservedDue`."""
        return self._books.picture.observed_moved

    @property
    def unsaved(self) -> int:
        """How many changes wait for a store that works."""
        return len(self._unsaved)

    def host_view(self, host_id: str, now: Instant) -> Host | None:
        """A host as an operator sees it, with the age of its last heartbeat."""
        host = self._books.fleet.hosts.get(host_id)
        heard = self._books.heard.get(host_id)
        if host is None or heard is None:
            return host
        return replace(host, heartbeat_age_seconds=max(0.0, now.monotonic - heard))

    # --- the one way in ------------------------------------------------------------------------

    def apply(self, event: ev.Event, now: Instant) -> list[Effect]:
        """What an event leads to, in the order in which it has to be done.

        Raises a GenieHiveError, with nothing changed, for operators' events alone.
        """
        match event:
            case ev.HeartbeatReceived():
                return self._nodes.heartbeat(event, now)
            case ev.SessionClosed():
                return self._nodes.session_closed(event, now)
            case ev.GatewayConnected() | ev.TrafficReported() | ev.GatewayGone():
                return self._outside.gateway(event, now)
            case ev.RolesRefused():
                return self._orders.roles_refused(event.reason, now)
            case ev.SamplesStored() | ev.ProbesEnded():
                return self._outside.measured(event, now)
            case ev.Tick() | ev.ObservedDue():
                return self._tick(event, now) if isinstance(event, ev.Tick) else self._outside.observed_due()
            case ev.Persisted() | ev.PersistFailed():
                return self._written(event, now)
            case _:
                return self._propose(event, now)

    def renew(self, event: ev.HeartbeatReceived, now: Instant) -> None:
        """Renew the lease for a heartbeat that has to wait for its turn behind a write of its own session."""
        self._nodes.renew(event, now)

    def _propose(self, event: ev.Durable, now: Instant) -> list[Effect]:
        """First step of an event that may have to be stored: refuse it, store it, or go on at once."""
        refusal = self._nodes.refuse(event) if isinstance(event, ev.FromNode) else None
        if refusal is not None:
            return refusal
        changes = self._changes(event, now)
        if changes:
            changes += _audited(event)
        return [Persist(changes, event)] if changes else self._commit(event, now)

    def _changes(self, event: ev.Durable, now: Instant) -> tuple[Change, ...]:
        """What must be stored before an event may count. Raises for operators' events that make no sense."""
        match event:
            case ev.HelloReceived() | ev.InventoryReceived() | ev.CommandResultReceived():
                return self._nodes.changes(event, now)
            case ev.UnsavedDue():
                return tuple(self._unsaved.values())
            case _:
                return self._orders.changes(event, now)

    def _commit(self, event: ev.Durable, now: Instant) -> list[Effect]:
        """Second step: the event counts."""
        match event:
            case ev.HelloReceived() | ev.InventoryReceived() | ev.CommandResultReceived():
                return self._nodes.commit(event, now)
            case ev.UnsavedDue():
                return []
            case _:
                return self._orders.commit(event, now)

    def _written(self, event: ev.Persisted | ev.PersistFailed, now: Instant) -> list[Effect]:
        return self._persisted(event, now) if isinstance(event, ev.Persisted) else self._persist_failed(event, now)

    def _persisted(self, event: ev.Persisted, now: Instant) -> list[Effect]:
        had = bool(self._unsaved)
        for change in event.changes:
            self._unsaved.pop((change.kind, change.key), None)
        news = News()
        if had and not self._unsaved:
            news.add("store.works", "the store works again, and what was kept in memory is stored")
        return [*news.announce(now, self._books.snapshot.revision), *self._commit(event.event, now)]

    def _persist_failed(self, event: ev.PersistFailed, now: Instant) -> list[Effect]:
        """An operator gets the error. What a node told is true whether stored or not: it counts, and is kept."""
        match event.event:
            case ev.HelloReceived() | ev.InventoryReceived() | ev.CommandResultReceived():
                first = not self._unsaved
                self._unsaved |= {(change.kind, change.key): change for change in event.changes}
                news = News()
                if first:
                    news.add("store.failed", f"the store refuses, what nodes tell is kept in memory: {event.reason}")
                return [*news.announce(now, self._books.snapshot.revision), *self._commit(event.event, now)]
            case ev.UnsavedDue():
                return []
            case _:
                raise StoreError(event.reason)

    # --- time ----------------------------------------------------------------------------------

    def _tick(self, event: ev.Tick, now: Instant) -> list[Effect]:
        news = News()
        if event.paused_s:
            self._credit(event.paused_s, now, news)
        expiry = self._books.leases.expire(now.monotonic)
        for host_id, lease in sorted(expiry.moved.items()):
            self._books.fleet.set_lease(host_id, lease)
            news.add(f"host.{lease}", f"host {host_id} is {lease}: no heartbeat in time", host_id)
        self._books.picture.touch(hosts=set(expiry.moved))
        if expiry.held:
            news.add("leases.held", f"{expiry.held} hosts fell silent at once: their leases are held for a grace")
        if expiry.released:
            news.add("leases.released", "leases run as usual again")
        self._books.weigh(self._books.fleet.verdicts.expire(now.monotonic), news)
        self._forget_old_measurements(now)
        return [*self._close_silent(now, news), *self._books.publish(news, now)]

    def _forget_old_measurements(self, now: Instant) -> None:
        """A lease may last longer than numbers mean anything."""
        heard, terms = self._books.heard, self._books.terms
        old = {key for key in self._books.measured if now.monotonic - heard[key] >= terms.measured_s}
        for host_id in old:
            found = self._books.fleet.unmeasure(host_id)
            self._books.fleet.merge(found, self._books.traffic)
            self._books.picture.touch(hosts={host_id}, services=found)
        self._books.measured -= old

    def _credit(self, pause_s: float, now: Instant, news: News) -> None:
        """Leases and streams are given the time in which nobody could be heard."""
        self._books.leases.credit(pause_s, now.monotonic)
        for session in self._books.sessions:
            session.heard_at = min(now.monotonic, session.heard_at + pause_s)
        news.add("leases.credited", f"the control plane stood still for {pause_s:.1f} s: leases are that much longer")

    def _close_silent(self, now: Instant, news: News) -> list[Effect]:
        effects: list[Effect] = []
        for session in self._books.sessions:
            if now.monotonic - session.heard_at >= self._books.terms.silence_s:
                self._books.sessions.close(session.session_id)
                self._books.put_commands(self._books.commands.after_loss(session.host_id, now), news)
                effects.append(ev.CloseSession(session.session_id, "no heartbeat for three lease times"))
        return effects


def _audited(event: ev.Durable) -> tuple[Append, ...]:
    """What is written down with the change of an operator."""
    match event:
        case (
            ev.CommandRequested(audit=entry)
            | ev.ForgetRequested(audit=entry)
            | ev.TokenRequested(audit=entry)
            | ev.RevokeRequested(audit=entry)
        ) if entry is not None:
            return (Append(entry),)
        case _:
            return ()
