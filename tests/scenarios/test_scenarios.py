"""Scenarios of the control plane's core as text: an order, a line `----`, and the effects that it must have.

    GENIEHIVE_REWRITE=1 pytest tests/scenarios      writes the effects anew; read the diff

Orders, with times in seconds and `key=value` for what differs from the usual:

    start [hosts=a,b] [services=a/chat] [commands=a:c1]    a new control plane that restored these
    hello SESSION HOST EPOCH [services=..] [open=..]        heartbeat SESSION HOST EPOCH [health=..] [running=..]
    inventory SESSION HOST EPOCH [services=..]              result SESSION HOST EPOCH COMMAND STATE
    close SESSION            advance SECONDS [beat=S:HOST,..]   jump SECONDS (the wall clock alone)
    pause SECONDS (the control plane itself stands still)
    order HOST COMMAND [kind=load] [service=..]             forget HOST        availability HOST WORD
    gateway STREAM WORKER    report STREAM SERVICE=IN_FLIGHT ..     gone STREAM     observed
    store works|fails        roles NAME ..                  state

`advance` ticks every quarter of a second and lets the sessions of `beat` send a heartbeat every five seconds.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from controlplane import events as ev
from controlplane.cluster import ClusterState
from controlplane.leases import LeaseTerms
from geniehive.errors import GenieHiveError
from geniehive.resources import (
    Availability,
    Command,
    CommandKind,
    CommandState,
    Health,
    HealthStatus,
    Host,
    HostObserved,
    Observed,
    Role,
    Service,
    ServiceState,
    ServiceTraffic,
)

FILES = sorted(Path(__file__).parent.glob("*.txt"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_scenario_has_the_effects_that_it_tells(path: Path) -> None:
    text = path.read_text()
    found = replay(text)
    if os.environ.get("GENIEHIVE_REWRITE"):
        path.write_text(found)
    else:
        assert found == text


def replay(text: str) -> str:
    """The text with every expectation replaced by what really happens."""
    world, out, expecting = World(), [], False
    for line in text.splitlines():
        if expecting:
            expecting = bool(line)
            if line:
                continue
        out.append(line)
        if line and not line.startswith(("#", "----")):
            world.run(line)
        elif line == "----":
            out += world.told or ["nothing"]
            world.told, expecting = [], True
    return "\n".join(out) + "\n"


class World:
    """A control plane without I/O, and a clock that moves when told."""

    def __init__(self) -> None:
        self.now = ev.Instant(0.0, 1_000)
        self.told: list[str] = []
        self.store_works = True
        self.sequence = 0
        self.state = self._state(ev.Registry())

    def run(self, line: str) -> None:
        words = [word for word in line.split() if "=" not in word]
        options = dict(word.split("=", 1) for word in line.split() if "=" in word)
        try:
            getattr(self, f"do_{words[0]}")(*words[1:], **options)
        except GenieHiveError as error:
            self.told.append(f"{type(error).__name__}: {error.message}")

    def apply(self, event: ev.Event) -> None:
        for effect in self.state.apply(event, self.now):
            if not isinstance(effect, ev.Persist):
                self.told.append(words_of(effect))
                continue
            self.told.append("persist " + ", ".join(change_words(one) for one in effect.changes))
            if self.store_works:
                self.apply(ev.Persisted(effect.event, effect.changes))
            else:
                self.apply(ev.PersistFailed(effect.event, effect.changes, "disk full"))

    def _state(self, registry: ev.Registry) -> ClusterState:
        return ClusterState(LeaseTerms(ttl_s=15, grace_s=60, heartbeat_interval_s=5), 7, registry, self.now)

    # --- orders ---

    def do_start(self, hosts: str = "", services: str = "", commands: str = "") -> None:
        orders = [one.split(":") for one in _list(commands)]
        self.state = self._state(
            ev.Registry(
                hosts=[Host(host_id=key) for key in _list(hosts)],
                services=[_service(key, key.split("/")[0]) for key in _list(services)],
                commands=[Command(command_id=key, host_id=host, kind=CommandKind.LOAD) for host, key in orders],
            )
        )

    def do_hello(self, session: str, host: str, epoch: str, services: str = "", open: str = "", version: str = "1"):  # noqa: A002
        self.apply(
            ev.HelloReceived(
                session_id=session,
                host=Host(host_id=host, boot_epoch=int(epoch)),
                services=tuple(_service(key, host) for key in _list(services)),
                open_command_ids=tuple(_list(open)),
                protocol_version=int(version),
            )
        )

    def do_heartbeat(self, session: str, host: str, epoch: str, health: str = "healthy", running: str = "0") -> None:
        self.sequence += 1
        self.apply(
            ev.HeartbeatReceived(
                session_id=session,
                host_id=host,
                boot_epoch=int(epoch),
                sequence=self.sequence,
                host=HostObserved(),
                services=tuple(
                    ServiceState(
                        service_id=key,
                        health=Health(status=HealthStatus(health)),
                        observed=Observed(running=int(running)),
                    )
                    for key, one in self.state.snapshot.services.items()
                    if one.host_id == host
                ),
            )
        )

    def do_inventory(self, session: str, host: str, epoch: str, services: str = "") -> None:
        found = tuple(_service(key, host) for key in _list(services))
        self.apply(ev.InventoryReceived(session_id=session, host_id=host, boot_epoch=int(epoch), services=found))

    def do_result(self, session: str, host: str, epoch: str, command: str, state: str) -> None:
        self.apply(
            ev.CommandResultReceived(
                session_id=session,
                host_id=host,
                boot_epoch=int(epoch),
                command_id=command,
                state=CommandState(state),
            )
        )

    def do_close(self, session: str) -> None:
        self.apply(ev.SessionClosed(session_id=session))

    def do_advance(self, seconds: str, beat: str = "") -> None:
        for step in range(1, round(float(seconds) * 4) + 1):
            self.now = ev.Instant(self.now.monotonic + 0.25, self.now.unix_ms + 250)
            before = len(self.told)
            if step % 20 == 0:
                for one in _list(beat):
                    session, host = one.split(":")
                    self.do_heartbeat(session, host, "1")
            self.told[before:] = [line for line in self.told[before:] if " ack " not in line]
            before = len(self.told)
            self.apply(ev.Tick())
            self.told[before:] = [f"+{step / 4:g}s {line}" for line in self.told[before:]]

    def do_jump(self, seconds: str) -> None:
        self.now = ev.Instant(self.now.monotonic, self.now.unix_ms + int(seconds) * 1000)

    def do_pause(self, seconds: str) -> None:
        self.now = ev.Instant(self.now.monotonic + float(seconds), self.now.unix_ms + int(seconds) * 1000)
        self.apply(ev.Tick(paused_s=float(seconds)))

    def do_order(self, host: str, command: str, kind: str = "load", service: str = "") -> None:
        wanted = Command(command_id=command, host_id=host, kind=CommandKind(kind), service_id=service)
        self.apply(ev.CommandRequested(command=wanted))

    def do_forget(self, host: str) -> None:
        self.apply(ev.ForgetRequested(host_id=host))

    def do_availability(self, host: str, word: str) -> None:
        self.apply(ev.AvailabilityRequested(host_id=host, availability=Availability(word)))

    def do_roles(self, *names: str) -> None:
        self.apply(ev.RolesLoaded(roles=tuple(Role(role_id=name) for name in names)))

    def do_gateway(self, stream: str, worker: str) -> None:
        self.apply(ev.GatewayConnected(stream_id=stream, gateway_id=worker))

    def do_report(self, stream: str, **in_flight: str) -> None:
        services = tuple(ServiceTraffic(service_id=key, in_flight=int(n)) for key, n in in_flight.items())
        self.apply(ev.TrafficReported(stream_id=stream, services=services))

    def do_gone(self, stream: str) -> None:
        self.apply(ev.GatewayGone(stream_id=stream))

    def do_observed(self) -> None:
        self.apply(ev.ObservedDue())

    def do_retry(self) -> None:
        self.apply(ev.UnsavedDue())

    def do_store(self, how: str) -> None:
        self.store_works = how == "works"

    def do_state(self) -> None:
        snapshot = self.state.snapshot
        self.told += [f"host {one.host_id} {one.lease} {one.availability}" for one in snapshot.hosts.values()]
        self.told += [f"service {one.service_id} {one.health.status}" for one in snapshot.services.values()]
        self.told += [f"command {one.command_id} {one.state}" for one in self.state.commands]


def _list(words: str) -> list[str]:
    return words.split(",") if words else []


def _service(service_id: str, host: str) -> Service:
    return Service(service_id=service_id, host_id=host)


def words_of(effect: ev.Effect) -> str:
    match effect:
        case ev.SendToNode(session, message):
            return f"send {session} {message_words(message)}"
        case ev.CloseSession(session, reason):
            return f"close {session}: {reason}"
        case ev.Publish(_, revision, delta):
            return f"publish {delta.base_revision}->{revision} {delta_words(delta)}"
        case ev.PublishObserved(_, _, services, _):
            return "measured " + ", ".join(
                f"{key} running={one.running} in_flight={one.in_flight}" for key, one in services.items()
            )
        case ev.Announce(event):
            return f"announce {event.kind} {event.message}"
        case ev.Answer(value):
            return f"answer {answer_words(value)}"
    raise AssertionError(effect)


def message_words(message: ev.ToNode) -> str:
    match message:
        case ev.Ack(sequence):
            return f"ack {sequence}"
        case ev.Order(command):
            return f"order {command.kind} {command.command_id}"
        case ev.Reject(reason, _):
            return f"reject {reason}"
        case _:
            return "welcome"


def delta_words(delta) -> str:
    words = [f"host {one.host_id} is {one.lease} {one.availability}" for one in delta.hosts]
    words += [f"service {one.service_id} is {one.health.status}" for one in delta.services]
    words += [f"role {one.role_id}" for one in delta.roles]
    gone = (*delta.removed_host_ids, *delta.removed_service_ids, *delta.removed_role_ids)
    return ", ".join([*words, *(f"{key} is gone" for key in gone)])


def answer_words(value: object) -> str:
    match value:
        case Command():
            return f"{value.kind} {value.command_id} is {value.state}"
        case Host():
            return f"host {value.host_id} is {value.lease} {value.availability}"
        case _:
            return str(value)


def change_words(change: ev.Change) -> str:
    state = f" {change.resource.state}" if isinstance(change, ev.Put) and isinstance(change.resource, Command) else ""
    return f"{'put' if isinstance(change, ev.Put) else 'delete'} {change.kind} {change.key}{state}"
