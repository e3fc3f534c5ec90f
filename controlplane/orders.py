"""[pure] What operators order: commands to nodes, availability, roles, access, and hosts that are to be forgotten.

An order counts in two steps: `changes` says what has to be stored, or raises; `commit` follows once it is stored.
"""

from __future__ import annotations

from msgspec.structs import replace

from controlplane import events as ev
from controlplane.books import Books
from controlplane.commands import moved
from controlplane.events import Append, Change, Delete, Effect, Instant, Kind, Put, SendToNode
from controlplane.fleet import durable_host
from controlplane.news import News
from geniehive.errors import Conflict
from geniehive.resources import Availability, Command, CommandKind, CommandState, LeaseState, Role

_AVAILABILITY_OF = {CommandKind.DRAIN: Availability.DRAINING, CommandKind.RESUME: Availability.AVAILABLE}


class Orders:
    """Decides what an order leads to."""

    def __init__(self, books: Books) -> None:
        self._books = books

    def changes(self, event: ev.OfOperator, now: Instant) -> tuple[Change, ...]:
        """What must be stored before the order may count. Raises for orders that make no sense."""
        match event:
            case ev.CommandRequested():
                return self._command_changes(event.command)
            case ev.AvailabilityRequested():
                host = self._books.fleet.host(event.host_id)
                after_host = replace(host, availability=event.availability)
                return () if after_host == host else (Put(durable_host(after_host)),)
            case ev.ForgetRequested():
                return self._forget_changes(event.host_id, now)
            case ev.RolesLoaded():
                wanted = {role.role_id: role for role in event.roles}
                puts = [Put(role) for key, role in wanted.items() if self._books.roles.get(key) != role]
                return (*puts, *(Delete(Kind.ROLE, key) for key in self._books.roles if key not in wanted))
            case _:
                return self._access_changes(event, now)

    def commit(self, event: ev.OfOperator, now: Instant) -> list[Effect]:
        """The order counts."""
        match event:
            case ev.CommandRequested():
                return self._command_requested(event.command, now)
            case ev.AvailabilityRequested():
                news = News()
                self._books.set_availability(event.host_id, event.availability, news)
                return [ev.Answer(self._books.fleet.hosts[event.host_id]), *self._books.publish(news, now)]
            case ev.ForgetRequested():
                return self._forget(event.host_id, now)
            case ev.RolesLoaded():
                return self._roles_loaded(event.roles, now)
            case _:
                return self._access(event, now)

    def _command_changes(self, command: Command) -> tuple[Change, ...]:
        if self._books.commands.known(command) is not None:
            return ()
        host = self._books.fleet.host(command.host_id)
        if command.service_id:
            self._books.fleet.service_on(command.host_id, command.service_id)
        changes: list[Change] = [Put(command), *self._books.commands.surplus()]
        availability = _AVAILABILITY_OF.get(command.kind, host.availability)
        if availability is not host.availability:
            changes.append(Put(durable_host(replace(host, availability=availability))))
        return tuple(changes)

    def _command_requested(self, command: Command, now: Instant) -> list[Effect]:
        known = self._books.commands.known(command)
        if known is not None:
            return [ev.Answer(known)]
        news = News()
        for surplus in self._books.commands.surplus():
            self._books.commands.drop(surplus.key)
        self._books.put_commands([command], news)
        if command.kind in _AVAILABILITY_OF:
            self._books.set_availability(command.host_id, _AVAILABILITY_OF[command.kind], news)
        session = self._books.sessions.of_host(command.host_id)
        sent = moved(command, CommandState.SENDING, now) if session is not None else None
        if session is None or sent is None:
            return [ev.Answer(command), *self._books.publish(news, now)]
        self._books.put_commands([sent], news)
        return [SendToNode(session.session_id, ev.Order(sent)), ev.Answer(sent), *self._books.publish(news, now)]

    def _forget_changes(self, host_id: str, now: Instant) -> tuple[Change, ...]:
        self._books.fleet.host(host_id)
        if self._books.leases.state(host_id) is LeaseState.UP:
            raise Conflict(f"host {host_id!r} is up: stop its node agent and wait for its lease to end, then forget it")
        services = (Delete(Kind.SERVICE, key) for key in sorted(self._books.fleet.service_ids(host_id)))
        ended = (Put(one) for one in self._books.commands.after_forgotten(host_id, now))
        return (*ended, *services, Delete(Kind.HOST, host_id))

    def _forget(self, host_id: str, now: Instant) -> list[Effect]:
        """The host is gone; should its node speak again, it is asked for a Hello and begins anew."""
        news, host = News(), self._books.fleet.hosts[host_id]
        self._books.put_commands(self._books.commands.after_forgotten(host_id, now), news)
        session = self._books.sessions.of_host(host_id)
        if session is not None:
            self._books.sessions.close(session.session_id)
        touched = self._books.fleet.drop_host(host_id, self._books.traffic)
        self._books.leases.forget(host_id)
        self._books.heard.pop(host_id, None)
        self._books.measured.discard(host_id)
        self._books.picture.touch(hosts={host_id}, services=touched)
        news.add("host.forgotten", f"host {host_id} is forgotten", host_id)
        return [ev.Answer(host), *self._books.publish(news, now)]

    def _access_changes(self, event: ev.Access, now: Instant) -> tuple[Change, ...]:
        if isinstance(event, ev.AuditNoted):
            return (Append(event.audit),)
        return self._books.tokens.changes(event, now.unix_ms / 1000)

    def _access(self, event: ev.Access, now: Instant) -> list[Effect]:
        if isinstance(event, ev.AuditNoted):
            return [ev.Answer(None)]
        key, news = self._books.tokens.commit(event), News()
        self._books.picture.touch_key(key.name)
        word = "created" if key.revoked_at is None else "revoked"
        news.add(f"token.{word}", f"token {key.name} is {word}")
        return [ev.Answer(key), *self._books.publish(news, now)]

    def _roles_loaded(self, roles: tuple[Role, ...], now: Instant) -> list[Effect]:
        before, after = self._books.roles, {role.role_id: role for role in roles}
        self._books.roles = after
        changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
        news = News()
        if changed:
            news.add("roles.changed", f"roles changed: {', '.join(sorted(changed))}")
        self._books.picture.touch_roles(changed)
        return [ev.Answer(len(changed)), *self._books.publish(news, now)]

    def roles_refused(self, reason: str, now: Instant) -> list[Effect]:
        """The file of roles makes no sense; those that are there stay."""
        news = News()
        news.add("roles.refused", f"the roles stay as they are: {reason}")
        return news.announce(now, self._books.snapshot.revision)
