"""What a gateway's process asks of Python, of the C library and of the system, once it serves."""

from __future__ import annotations

import ctypes
import gc
import math
import sys
from contextlib import suppress

_YOUNG_OBJECTS = 20_000  # allocated beyond those freed, before the collector looks at the young ones
_KEPT_BYTES = 32 * 1024 * 1024
OWN_FILES = 100  # beside the two sockets of a request
_NO_LIMIT = (65_536, 10_240)  # for macOS, which says that there is no limit, and then takes no more than these
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


def tune() -> None:
    """The memory's part of it, for a worker that is about to serve."""
    calm_collector()
    keep_memory()


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
    """Raise the limit of open files as far as the system lets this process, and those that it starts.

    Shells and init systems give 1,024, for programs of another age.
    """
    with suppress(ImportError):
        import resource  # noqa: PLC0415 - not there on every platform

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        for files in (hard, *_NO_LIMIT):
            with suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
                break


def open_files() -> float:
    """How many files this process may have open; infinity where there is no telling."""
    with suppress(ImportError):
        import resource  # noqa: PLC0415 - not there on every platform

        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY:
            return soft
    return math.inf


def affordable(max_connections: int, files: float) -> int:
    """How many clients may be connected, so that there is a socket to an engine for each of them."""
    return int(max(1, min(max_connections, (files - OWN_FILES) / 2)))


def too_few(max_connections: int, files: float) -> str | None:
    """What to tell an operator whose limit of open files is below what a full worker needs; None if it is enough."""
    fewer = affordable(max_connections, files)
    if fewer == max_connections:
        return None
    return (
        f"this system allows {files:.0f} open files, so each worker lets {fewer} clients connect and not "
        f"{max_connections}: allow {2 * max_connections + OWN_FILES} (LimitNOFILE= in the systemd unit, ulimit -Hn), "
        f"or set gateway.max_connections to {fewer}"
    )
