"""Who speaks for which host: one live session a host, fenced by the agent's boot epoch.

Of two agents that claim one host the later one wins while it lives. The other's session is gone from
the table at once, but remembered as fenced until its stream ends, so that a late message of it is
refused for the right reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from controlplane.events import Reject, RejectReason


@dataclass(slots=True)
class Session:
    """A node's stream after its Hello; `heard_at` is the last Hello or heartbeat, in monotonic seconds."""

    session_id: str
    host_id: str
    boot_epoch: int
    heard_at: float


class SessionTable:
    """The sessions, by their id and by their host."""

    def __init__(self) -> None:
        self._by_id: dict[str, Session] = {}
        self._by_host: dict[str, Session] = {}
        self._fenced: set[str] = set()

    def __iter__(self) -> Iterator[Session]:
        return iter(tuple(self._by_id.values()))

    def of_host(self, host_id: str) -> Session | None:
        """The session that speaks for a host."""
        return self._by_host.get(host_id)

    def open(self, session: Session) -> Session | None:
        """Let a session speak for its host; the one that did so before, if it is another."""
        before = self._by_host.get(session.host_id)
        self.close(session.session_id)
        if before is not None and before.session_id != session.session_id:
            self._remove(before)
        else:
            before = None
        self._by_id[session.session_id] = self._by_host[session.host_id] = session
        return before

    def fence(self, session_id: str) -> None:
        """Remember that a session must stop."""
        self._fenced.add(session_id)

    def close(self, session_id: str) -> Session | None:
        """Forget a session whose stream ended; the session, if it still spoke for its host."""
        self._fenced.discard(session_id)
        session = self._by_id.get(session_id)
        if session is not None:
            self._remove(session)
        return session

    def check(self, session_id: str, host_id: str, boot_epoch: int) -> Session | Reject:
        """The session that a message belongs to, or why the message is refused."""
        session = self._by_id.get(session_id)
        if session_id in self._fenced or (session is not None and boot_epoch < session.boot_epoch):
            return fenced(host_id)
        if session is None or boot_epoch > session.boot_epoch:
            return Reject(RejectReason.UNKNOWN_SESSION, "this session is not known here: say Hello again")
        if session.host_id != host_id:
            message = f"this session speaks for host {session.host_id!r}, not for {host_id!r}: say Hello again"
            return Reject(RejectReason.INVALID, message)
        return session

    def _remove(self, session: Session) -> None:
        self._by_id.pop(session.session_id, None)
        if self._by_host.get(session.host_id) is session:
            del self._by_host[session.host_id]


def fenced(host_id: str) -> Reject:
    """The refusal of an agent that another one has taken over from."""
    return Reject(
        RejectReason.FENCED,
        f"a later agent speaks for host {host_id!r}: stop this one, or give it another node.host_id",
    )
