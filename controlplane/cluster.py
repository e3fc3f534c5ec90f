"""The pure core of the control plane: what happened goes in, what to do comes out.

`ClusterState` alone decides; the loop feeds it and carries out its effects. It knows no I/O, no clock
and no dice. Its parts are the fleet (hosts, services), leases, sessions, commands, the gateways'
traffic and the snapshot that all of it shows as. See `controlplane.events` for the two steps in which
an event that has to be stored is applied.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import assert_never

from msgspec.structs import replace

from controlplane import events as ev
from controlplane.benchmark_book import BenchmarkBook
from controlplane.commands import CommandBook, has_ended, moved
from controlplane.events import Append, Change, Delete, Effect, Instant, Kind, Persist, Put, RejectReason, SendToNode
from controlplane.fleet import Fleet, durable_host
from controlplane.health import Ended
from controlplane.leases import LeaseTable, LeaseTerms
from controlplane.news import News
from controlplane.sessions import Session, SessionTable, fenced
from controlplane.snapshots import SnapshotBook
from controlplane.token_book import TokenBook
from controlplane.traffic import TrafficTable
from geniehive.errors import Conflict, StoreError
from geniehive.resources import (
    Availability,
    Command,
    CommandKind,
    CommandState,
    Host,
    LeaseState,
    Role,
    Service,
    Snapshot,
)

PROTOCOL_VERSION = 1

_AVAILABILITY_OF = {CommandKind.DRAIN: Availability.DRAINING, CommandKind.RESUME: Availability.AVAILABLE}


class ClusterState:
    """The cluster as the control plane knows it.

    Restored hosts start with one fresh lease, so a restart of the control plane never empties the routes.
    """

    def __init__(self, terms: LeaseTerms, epoch: int, registry: ev.Registry, now: Instant) -> None:
        self.terms = terms
        self._fleet = Fleet((replace(one, lease=LeaseState.UP) for one in registry.hosts), registry.services)
        self._leases = LeaseTable(terms)
        for host_id in self._fleet.hosts:
            self._leases.renew(host_id, now.monotonic)
        self._heard: dict[str, float] = {}
        self._measured: set[str] = set()
        self._sessions = SessionTable()
        self._commands = CommandBook(registry.commands)
        self._traffic = TrafficTable()
        self._benchmarks = BenchmarkBook(registry.samples)
        self.tokens = TokenBook(registry.access_keys)
        self._roles = {role.role_id: role for role in registry.roles}
        self._unsaved: dict[tuple[Kind, str], Change] = {}
        self._book = SnapshotBook(
            Snapshot(
                epoch=epoch,
                revision=1,
                hosts=dict(self._fleet.hosts),
                services=dict(self._fleet.services),
                roles=dict(self._roles),
                benchmarks={key: one for key, one in self._benchmarks.summaries.items() if key in self._fleet.services},
                access_keys=dict(self.tokens.good),
                keys_required=self.tokens.required,
            )
        )

    # --- reads ---------------------------------------------------------------------------------

    @property
    def snapshot(self) -> Snapshot:
        """The picture that gateways have, or are about to get."""
        return self._book.snapshot

    @property
    def commands(self) -> tuple[Command, ...]:
        """Every command, oldest first."""
        return self._commands.all

    @property
    def gateways(self) -> int:
        """Gateway workers that watch."""
        return self._traffic.gateways

    @property
    def observed_moved(self) -> bool:
        """Whether measurements wait for `ObservedDue`."""
        return self._book.observed_moved

    @property
    def unsaved(self) -> int:
        """How many changes wait for a store that works."""
        return len(self._unsaved)

    def host_view(self, host_id: str, now: Instant) -> Host | None:
        """A host as an operator sees it, with the age of its last heartbeat."""
        host = self._fleet.hosts.get(host_id)
        heard = self._heard.get(host_id)
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
                return self._heartbeat(event, now)
            case ev.SessionClosed():
                return self._session_closed(event, now)
            case ev.GatewayConnected() | ev.TrafficReported() | ev.GatewayGone():
                return self._gateway(event, now)
            case ev.RolesRefused():
                return self._roles_refused(event.reason, now)
            case ev.SamplesStored() | ev.ProbesEnded():
                return self._measured_from_outside(event, now)
            case ev.Tick() | ev.ObservedDue():
                return self._tick(event, now) if isinstance(event, ev.Tick) else self._observed_due()
            case ev.Persisted() | ev.PersistFailed():
                return self._written(event, now)
            case _:
                return self._propose(event, now)

    def _propose(self, event: ev.Durable, now: Instant) -> list[Effect]:
        """First step of an event that may have to be stored: refuse it, store it, or go on at once."""
        refusal = self._refuse(event)
        if refusal is not None:
            return refusal
        changes = self._access_changes(event, now) if isinstance(event, ev.Access) else self._changes(event, now)
        if changes:
            changes += _audited(event)
        return [Persist(changes, event)] if changes else self._commit(event, now)

    def _refuse(self, event: ev.Durable) -> list[Effect] | None:
        match event:
            case ev.HelloReceived():
                return self._refuse_hello(event)
            case ev.InventoryReceived() | ev.CommandResultReceived():
                found = self._sessions.check(event.session_id, event.host_id, event.boot_epoch)
                if isinstance(found, Session) and isinstance(event, ev.InventoryReceived):
                    return _refuse_services(event.session_id, event.services)
                return None if isinstance(found, Session) else [SendToNode(event.session_id, found)]
            case _:
                return None

    def _changes(self, event: ev.OfCluster, now: Instant) -> tuple[Change, ...]:
        """What must be stored before an event may count. Raises for operators' events that make no sense."""
        match event:
            case ev.HelloReceived():
                return self._fleet.changes(*self._fleet.admit(event.host, event.services))
            case ev.InventoryReceived():
                return self._fleet.changes(*self._admit_inventory(event))
            case ev.CommandResultReceived():
                after = self._after_result(event, now)
                return (Put(after),) if after is not None and has_ended(after) else ()
            case ev.CommandRequested():
                return self._command_changes(event.command)
            case ev.AvailabilityRequested():
                host = self._fleet.host(event.host_id)
                after_host = replace(host, availability=event.availability)
                return () if after_host == host else (Put(durable_host(after_host)),)
            case ev.ForgetRequested():
                return self._forget_changes(event.host_id, now)
            case ev.RolesLoaded():
                wanted = {role.role_id: role for role in event.roles}
                puts = [Put(role) for key, role in wanted.items() if self._roles.get(key) != role]
                return (*puts, *(Delete(Kind.ROLE, key) for key in self._roles if key not in wanted))
            case ev.UnsavedDue():
                return tuple(self._unsaved.values())
            case _:
                assert_never(event)

    def _commit(self, event: ev.Durable, now: Instant) -> list[Effect]:
        """Second step: the event counts."""
        return self._access(event, now) if isinstance(event, ev.Access) else self._of_cluster(event, now)

    def _of_cluster(self, event: ev.OfCluster, now: Instant) -> list[Effect]:
        match event:
            case ev.HelloReceived():
                return self._hello(event, now)
            case ev.InventoryReceived():
                return self._inventory(event, now)
            case ev.CommandResultReceived():
                return self._command_result(event, now)
            case ev.CommandRequested():
                return self._command_requested(event.command, now)
            case ev.AvailabilityRequested():
                news = News()
                self._set_availability(event.host_id, event.availability, news)
                return [ev.Answer(self._fleet.hosts[event.host_id]), *self._publish(news, now)]
            case ev.ForgetRequested():
                return self._forget(event.host_id, now)
            case ev.RolesLoaded():
                return self._roles_loaded(event.roles, now)
            case ev.UnsavedDue():
                return []
            case _:
                assert_never(event)

    def _written(self, event: ev.Persisted | ev.PersistFailed, now: Instant) -> list[Effect]:
        return self._persisted(event, now) if isinstance(event, ev.Persisted) else self._persist_failed(event, now)

    def _persisted(self, event: ev.Persisted, now: Instant) -> list[Effect]:
        had = bool(self._unsaved)
        for change in event.changes:
            self._unsaved.pop((change.kind, change.key), None)
        news = News()
        if had and not self._unsaved:
            news.add("store.works", "the store works again, and what was kept in memory is stored")
        return [*news.announce(now, self.snapshot.revision), *self._commit(event.event, now)]

    def _persist_failed(self, event: ev.PersistFailed, now: Instant) -> list[Effect]:
        """An operator gets the error. What a node told is true whether stored or not: it counts, and is kept."""
        match event.event:
            case ev.HelloReceived() | ev.InventoryReceived() | ev.CommandResultReceived():
                first = not self._unsaved
                self._unsaved |= {(change.kind, change.key): change for change in event.changes}
                news = News()
                if first:
                    news.add("store.failed", f"the store refuses, what nodes tell is kept in memory: {event.reason}")
                return [*news.announce(now, self.snapshot.revision), *self._commit(event.event, now)]
            case ev.UnsavedDue():
                return []
            case _:
                raise StoreError(event.reason)

    # --- nodes ---------------------------------------------------------------------------------

    def _refuse_hello(self, event: ev.HelloReceived) -> list[Effect] | None:
        key, host = event.session_id, event.host
        if event.protocol_version < PROTOCOL_VERSION:
            message = f"protocol version {event.protocol_version} is not spoken here: update the node agent"
            return [SendToNode(key, ev.Reject(RejectReason.PROTOCOL_VERSION, message))]
        if not host.host_id:
            message = "a Hello needs a host_id: set node.host_id"
            return [SendToNode(key, ev.Reject(RejectReason.INVALID, message))]
        live = self._sessions.of_host(host.host_id)
        up = self._leases.state(host.host_id) is LeaseState.UP
        if live is not None and up and live.session_id != key and host.boot_epoch < live.boot_epoch:
            self._sessions.fence(key)
            return [SendToNode(key, fenced(host.host_id)), ev.CloseSession(key, "fenced by a later agent")]
        return _refuse_services(key, event.services)

    def _hello(self, event: ev.HelloReceived, now: Instant) -> list[Effect]:
        host, services = self._fleet.admit(event.host, event.services)
        news = News()
        effects = self._take_over(event, now, news)
        if self._leases.renew(host.host_id, now.monotonic) or host.host_id not in self._fleet.hosts:
            news.add("host.up", f"host {host.host_id} is up", host.host_id)
        self._heard[host.host_id] = now.monotonic
        self._fleet.put_host(replace(host, lease=LeaseState.UP, heartbeat_age_seconds=None))
        self._put_services(host.host_id, services, news)
        effects.append(SendToNode(event.session_id, self._welcome()))
        changed, resend = self._commands.after_hello(host.host_id, event.open_command_ids, now)
        self._put_commands(changed, news)
        effects += [SendToNode(event.session_id, ev.Order(one)) for one in resend]
        return effects + self._publish(news, now)

    def _take_over(self, event: ev.HelloReceived, now: Instant, news: News) -> list[Effect]:
        """Let the session speak for its host; an older agent is fenced, an older stream of the same one closed."""
        session = Session(event.session_id, event.host.host_id, event.host.boot_epoch, now.monotonic)
        before = self._sessions.open(session)
        if before is None:
            return []
        effects: list[Effect] = []
        if before.boot_epoch < session.boot_epoch:
            self._sessions.fence(before.session_id)
            effects.append(SendToNode(before.session_id, fenced(session.host_id)))
            news.add("host.fenced", f"a later agent speaks for host {session.host_id}", session.host_id)
        return [*effects, ev.CloseSession(before.session_id, "a newer stream speaks for the host")]

    def _welcome(self) -> ev.Welcome:
        return ev.Welcome(
            protocol_version=PROTOCOL_VERSION,
            lease_ttl_ms=round(self.terms.ttl_s * 1000),
            heartbeat_interval_ms=round(self.terms.heartbeat_interval_s * 1000),
            epoch=self.snapshot.epoch,
        )

    def _heartbeat(self, event: ev.HeartbeatReceived, now: Instant) -> list[Effect]:
        session = self._sessions.check(event.session_id, event.host_id, event.boot_epoch)
        if not isinstance(session, Session):
            return [SendToNode(event.session_id, session)]
        news = News()
        self._renew(session, now, news)
        before = self._fleet.services
        healths = {one.service_id: before[one.service_id].health for one in event.services if one.service_id in before}
        found = self._fleet.measure(event.host_id, event.host, event.services)
        self._measured.add(event.host_id)
        self._fleet.merge(found, self._traffic)
        for key in sorted(found):
            news.health(healths[key], self._fleet.services[key])
        self._book.touch(hosts={event.host_id}, services=found)
        return [SendToNode(event.session_id, ev.Ack(event.sequence)), *self._publish(news, now)]

    def renew(self, event: ev.HeartbeatReceived, now: Instant) -> None:
        """Renew the lease for a heartbeat that has to wait for its turn behind a write of its own session."""
        session = self._sessions.check(event.session_id, event.host_id, event.boot_epoch)
        if isinstance(session, Session) and self._leases.state(session.host_id) is LeaseState.UP:
            self._renew(session, now, News())

    def _renew(self, session: Session, now: Instant, news: News) -> None:
        session.heard_at = self._heard[session.host_id] = now.monotonic
        if self._leases.renew(session.host_id, now.monotonic):
            self._fleet.set_lease(session.host_id, LeaseState.UP)
            news.add("host.up", f"host {session.host_id} is up again", session.host_id)

    def _admit_inventory(self, event: ev.InventoryReceived) -> tuple[Host, tuple[Service, ...]]:
        return self._fleet.admit(self._fleet.hosts[event.host_id], event.services)

    def _inventory(self, event: ev.InventoryReceived, now: Instant) -> list[Effect]:
        news = News()
        host, services = self._admit_inventory(event)
        self._fleet.put_host(host)
        self._put_services(event.host_id, services, news)
        return self._publish(news, now)

    def _put_services(self, host_id: str, services: tuple[Service, ...], news: News) -> None:
        before = {key: self._fleet.services[key] for key in self._fleet.service_ids(host_id)}
        touched = self._fleet.put_services(host_id, services, self._traffic)
        news.services(before, self._fleet.services, touched)
        self._book.touch(hosts={host_id}, services=touched)

    def _session_closed(self, event: ev.SessionClosed, now: Instant) -> list[Effect]:
        """The lease goes on: a node that reconnects in time was never away."""
        session = self._sessions.close(event.session_id)
        if session is None:
            return []
        news = News()
        self._put_commands(self._commands.after_loss(session.host_id, now), news)
        return self._publish(news, now)

    # --- time ----------------------------------------------------------------------------------

    def _tick(self, event: ev.Tick, now: Instant) -> list[Effect]:
        news = News()
        if event.paused_s:
            self._credit(event.paused_s, now, news)
        expiry = self._leases.expire(now.monotonic)
        for host_id, lease in sorted(expiry.moved.items()):
            self._fleet.set_lease(host_id, lease)
            news.add(f"host.{lease}", f"host {host_id} is {lease}: no heartbeat in time", host_id)
        self._book.touch(hosts=set(expiry.moved))
        if expiry.held:
            news.add("leases.held", f"{expiry.held} hosts fell silent at once: their leases are held for a grace")
        if expiry.released:
            news.add("leases.released", "leases run as usual again")
        self._weigh(self._fleet.verdicts.expire(now.monotonic), news)
        self._forget_old_measurements(now)
        return [*self._close_silent(now, news), *self._publish(news, now)]

    def _forget_old_measurements(self, now: Instant) -> None:
        """A lease may last longer than numbers mean anything."""
        old = {key for key in self._measured if now.monotonic - self._heard[key] >= self.terms.measured_s}
        for host_id in old:
            found = self._fleet.unmeasure(host_id)
            self._fleet.merge(found, self._traffic)
            self._book.touch(hosts={host_id}, services=found)
        self._measured -= old

    def _credit(self, pause_s: float, now: Instant, news: News) -> None:
        """Leases and streams are given the time in which nobody could be heard."""
        self._leases.credit(pause_s, now.monotonic)
        for session in self._sessions:
            session.heard_at = min(now.monotonic, session.heard_at + pause_s)
        news.add("leases.credited", f"the control plane stood still for {pause_s:.1f} s: leases are that much longer")

    def _close_silent(self, now: Instant, news: News) -> list[Effect]:
        effects: list[Effect] = []
        for session in self._sessions:
            if now.monotonic - session.heard_at >= self.terms.silence_s:
                self._sessions.close(session.session_id)
                self._put_commands(self._commands.after_loss(session.host_id, now), news)
                effects.append(ev.CloseSession(session.session_id, "no heartbeat for three lease times"))
        return effects

    # --- operators -----------------------------------------------------------------------------

    def _command_changes(self, command: Command) -> tuple[Change, ...]:
        if self._commands.known(command) is not None:
            return ()
        host = self._fleet.host(command.host_id)
        if command.service_id:
            self._fleet.service_on(command.host_id, command.service_id)
        changes: list[Change] = [Put(command), *self._commands.surplus()]
        availability = _AVAILABILITY_OF.get(command.kind, host.availability)
        if availability is not host.availability:
            changes.append(Put(durable_host(replace(host, availability=availability))))
        return tuple(changes)

    def _command_requested(self, command: Command, now: Instant) -> list[Effect]:
        known = self._commands.known(command)
        if known is not None:
            return [ev.Answer(known)]
        news = News()
        for surplus in self._commands.surplus():
            self._commands.drop(surplus.key)
        self._put_commands([command], news)
        if command.kind in _AVAILABILITY_OF:
            self._set_availability(command.host_id, _AVAILABILITY_OF[command.kind], news)
        session = self._sessions.of_host(command.host_id)
        sent = moved(command, CommandState.SENDING, now) if session is not None else None
        if session is None or sent is None:
            return [ev.Answer(command), *self._publish(news, now)]
        self._put_commands([sent], news)
        return [SendToNode(session.session_id, ev.Order(sent)), ev.Answer(sent), *self._publish(news, now)]

    def _after_result(self, event: ev.CommandResultReceived, now: Instant) -> Command | None:
        """The command after a result; None for one that is not known, not this host's, or moves nothing."""
        command = self._commands.find(event.command_id)
        if command is None or command.host_id != event.host_id:
            return None
        return moved(command, event.state, now, event.message)

    def _command_result(self, event: ev.CommandResultReceived, now: Instant) -> list[Effect]:
        after = self._after_result(event, now)
        if after is None:
            return []
        news = News()
        self._put_commands([after], news)
        return self._publish(news, now)

    def _put_commands(self, commands: Iterable[Command], news: News) -> None:
        for command in commands:
            self._commands.put(command)
            news.command(command)

    def _set_availability(self, host_id: str, availability: Availability, news: News) -> None:
        host = self._fleet.hosts[host_id]
        if host.availability is not availability:
            self._fleet.put_host(replace(host, availability=availability))
            news.add("host.availability", f"host {host_id} is {availability}", host_id)
            self._book.touch(hosts={host_id})

    def _forget_changes(self, host_id: str, now: Instant) -> tuple[Change, ...]:
        self._fleet.host(host_id)
        if self._leases.state(host_id) is LeaseState.UP:
            raise Conflict(f"host {host_id!r} is up: stop its node agent and wait for its lease to end, then forget it")
        services = (Delete(Kind.SERVICE, key) for key in sorted(self._fleet.service_ids(host_id)))
        ended = (Put(one) for one in self._commands.after_forgotten(host_id, now))
        return (*ended, *services, Delete(Kind.HOST, host_id))

    def _forget(self, host_id: str, now: Instant) -> list[Effect]:
        """The host is gone; should its node speak again, it is asked for a Hello and begins anew."""
        news, host = News(), self._fleet.hosts[host_id]
        self._put_commands(self._commands.after_forgotten(host_id, now), news)
        session = self._sessions.of_host(host_id)
        if session is not None:
            self._sessions.close(session.session_id)
        touched = self._fleet.drop_host(host_id, self._traffic)
        self._leases.forget(host_id)
        self._heard.pop(host_id, None)
        self._measured.discard(host_id)
        self._book.touch(hosts={host_id}, services=touched)
        news.add("host.forgotten", f"host {host_id} is forgotten", host_id)
        return [ev.Answer(host), *self._publish(news, now)]

    def _access_changes(self, event: ev.Access, now: Instant) -> tuple[Change, ...]:
        if isinstance(event, ev.AuditNoted):
            return (Append(event.audit),)
        return self.tokens.changes(event, now.unix_ms / 1000)

    def _access(self, event: ev.Access, now: Instant) -> list[Effect]:
        if isinstance(event, ev.AuditNoted):
            return [ev.Answer(None)]
        key, news = self.tokens.commit(event), News()
        self._book.touch_key(key.name)
        word = "created" if key.revoked_at is None else "revoked"
        news.add(f"token.{word}", f"token {key.name} is {word}")
        return [ev.Answer(key), *self._publish(news, now)]

    def _roles_loaded(self, roles: tuple[Role, ...], now: Instant) -> list[Effect]:
        before, self._roles = self._roles, {role.role_id: role for role in roles}
        changed = {key for key in before.keys() | self._roles.keys() if before.get(key) != self._roles.get(key)}
        news = News()
        if changed:
            news.add("roles.changed", f"roles changed: {', '.join(sorted(changed))}")
        self._book.touch_roles(changed)
        return [ev.Answer(len(changed)), *self._publish(news, now)]

    def _roles_refused(self, reason: str, now: Instant) -> list[Effect]:
        news = News()
        news.add("roles.refused", f"the roles stay as they are: {reason}")
        return news.announce(now, self.snapshot.revision)

    # --- gateways ------------------------------------------------------------------------------

    def _gateway(self, event: ev.GatewayConnected | ev.TrafficReported | ev.GatewayGone, now: Instant) -> list[Effect]:
        news = News()
        match event:
            case ev.GatewayConnected():
                moved_services = self._traffic.connect(event.stream_id, event.gateway_id)
            case ev.TrafficReported():
                ended = self._traffic.ended(event.stream_id, event.services)
                moved_services = self._traffic.report(event.stream_id, event.services)
                self._judge_traffic(ended, now, news)
            case ev.GatewayGone():
                moved_services = self._traffic.disconnect(event.stream_id)
        self._fleet.merge(moved_services, self._traffic)
        self._book.touch(services=set(moved_services))
        return self._publish(news, now)

    def _judge_traffic(self, ended: Mapping[str, tuple[int, int]], now: Instant, news: News) -> None:
        """Passive health: what requests that ended say about the services that they were for."""
        verdicts, differ = self._fleet.verdicts, set()
        for key, told in self._fleet.told_health(ended).items():
            what = Ended(*ended[key], busy=self._traffic.open(key) > 0)
            if verdicts.traffic(key, told, what, now.monotonic):
                differ.add(key)
        self._weigh(differ, news)

    def _measured_from_outside(self, event: ev.SamplesStored | ev.ProbesEnded, now: Instant) -> list[Effect]:
        news = News()
        match event:
            case ev.SamplesStored():
                self._book.touch(services=set(self._benchmarks.add(event.samples)))
            case ev.ProbesEnded():
                told = self._fleet.told_health(event.findings)
                self._weigh(self._fleet.verdicts.probed(event.findings, told), news)
        return self._publish(news, now)

    def _weigh(self, service_ids: AbstractSet[str], news: News) -> None:
        """Let verdicts count that are not the nodes' own: they change health alone."""
        before = {key: self._fleet.services[key].health for key in service_ids if key in self._fleet.services}
        self._fleet.merge(before, self._traffic)
        for key in sorted(before):
            news.health(before[key], self._fleet.services[key])
        self._book.touch(services=set(before))

    def _observed_due(self) -> list[Effect]:
        found = self._book.observed(self._fleet.hosts, self._fleet.services)
        return [] if found is None else [found]

    def _publish(self, news: News, now: Instant) -> list[Effect]:
        """What gateways and onlookers get to know."""
        found = self._book.shape(
            self._fleet.hosts, self._fleet.services, self._roles, self._benchmarks.summaries, self.tokens.good
        )
        announced = news.announce(now, self.snapshot.revision)
        return announced if found is None else [found, *announced]


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


def _refuse_services(session_id: str, services: tuple[Service, ...]) -> list[Effect] | None:
    """A refusal if the list of services makes no sense."""
    ids = [one.service_id for one in services]
    if not all(ids):
        message = "every service needs a service_id"
    elif twice := [key for key, count in Counter(ids).items() if count > 1]:
        message = f"service_id {twice[0]!r} is listed twice: service ids are unique in the cluster"
    else:
        return None
    return [SendToNode(session_id, ev.Reject(RejectReason.INVALID, message))]
