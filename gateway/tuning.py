"""What a gateway's process asks of Python, of the C library and of the system, once it serves."""

from __future__ import annotations

import ctypes
import gc
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


def allow_files() -> int | None:
    """Raise the limit of open files as far as the system lets this process, and those that it starts.

    Shells and init systems give 1,024, for programs of another age. What it got; None where there is no telling.
    """
    try:
        import resource  # noqa: PLC0415 - not there on every platform
    except ImportError:
        return None
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for files in (hard, *_NO_LIMIT):
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
            break
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def too_few(files: int | None, max_connections: int) -> str | None:
    """What to tell an operator whose limit of open files is below what a full worker needs; None if it is enough."""
    needed = 2 * max_connections + OWN_FILES  # a client's socket and an engine's
    if files is None or files >= needed:
        return None
    served = max(0, files - OWN_FILES) // 2
    return (
        f"this system allows {files} open files, enough for {served} requests at once in each worker; "
        f"gateway.max_connections is {max_connections}: allow {needed} (LimitNOFILE= in the systemd unit, ulimit -Hn), "
        f"or set gateway.max_connections to {max(1, served)}"
    )
