"""[pure] What nodes say: sessions, heartbeats, inventories, and how commands ended.

A Hello, an inventory and a result count in two steps, for they may have to be stored: `refuse`, `changes`, and then
`commit` (see `controlplane.cluster`). A heartbeat and the end of a stream count at once.
"""

from __future__ import annotations

from collections import Counter
from typing import assert_never

from msgspec.structs import replace

from controlplane import events as ev
from controlplane.books import Books
from controlplane.commands import has_ended, moved
from controlplane.events import Change, Effect, Instant, Put, RejectReason, SendToNode
from controlplane.news import News
from controlplane.sessions import Session, fenced
from geniehive.resources import Command, Host, LeaseState, Service

PROTOCOL_VERSION = 1


class NodeEvents:
    """Decides what a node's word leads to."""

    def __init__(self, books: Books) -> None:
        self._books = books

    def refuse(self, event: ev.FromNode) -> list[Effect] | None:
        """What is answered instead where the event must not count; None where it may."""
        if isinstance(event, ev.HelloReceived):
            return self._refuse_hello(event)
        found = self._books.sessions.check(event.session_id, event.host_id, event.boot_epoch)
        if not isinstance(found, Session):
            return [SendToNode(event.session_id, found)]
        return _refuse_services(event.session_id, event.services) if isinstance(event, ev.InventoryReceived) else None

    def changes(self, event: ev.FromNode, now: Instant) -> tuple[Change, ...]:
        """What must be stored before the event may count."""
        match event:
            case ev.HelloReceived():
                return self._books.fleet.changes(*self._books.fleet.admit(event.host, event.services))
            case ev.InventoryReceived():
                return self._books.fleet.changes(*self._admit_inventory(event))
            case ev.CommandResultReceived():
                after = self._after_result(event, now)
                return (Put(after),) if after is not None and has_ended(after) else ()
            case _:
                assert_never(event)

    def commit(self, event: ev.FromNode, now: Instant) -> list[Effect]:
        """The event counts."""
        match event:
            case ev.HelloReceived():
                return self._hello(event, now)
            case ev.InventoryReceived():
                return self._inventory(event, now)
            case ev.CommandResultReceived():
                return self._command_result(event, now)
            case _:
                assert_never(event)

    def _refuse_hello(self, event: ev.HelloReceived) -> list[Effect] | None:
        key, host = event.session_id, event.host
        if event.protocol_version < PROTOCOL_VERSION:
            message = f"protocol version {event.protocol_version} is not spoken here: update the node agent"
            return [SendToNode(key, ev.Reject(RejectReason.PROTOCOL_VERSION, message))]
        if not host.host_id:
            message = "a Hello needs a host_id: set node.host_id"
            return [SendToNode(key, ev.Reject(RejectReason.INVALID, message))]
        live = self._books.sessions.of_host(host.host_id)
        up = self._books.leases.state(host.host_id) is LeaseState.UP
        if live is not None and up and live.session_id != key and host.boot_epoch < live.boot_epoch:
            self._books.sessions.fence(key)
            return [SendToNode(key, fenced(host.host_id)), ev.CloseSession(key, "fenced by a later agent")]
        return _refuse_services(key, event.services)

    def _hello(self, event: ev.HelloReceived, now: Instant) -> list[Effect]:
        host, services = self._books.fleet.admit(event.host, event.services)
        news = News()
        effects = self._take_over(event, now, news)
        if self._books.leases.renew(host.host_id, now.monotonic) or host.host_id not in self._books.fleet.hosts:
            news.add("host.up", f"host {host.host_id} is up", host.host_id)
        self._books.heard[host.host_id] = now.monotonic
        self._books.fleet.put_host(replace(host, lease=LeaseState.UP, heartbeat_age_seconds=None))
        self._put_services(host.host_id, services, news)
        effects.append(SendToNode(event.session_id, self._welcome()))
        changed, resend = self._books.commands.after_hello(host.host_id, event.open_command_ids, now)
        self._books.put_commands(changed, news)
        effects += [SendToNode(event.session_id, ev.Order(one)) for one in resend]
        return effects + self._books.publish(news, now)

    def _take_over(self, event: ev.HelloReceived, now: Instant, news: News) -> list[Effect]:
        """Let the session speak for its host; an older agent is fenced, an older stream of the same one closed."""
        session = Session(event.session_id, event.host.host_id, event.host.boot_epoch, now.monotonic)
        before = self._books.sessions.open(session)
        if before is None:
            return []
        effects: list[Effect] = []
        if before.boot_epoch < session.boot_epoch:
            self._books.sessions.fence(before.session_id)
            effects.append(SendToNode(before.session_id, fenced(session.host_id)))
            news.add("host.fenced", f"a later agent speaks for host {session.host_id}", session.host_id)
        return [*effects, ev.CloseSession(before.session_id, "a newer stream speaks for the host")]

    def _welcome(self) -> ev.Welcome:
        return ev.Welcome(
            protocol_version=PROTOCOL_VERSION,
            lease_ttl_ms=round(self._books.terms.ttl_s * 1000),
            heartbeat_interval_ms=round(self._books.terms.heartbeat_interval_s * 1000),
            epoch=self._books.snapshot.epoch,
        )

    def heartbeat(self, event: ev.HeartbeatReceived, now: Instant) -> list[Effect]:
        """The lease is renewed, and what the node measured counts."""
        session = self._books.sessions.check(event.session_id, event.host_id, event.boot_epoch)
        if not isinstance(session, Session):
            return [SendToNode(event.session_id, session)]
        news = News()
        self._renew(session, now, news)
        before = self._books.fleet.services
        healths = {one.service_id: before[one.service_id].health for one in event.services if one.service_id in before}
        found = self._books.fleet.measure(event.host_id, event.host, event.services)
        self._books.measured.add(event.host_id)
        self._books.fleet.merge(found, self._books.traffic)
        for key in sorted(found):
            news.health(healths[key], self._books.fleet.services[key])
        self._books.picture.touch(hosts={event.host_id}, services=found)
        return [SendToNode(event.session_id, ev.Ack(event.sequence)), *self._books.publish(news, now)]

    def renew(self, event: ev.HeartbeatReceived, now: Instant) -> None:
        """Renew the lease for a heartbeat that has to wait for its turn behind a write of its own session."""
        session = self._books.sessions.check(event.session_id, event.host_id, event.boot_epoch)
        if isinstance(session, Session) and self._books.leases.state(session.host_id) is LeaseState.UP:
            self._renew(session, now, News())

    def _renew(self, session: Session, now: Instant, news: News) -> None:
        session.heard_at = self._books.heard[session.host_id] = now.monotonic
        if self._books.leases.renew(session.host_id, now.monotonic):
            self._books.fleet.set_lease(session.host_id, LeaseState.UP)
            news.add("host.up", f"host {session.host_id} is up again", session.host_id)

    def _admit_inventory(self, event: ev.InventoryReceived) -> tuple[Host, tuple[Service, ...]]:
        return self._books.fleet.admit(self._books.fleet.hosts[event.host_id], event.services)

    def _inventory(self, event: ev.InventoryReceived, now: Instant) -> list[Effect]:
        news = News()
        host, services = self._admit_inventory(event)
        self._books.fleet.put_host(host)
        self._put_services(event.host_id, services, news)
        return self._books.publish(news, now)

    def _put_services(self, host_id: str, services: tuple[Service, ...], news: News) -> None:
        before = {key: self._books.fleet.services[key] for key in self._books.fleet.service_ids(host_id)}
        touched = self._books.fleet.put_services(host_id, services, self._books.traffic)
        news.services(before, self._books.fleet.services, touched)
        self._books.picture.touch(hosts={host_id}, services=touched)

    def session_closed(self, event: ev.SessionClosed, now: Instant) -> list[Effect]:
        """The lease goes on: a node that reconnects in time was never away."""
        session = self._books.sessions.close(event.session_id)
        if session is None:
            return []
        news = News()
        self._books.put_commands(self._books.commands.after_loss(session.host_id, now), news)
        return self._books.publish(news, now)

    def _after_result(self, event: ev.CommandResultReceived, now: Instant) -> Command | None:
        """The command after a result; None for one that is not known, not this host's, or moves nothing."""
        command = self._books.commands.find(event.command_id)
        if command is None or command.host_id != event.host_id:
            return None
        return moved(command, event.state, now, event.message)

    def _command_result(self, event: ev.CommandResultReceived, now: Instant) -> list[Effect]:
        after = self._after_result(event, now)
        if after is None:
            return []
        news = News()
        self._books.put_commands([after], news)
        return self._books.publish(news, now)


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
