"""What a probe of GPUs offers, whoever made them."""

from __future__ import annotations

from typing import Protocol

from geniehive.resources import Gpu, GpuObserved


class GpuProbe(Protocol):
    """The GPUs of one vendor, numbered from 0 by the probe. Both calls block, and never raise."""

    def gpus(self) -> tuple[Gpu, ...]:
        """The GPUs; always the same ones."""
        ...

    def observe(self) -> tuple[GpuObserved, ...]:
        """Measurements of the GPUs that can be read; a value that cannot be read is None."""
        ...
