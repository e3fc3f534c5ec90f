"""Lanes that tell what passed through them, for tests that must know that it was a lane."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from geniehive.relay import lane as source


class Spy:
    """A lane that writes down what it took, and for how many."""

    def __init__(self, slow, spies):
        self.lane = source.lane_to(slow)
        self.connection = slow.__self__
        self.events = self.bytes = self.joins = self.pauses = 0
        spies.append(self)

    def __call__(self, data):
        self.lane(data)

    def __getattr__(self, name):
        return getattr(self.lane, name)

    def __setattr__(self, name, value):
        if name in {"open", "due"}:
            setattr(self.lane, name, value)
        else:
            super().__setattr__(name, value)

    def join(self, write, client, paused, moved, keep, due):
        def counted():
            self.pauses += 1
            paused()

        self.joins += 1
        self.lane.join(write, client, counted, moved, keep, due)

    def taken(self):
        events, size = self.lane.taken()
        self.events += events
        self.bytes += size
        return events, size


@contextmanager
def lanes(*, used=True):
    """Connections to engines that are made meanwhile have lanes of this list, or none."""
    spies = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("geniehive.relay.connection.lane_to", lambda slow: Spy(slow, spies) if used else None)
        yield spies
