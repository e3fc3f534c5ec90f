"""The vocabulary of the control plane's core: what happened, what to do, what to store.

Events are named by what happened and go into `ClusterState.apply(event, now)`; effects are orders
and come out. Ids and times are arguments, so the same events give the same effects.

An event that changes what must outlive a restart is applied in two steps. The first answer is one
`Persist`, and nothing has changed yet; after the write the loop applies `Persisted(event)` and gets
everything else. That is how "persist before you send" holds by construction, and why a write that
fails leaves nothing to undo: it comes back as `PersistFailed(event)`. An operator then gets the
error; what a node told about itself counts nevertheless, and is stored when the store works again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

from geniehive.resources import (
    AccessKey,
    AuditEntry,
    Availability,
    BenchmarkSample,
    Command,
    CommandState,
    HealthStatus,
    Host,
    HostObserved,
    Observed,
    Role,
    Service,
    ServiceState,
    ServiceTraffic,
    SnapshotDelta,
)


class Instant(NamedTuple):
    """Now. Only `monotonic` (seconds) decides anything; `unix_ms` is for people to read."""

    monotonic: float
    unix_ms: int


# --- what to store -----------------------------------------------------------------------------


class Kind(StrEnum):
    """What a stored thing is."""

    HOST = "host"
    SERVICE = "service"
    ROLE = "role"
    COMMAND = "command"
    SAMPLE = "sample"
    ACCESS_KEY = "access_key"
    AUDIT = "audit"


_KINDS: Mapping[type, Kind] = {
    Host: Kind.HOST,
    Service: Kind.SERVICE,
    Role: Kind.ROLE,
    Command: Kind.COMMAND,
    BenchmarkSample: Kind.SAMPLE,
    AccessKey: Kind.ACCESS_KEY,
}


@dataclass(frozen=True, slots=True)
class Put:
    """Store a thing, whole, in place of what has its id."""

    resource: Host | Service | Role | Command | BenchmarkSample | AccessKey

    @property
    def kind(self) -> Kind:
        """What the thing is."""
        return _KINDS[type(self.resource)]

    @property
    def key(self) -> str:
        """The thing's id."""
        match self.resource:
            case Host(host_id=key) | Service(service_id=key) | Role(role_id=key):
                return key
            case Command(command_id=key) | BenchmarkSample(sample_id=key) | AccessKey(name=key):
                return key


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove a thing; no error if it is not there."""

    kind: Kind
    key: str


@dataclass(frozen=True, slots=True)
class Append:
    """Write down, for ever, who did what; in one transaction with what was done."""

    entry: AuditEntry
    kind: Kind = Kind.AUDIT
    key: str = ""


Change = Put | Delete | Append


@dataclass(frozen=True, slots=True)
class Registry:
    """What the store held when the control plane started."""

    hosts: Sequence[Host] = ()
    services: Sequence[Service] = ()
    roles: Sequence[Role] = ()
    commands: Sequence[Command] = ()
    samples: Sequence[BenchmarkSample] = ()
    access_keys: Sequence[AccessKey] = ()


class Store(Protocol):
    """What the loop asks of the store."""

    async def apply(self, changes: Sequence[Change]) -> None:
        """Make the changes in one transaction. Raises StoreError, within seconds, with nothing changed."""


# --- events: from node agents ------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class HelloReceived:
    """A node agent registered; `session_id` is its stream's. A repeat on a stream is the same again."""

    session_id: str
    host: Host
    services: tuple[Service, ...] = ()
    open_command_ids: tuple[str, ...] = ()
    protocol_version: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatReceived:
    """A node agent renewed its lease and told all that it measured."""

    session_id: str
    host_id: str
    boot_epoch: int
    sequence: int
    host: HostObserved
    services: tuple[ServiceState, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class InventoryReceived:
    """A node agent told all its services, after a change."""

    session_id: str
    host_id: str
    boot_epoch: int
    services: tuple[Service, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandResultReceived:
    """A node agent told how a command goes."""

    session_id: str
    host_id: str
    boot_epoch: int
    command_id: str
    state: CommandState
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionClosed:
    """A node's stream ended, whoever ended it."""

    session_id: str


# --- events: from gateways ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayConnected:
    """A gateway worker opened a Watch stream; `stream_id` is the stream's, the other the worker's."""

    stream_id: str
    gateway_id: str
    version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficReported:
    """A gateway worker told all its traffic."""

    stream_id: str
    services: tuple[ServiceTraffic, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayGone:
    """A gateway's stream ended: what it had open counts no more."""

    stream_id: str


# --- events: from operators --------------------------------------------------------------------
# Their `ask` is answered by `Answer`, or by the GenieHiveError that `apply` raises.


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandRequested:
    """An operator orders something of a node. Answer: the Command as stored; a repeat of an id gets
    the first one. DRAIN and RESUME set the host's availability in the same write.

    Raises NotFound (host, service), Conflict (the id was used for something else), StoreError.
    `audit` is written down with it, here and below.
    """

    command: Command
    audit: AuditEntry | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AvailabilityRequested:
    """An operator sets whether a host is offered for work. Answer: the Host. Raises NotFound, StoreError."""

    host_id: str
    availability: Availability


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetRequested:
    """An operator forgets a host that is not up. Answer: the Host. Raises NotFound, Conflict, StoreError."""

    host_id: str
    audit: AuditEntry | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRequested:
    """An administrator makes a token. Answer: the AccessKey. Raises Conflict, StoreError."""

    key: AccessKey
    audit: AuditEntry | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokeRequested:
    """An administrator ends a token, at a time in Unix seconds. Answer: the AccessKey. Raises NotFound, StoreError."""

    name: str
    at: int
    audit: AuditEntry | None = None


@dataclass(frozen=True, slots=True)
class AuditNoted:
    """Something was tried, and failed, or changed nothing that the loop owns. Answer: None. Raises StoreError."""

    audit: AuditEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class RolesLoaded:
    """The role file was read: these are all the roles. Answer: how many changed. Raises StoreError."""

    roles: tuple[Role, ...]


@dataclass(frozen=True, slots=True)
class RolesRefused:
    """The role file changed and is no good; the roles stay as they are. `reason` is one line with the fix."""

    reason: str


# --- events: from benchmarks and probes --------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SamplesStored:
    """Benchmark samples are stored; from now on they count."""

    samples: tuple[BenchmarkSample, ...]


class Finding(NamedTuple):
    """What one probe found. `status` None says nothing about the service's health."""

    status: HealthStatus | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ProbesEnded:
    """A round of probes is over: what each service was found to be, by id."""

    findings: Mapping[str, Finding]


# --- events: from the loop itself --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed. `paused_s`: how long the control plane itself stood still, and so could hear nobody."""

    paused_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ObservedDue:
    """It is time to publish the measurements that moved."""


@dataclass(frozen=True, slots=True)
class UnsavedDue:
    """It is time to try again to store what nodes told while the store refused."""


Access = TokenRequested | RevokeRequested | AuditNoted

FromNode = HelloReceived | InventoryReceived | CommandResultReceived

OfOperator = CommandRequested | AvailabilityRequested | ForgetRequested | RolesLoaded | Access

Durable = FromNode | OfOperator | UnsavedDue


@dataclass(frozen=True, slots=True)
class Persisted:
    """The changes of an event are stored."""

    event: Durable
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class PersistFailed:
    """The changes of an event could not be stored; `reason` is the store's."""

    event: Durable
    changes: tuple[Change, ...]
    reason: str


Event = (
    Durable
    | HeartbeatReceived
    | SessionClosed
    | RolesRefused
    | GatewayConnected
    | TrafficReported
    | GatewayGone
    | SamplesStored
    | ProbesEnded
    | Tick
    | ObservedDue
    | Persisted
    | PersistFailed
)


# --- messages to nodes -------------------------------------------------------------------------


class RejectReason(StrEnum):
    """Why a node's message was refused."""

    UNKNOWN_SESSION = "unknown_session"
    FENCED = "fenced"
    PROTOCOL_VERSION = "protocol_version"
    INVALID = "invalid"
    NOT_SERVING = "not_serving"


@dataclass(frozen=True, slots=True)
class Welcome:
    """The host is registered; times in milliseconds."""

    protocol_version: int
    lease_ttl_ms: int
    heartbeat_interval_ms: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Ack:
    """The heartbeat was applied."""

    sequence: int


@dataclass(frozen=True, slots=True)
class Order:
    """A command for the node."""

    command: Command


@dataclass(frozen=True, slots=True)
class Reject:
    """A refusal: why, for programs and for people."""

    reason: RejectReason
    message: str


ToNode = Welcome | Ack | Order | Reject


# --- effects -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Persist:
    """Store these, then apply `Persisted`, or on failure `PersistFailed`, with event and changes. Always alone."""

    changes: tuple[Change, ...]
    event: Durable


@dataclass(frozen=True, slots=True)
class SendToNode:
    """Put a message on a session's stream; a session that is gone is no error."""

    session_id: str
    message: ToNode


@dataclass(frozen=True, slots=True)
class CloseSession:
    """End a session's stream, after what was sent to it."""

    session_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Publish:
    """Tell the gateways a change of shape; `revision` is the one after it."""

    epoch: int
    revision: int
    delta: SnapshotDelta


@dataclass(frozen=True, slots=True)
class PublishObserved:
    """Tell the gateways measurements that moved, by id; the revision stays."""

    epoch: int
    revision: int
    services: Mapping[str, Observed]
    hosts: Mapping[str, HostObserved]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterEvent:
    """Something happened in the cluster, for people and their tools.

    `kind` is one of host.up, host.stale, host.offline, host.forgotten, host.fenced, host.availability,
    service.added, service.removed, service.<health>, command.<state>, roles.changed, roles.refused,
    token.created, token.revoked, member.pending, member.approved, member.joined, member.removed, certificate.ends,
    leases.held, leases.released, leases.credited, store.failed, store.works.
    """

    at_ms: int
    kind: str
    message: str
    host_id: str = ""
    service_id: str = ""
    revision: int = 0


@dataclass(frozen=True, slots=True)
class Announce:
    """Tell the operators who watch."""

    event: ClusterEvent


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of an operator's event."""

    value: object


Effect = Persist | SendToNode | CloseSession | Publish | PublishObserved | Announce | Answer
