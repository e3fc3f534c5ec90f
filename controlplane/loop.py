"""The one task that owns the cluster's state.

It takes events in order, lets `ClusterState` decide, and carries the effects out. Nothing else
changes the state, so there are no locks. A write to the store runs beside it, one at a time:

* everything that may need the store waits its turn behind the write, in order;
* what a session says while something of its own waits, waits too, so nothing overtakes within a
  stream; a heartbeat among it renews the lease at once;
* every other heartbeat, report and tick goes on, however slow the store is.

Time comes from the loop itself: `Tick` for leases, and `ObservedDue` at most `OBSERVED_S` after a
measurement moved. A change of shape waits for neither.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Protocol

from controlplane import events as ev
from controlplane.cluster import ClusterState
from controlplane.events import ClusterEvent, Effect, Event, Instant, Persist, Store, ToNode
from controlplane.feeds import RoutingFeed
from controlplane.mailbox import Letter, Mailbox
from controlplane.token_book import TokenBook
from geniehive.clock import Clock
from geniehive.errors import GenieHiveError, NotReady, StoreError
from geniehive.resources import Command, Host, Snapshot
from geniehive.stream import Outbox, OutboxFull

TICK_S: Final = 0.25
OBSERVED_S: Final = 0.1

# Waking up so late means that this process stood still, or nearly.
PAUSE_S: Final = 1.0

INBOX_LIMIT: Final = 4096
WATCHER_LIMIT: Final = 1024

# A store that gives no answer in this time has failed.
WRITE_TIMEOUT_S: Final = 10.0
RETRY_S: Final = 5.0

# Letters read before other tasks get a turn.
BATCH: Final = 64

# What an operator has to put right.
_ALARMS: Final = frozenset({"store.failed", "roles.refused", "certificate.ends"})

log = logging.getLogger(__name__)


class NodeLink(Protocol):
    """The loop's end of a node's stream."""

    def send(self, message: ToNode) -> None:
        """Put a message in the stream's outbox; an outbox that is full ends the stream."""

    def end(self, reason: str) -> None:
        """Close the stream once its outbox is empty, and soon in any case."""


@dataclass(frozen=True, slots=True)
class _Write:
    """The write that runs, and the letter that needed it."""

    persist: Persist
    letter: Letter


class ControlLoop:
    """See the module."""

    def __init__(self, state: ClusterState, store: Store, clock: Clock, *, inbox_limit: int = INBOX_LIMIT) -> None:
        self._state = state
        self._store = store
        self._clock = clock
        self._inbox = Mailbox(inbox_limit)
        self._waiting: deque[Letter] = deque()
        self._behind: Counter[str] = Counter()
        self._write: _Write | None = None
        self._links: dict[str, NodeLink] = {}
        self._feeds: set[RoutingFeed] = set()
        self._watchers: set[Outbox[ClusterEvent]] = set()
        self._stopping = False
        self._next_tick = clock.monotonic()
        self._observed_at: float | None = None
        self._retry_at = 0.0
        self._awake_at: float | None = None
        self._paused_s = 0.0

    # --- for the gRPC edges --------------------------------------------------------------------

    @property
    def snapshot(self) -> Snapshot:
        """The picture that gateways route by; immutable."""
        return self._state.snapshot

    @property
    def commands(self) -> tuple[Command, ...]:
        """Every command, oldest first."""
        return self._state.commands

    @property
    def tokens(self) -> TokenBook:
        """Every token; for reading."""
        return self._state.tokens

    @property
    def gateways(self) -> int:
        """Gateway workers that watch."""
        return self._state.gateways

    @property
    def silence_s(self) -> float:
        """Seconds without a word from a node after which its stream is closed."""
        return self._state.terms.silence_s

    def host_view(self, host_id: str) -> Host | None:
        """A host with the age of its last heartbeat; None if it is not known."""
        return self._state.host_view(host_id, self._now())

    def host_views(self) -> tuple[Host, ...]:
        """Every host with the age of its last heartbeat, by id."""
        views = (self.host_view(host_id) for host_id in sorted(self.snapshot.hosts))
        return tuple(host for host in views if host is not None)

    def post(self, event: Event) -> None:
        """Say what happened, without waiting. Raises Overloaded; never for the end of a stream."""
        self._inbox.put(Letter(event))

    async def offer(self, event: Event) -> None:
        """Say what happened; waits while there is no room."""
        await self._inbox.room()
        self._inbox.put(Letter(event))

    async def ask(self, event: Event) -> object:
        """Have an operator's event applied and stored; its answer. Raises a GenieHiveError."""
        reply: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._inbox.put(Letter(event, reply))
        return await reply

    def tell(self, kind: str, message: str, host_id: str = "") -> None:
        """Tell those who watch events of something that is not the cluster's own state."""
        now, revision = self._now(), self.snapshot.revision
        self._announce(ClusterEvent(at_ms=now.unix_ms, kind=kind, message=message, host_id=host_id, revision=revision))

    def attach(self, session_id: str, link: NodeLink) -> None:
        """Say where a session's messages go; before its first event."""
        self._links[session_id] = link

    def detach(self, session_id: str) -> None:
        """The session's stream has ended."""
        self._links.pop(session_id, None)
        self.post(ev.SessionClosed(session_id=session_id))

    @contextmanager
    def subscribe(self) -> Iterator[RoutingFeed]:
        """The snapshot, then its updates."""
        feed = RoutingFeed(lambda: self.snapshot)
        self._feeds.add(feed)
        if self._stopping:
            feed.close()
        try:
            yield feed
        finally:
            self._feeds.discard(feed)

    @contextmanager
    def events(self) -> Iterator[Outbox[ClusterEvent]]:
        """What happens from now on; a watcher that does not read loses its box: it is closed."""
        box = Outbox[ClusterEvent](WATCHER_LIMIT)
        self._watchers.add(box)
        if self._stopping:
            box.close()
        try:
            yield box
        finally:
            self._watchers.discard(box)

    def close(self) -> None:
        """Stop: nodes are told to come back later, streams end, what was written stays. `run` returns soon."""
        if self._stopping:
            return
        self._stopping = True
        self._inbox.close()
        goodbye = ev.Reject(ev.RejectReason.NOT_SERVING, "the control plane is stopping: reconnect in a moment")
        for link in tuple(self._links.values()):
            link.send(goodbye)
            link.end("the control plane is stopping")
        for feed in self._feeds:
            feed.close()
        for box in self._watchers:
            box.close()

    # --- the task ------------------------------------------------------------------------------

    async def run(self) -> None:
        """Own the state until `close`; a write that runs then is finished first."""
        try:
            async with asyncio.TaskGroup() as tasks:
                while not self._stopping:
                    await self._wait_for_work()
                    self._look_at_the_clock(tasks)
                    self._read_some(tasks)
                    await asyncio.sleep(0)
            # A write that ended meanwhile is stored: who asked for it gets the answer.
            if (letter := self._inbox.take()) is not None and isinstance(letter.event, ev.Persisted):
                self._written(letter, tasks)
        finally:
            self.close()
            self._refuse_the_rest()

    async def _wait_for_work(self) -> None:
        due_at = self._next_tick if self._observed_at is None else min(self._next_tick, self._observed_at)
        due = due_at - self._clock.monotonic()
        try:
            async with asyncio.timeout(min(max(0.0, due), TICK_S)):
                await self._inbox.filled()
        except TimeoutError:
            pass

    def _look_at_the_clock(self, tasks: asyncio.TaskGroup) -> None:
        now = self._clock.monotonic()
        self._notice_pause(asyncio.get_running_loop().time())
        if now >= self._next_tick:
            self._next_tick = now + TICK_S
            paused_s, self._paused_s = self._paused_s, 0.0
            self._handle(Letter(ev.Tick(paused_s=paused_s)), tasks)
            if self._state.unsaved and now >= self._retry_at and self._write is None:
                self._retry_at = now + RETRY_S
                self._handle(Letter(ev.UnsavedDue()), tasks)
        if self._observed_at is not None and now >= self._observed_at:
            self._observed_at = None
            self._handle(Letter(ev.ObservedDue()), tasks)

    def _notice_pause(self, awake_at: float) -> None:
        """The event loop's own clock tells how much later than wanted we are awake: a stop, or a starved machine."""
        late = awake_at - self._awake_at - TICK_S if self._awake_at is not None else 0.0
        self._awake_at = awake_at
        if late >= PAUSE_S:
            self._paused_s += late

    def _read_some(self, tasks: asyncio.TaskGroup) -> None:
        for _ in range(BATCH):
            letter = self._inbox.take()
            if letter is None:
                return
            if isinstance(letter.event, ev.Persisted | ev.PersistFailed):
                self._written(letter, tasks)
            elif self._must_wait(letter):
                self._queue_up(letter)
            else:
                self._handle(letter, tasks)
            while self._write is None and self._waiting:
                self._handle(self._leave_queue(), tasks)

    def _handle(self, letter: Letter, tasks: asyncio.TaskGroup) -> None:
        """Let the core decide, and do what it says, without a pause between."""
        try:
            effects = self._state.apply(letter.event, self._now())
        except GenieHiveError as error:
            letter.fail(error)
            return
        for effect in effects:
            self._carry_out(effect, letter, tasks)
        if self._observed_at is None and self._state.observed_moved:
            self._observed_at = self._clock.monotonic() + OBSERVED_S

    def _carry_out(self, effect: Effect, letter: Letter, tasks: asyncio.TaskGroup) -> None:
        match effect:
            case Persist():
                self._write = _Write(effect, letter)
                self._behind.update(_session(letter.event))
                tasks.create_task(self._store_changes(self._write))
            case ev.SendToNode(session_id, message):
                if (link := self._links.get(session_id)) is not None:
                    link.send(message)
            case ev.CloseSession(session_id, reason):
                if (link := self._links.get(session_id)) is not None:
                    link.end(reason)
            case ev.Publish() | ev.PublishObserved():
                for feed in self._feeds:
                    feed.push(effect)
            case ev.Announce(event):
                self._announce(event)
            case ev.Answer(value):
                letter.answer(value)

    def _announce(self, event: ClusterEvent) -> None:
        level = logging.ERROR if event.kind in _ALARMS else logging.INFO
        log.log(level, "%s: %s", event.kind, event.message)
        for box in tuple(self._watchers):
            try:
                box.put_nowait(event)
            except OutboxFull:
                self._watchers.discard(box)
                box.close()

    # --- writes --------------------------------------------------------------------------------

    async def _store_changes(self, write: _Write) -> None:
        """Write beside the loop, and tell it how that went before anything else."""
        persist = write.persist
        outcome: Event = ev.Persisted(persist.event, persist.changes)
        try:
            async with asyncio.timeout(WRITE_TIMEOUT_S):
                await self._store.apply(persist.changes)
        except TimeoutError:
            reason = f"the store gave no answer in {WRITE_TIMEOUT_S:.0f} s"
            outcome = ev.PersistFailed(persist.event, persist.changes, reason)
        except StoreError as error:
            outcome = ev.PersistFailed(persist.event, persist.changes, error.message)
        if isinstance(outcome, ev.PersistFailed):
            self._retry_at = self._clock.monotonic() + RETRY_S
            log.error("a write failed: %s", outcome.reason)
        self._inbox.put_first(Letter(outcome, write.letter.reply))

    def _written(self, letter: Letter, tasks: asyncio.TaskGroup) -> None:
        """A write has ended, and only now the next one may begin."""
        if self._write is not None:
            self._behind.subtract(_session(self._write.persist.event))
            self._write = None
        self._handle(letter, tasks)

    def _must_wait(self, letter: Letter) -> bool:
        if self._write is None:
            return False
        return isinstance(letter.event, ev.Durable) or any(self._behind[key] > 0 for key in _session(letter.event))

    def _queue_up(self, letter: Letter) -> None:
        if isinstance(letter.event, ev.HeartbeatReceived):
            self._state.renew(letter.event, self._now())
        self._behind.update(_session(letter.event))
        self._waiting.append(letter)

    def _leave_queue(self) -> Letter:
        letter = self._waiting.popleft()
        self._behind.subtract(_session(letter.event))
        self._behind = +self._behind
        return letter

    def _refuse_the_rest(self) -> None:
        """Nobody is left waiting for an answer that will not come."""
        error = NotReady("the control plane is stopping: try again in a moment")
        while (letter := self._inbox.take()) is not None:
            letter.fail(error)
        for letter in self._waiting:
            letter.fail(error)
        if self._write is not None:
            self._write.letter.fail(error)

    def _now(self) -> Instant:
        return Instant(self._clock.monotonic(), self._clock.unix_ms())


def _session(event: object) -> tuple[str, ...]:
    """The session that an event is of, if it is of one."""
    match event:
        case (
            ev.HelloReceived(session_id=key)
            | ev.HeartbeatReceived(session_id=key)
            | ev.InventoryReceived(session_id=key)
            | ev.CommandResultReceived(session_id=key)
            | ev.SessionClosed(session_id=key)
        ):
            return (key,)
        case _:
            return ()
