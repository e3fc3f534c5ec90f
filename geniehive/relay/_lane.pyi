# What `_lane.c` makes; see geniehive.relay.lane.

from collections.abc import Callable
from typing import Protocol, final

class Client(Protocol):
    @property
    def writing_paused(self) -> bool: ...

@final
class Lane:
    open: bool
    due: float
    @property
    def ready(self) -> bool: ...
    def __init__(self, slow: Callable[[bytes], None]) -> None: ...
    def __call__(self, data: bytes, /) -> None: ...
    def join(
        self,
        write: Callable[[bytes], None],
        client: Client,
        paused: Callable[[], None],
        moved: Callable[[], None],
        keep: Callable[[bytes], None] | None,
        due: float,
        /,
    ) -> None: ...
    def learn(self, head: bytes, tail: bytes, budget: int, /) -> None: ...
    def taken(self) -> tuple[int, int]: ...
    def leave(self) -> None: ...
    def close(self) -> None: ...
