"""[pure] What happens to a node agent, and what it does about it: the vocabulary between core, loop and session.

Events are named by what happened, effects are orders. Neither knows the wire: `nodeagent.session` translates.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from geniehive.resources import Command, CommandState, Host, HostObserved, Service, ServiceState


class RejectReason(StrEnum):
    """Why the control plane refused a message; the twin of the enum in node_service.proto."""

    UNKNOWN_SESSION = "unknown_session"
    FENCED = "fenced"
    PROTOCOL_VERSION = "protocol_version"
    INVALID = "invalid"
    NOT_SERVING = "not_serving"


class Level(StrEnum):
    """How loud a line for the operator is."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


# --- events ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Connected:
    """A stream to the control plane is open."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The stream ended, or could not be opened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcomed:
    """The host is registered: session, and the times that the control plane wants, in seconds."""

    session_id: str
    lease_ttl_s: float
    heartbeat_interval_s: float
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class Acked:
    """A heartbeat was applied."""

    sequence: int


@dataclass(frozen=True, slots=True)
class Rejected:
    """A message was refused; `message` is for people."""

    reason: RejectReason
    message: str = ""


@dataclass(frozen=True, slots=True)
class CommandReceived:
    """An order came, for the first time or again."""

    command: Command


@dataclass(frozen=True, slots=True)
class CommandNotUnderstood:
    """An order came that this version does not know."""

    command_id: str


@dataclass(frozen=True, slots=True)
class CommandEnded:
    """A command that was started is done (`failed` False) or not; `message` is for the operator."""

    command_id: str
    failed: bool = False
    message: str = ""


@dataclass(frozen=True, slots=True)
class Looked:
    """A service as it is now, whether it answers or not."""

    service: Service


@dataclass(frozen=True, slots=True)
class ServiceGone:
    """A discovered service is not there any more."""

    service_id: str


@dataclass(frozen=True, slots=True)
class HostMeasured:
    """New measurements of the host."""

    observed: HostObserved


@dataclass(frozen=True, slots=True)
class HostFound:
    """What the host is, as known now: facts, address, notes. Its measurements are not looked at."""

    host: Host


@dataclass(frozen=True, slots=True)
class Tick:
    """Time went by."""


Event: TypeAlias = (
    Connected
    | Disconnected
    | Welcomed
    | Acked
    | Rejected
    | CommandReceived
    | CommandNotUnderstood
    | CommandEnded
    | Looked
    | ServiceGone
    | HostMeasured
    | HostFound
    | Tick
)


# --- effects -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SendHello:
    """Register the host with all its services."""

    host: Host
    services: tuple[Service, ...]
    open_command_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SendHeartbeat:
    """Tell the full observed state."""

    session_id: str
    sequence: int
    host: HostObserved
    services: tuple[ServiceState, ...]


@dataclass(frozen=True, slots=True)
class SendInventory:
    """Tell all services, after a change of shape."""

    session_id: str
    services: tuple[Service, ...]


@dataclass(frozen=True, slots=True)
class SendResult:
    """Tell how a command goes."""

    session_id: str
    command_id: str
    state: CommandState
    message: str = ""


@dataclass(frozen=True, slots=True)
class StartCommand:
    """Work on a command, and report its end as `CommandEnded`."""

    command: Command


@dataclass(frozen=True, slots=True)
class Reconnect:
    """Give up the stream and open another one."""

    reason: str


@dataclass(frozen=True, slots=True)
class Stop:
    """The agent must end; `message` says why and what to do. `fenced`: another agent speaks for its host."""

    message: str
    fenced: bool = False


@dataclass(frozen=True, slots=True)
class Say:
    """A line for the operator."""

    level: Level
    message: str


Send: TypeAlias = SendHello | SendHeartbeat | SendInventory | SendResult
Effect: TypeAlias = Send | StartCommand | Reconnect | Stop | Say
