"""What there is to tell the people who watch, gathered while an event is applied."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from controlplane.events import Announce, ClusterEvent, Effect, Instant
from geniehive.resources import Command, CommandState, Health, Service

_STATES: Final[Mapping[CommandState, str]] = {
    CommandState.PENDING: "waits for its node",
    CommandState.SENDING: "is sent to its node",
    CommandState.ACCEPTED: "is accepted by its node",
    CommandState.RUNNING: "is being carried out",
    CommandState.SUCCEEDED: "is done",
    CommandState.FAILED: "failed",
    CommandState.UNKNOWN: "has no known end",
}


class News:
    """Events for people, in the order in which they came up."""

    def __init__(self) -> None:
        self._items: list[tuple[str, str, str, str]] = []

    def add(self, kind: str, message: str, host_id: str = "", service_id: str = "") -> None:
        """Something happened."""
        self._items.append((kind, message, host_id, service_id))

    def health(self, before: Health, service: Service) -> None:
        """A service was looked at; news only if its status is another one."""
        now = service.health
        if before.status is not now.status:
            reason = f": {now.reason}" if now.reason else ""
            message = f"service {service.service_id} is {now.status}{reason}"
            self.add(f"service.{now.status}", message, service.host_id, service.service_id)

    def services(self, before: Mapping[str, Service], after: Mapping[str, Service], ids: Iterable[str]) -> None:
        """A host told its services whole."""
        for key in sorted(ids):
            old, new = before.get(key), after.get(key)
            if new is None and old is not None:
                self.add("service.removed", f"service {key} is gone", old.host_id, key)
            elif old is None and new is not None:
                self.add("service.added", f"service {key} is {new.health.status}", new.host_id, key)
            elif old is not None and new is not None:
                self.health(old.health, new)

    def command(self, command: Command) -> None:
        """A command moved."""
        words = f": {command.message}" if command.message else ""
        message = f"{command.kind} {command.command_id} {_STATES[command.state]}{words}"
        self.add(f"command.{command.state}", message, command.host_id, command.service_id)

    def announce(self, now: Instant, revision: int) -> list[Effect]:
        """All of it, as effects."""
        return [
            Announce(
                ClusterEvent(
                    at_ms=now.unix_ms,
                    kind=kind,
                    message=message,
                    host_id=host_id,
                    service_id=service_id,
                    revision=revision,
                )
            )
            for kind, message, host_id, service_id in self._items
        ]
