"""What a gateway's process asks of Python, of the C library and of the system, once it serves."""

from __future__ import annotations

import ctypes
import gc
import sys
from contextlib import suppress

_YOUNG_OBJECTS = 20_000  # allocated beyond those freed, before the collector looks at the young ones
_KEPT_BYTES = 32 * 1024 * 1024
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


def tune() -> None:
    """All of it."""
    calm_collector()
    keep_memory()
    allow_files()


def calm_collector() -> None:
    """Let Python's collector of cycles look less often, and never at what will stay anyway.

    Requests leave no cycles behind; with its defaults it goes over all open streams again and again to find none.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, 20, 20)


def keep_memory() -> None:
    """Let glibc keep some of the memory that is freed, where the C library is glibc.

    With its defaults each body of a megabyte is memory that the kernel has to find and clear anew, several times over:
    that took longer than parsing it.
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    mallopt = getattr(library, "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES // 2)


def allow_files() -> None:
    """As many open sockets as the system lets this process have: a stream takes two, and shells give 1,024."""
    with suppress(ImportError, ValueError, OSError):
        import resource  # noqa: PLC0415 - not there on every platform

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
