"""No orphans: a process that was started for another one ends when that one ends, kill -9 included.

On Linux the kernel does it: PR_SET_PDEATHSIG asks for a signal when the parent dies, and survives exec (prctl(2)).
Elsewhere the parent holds the other end of our stdin: its death closes the pipe, and a read returns. (The kernel's
way watches the thread that started us, so start processes from a thread that lives as long as the process.)

Run as a program, this file guards any command: `python -I parentage.py PARENT_PID COMMAND…`. On Linux it makes the
request and becomes the command; elsewhere it stays beside it, passes signals on, and ends it with the parent.
It imports the standard library only, so that it can run by its path, in a few milliseconds.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_PR_SET_PDEATHSIG = 1
_GRACE_S = 5.0
_COMMAND_NOT_FOUND = 127
_PARENT_GONE = 1


def guarded(argv: Sequence[str], parent_pid: int) -> list[str]:
    """The command `argv`, made to end with process `parent_pid`, which must be the one that starts it."""
    return [sys.executable, "-I", __file__, str(parent_pid), *argv]


def signal_on_parent_death(parent_pid: int, number: int) -> bool:
    """Have the kernel send us signal `number` when our parent `parent_pid` dies.

    False where the kernel cannot (not Linux). Raises ProcessLookupError if that parent is already gone.
    """
    if sys.platform != "linux":
        return False
    import ctypes  # noqa: PLC0415 (Linux only, and slow to import)

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0) != 0:
        return False
    if os.getppid() != parent_pid:  # it died before the request was in place
        raise ProcessLookupError(f"process {parent_pid} is not our parent, or is gone")
    return True


def on_stdin_closed(act: Callable[[], None]) -> bool:
    """Call `act`, in a thread, when the other end of stdin is closed. False if stdin is not a pipe."""
    try:
        if not stat.S_ISFIFO(os.fstat(0).st_mode):
            return False
    except OSError:
        return False

    def watch() -> None:
        while os.read(0, 4096):
            pass
        act()

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
    return True


def supervise(argv: Sequence[str]) -> int:
    """Run `argv` as a child until it ends, or until stdin closes: then end our whole process group. Its exit status.

    A signal that ends the child is told as 128 + its number, as shells do.
    """
    child = subprocess.Popen(argv, stdin=subprocess.DEVNULL)  # noqa: S603 (the command comes from the operator's config)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: child.send_signal(received))
    on_stdin_closed(lambda: _end_group(child))
    status = child.wait()
    return status if status >= 0 else 128 - status


def _end_group(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        child.terminate()
    deadline = time.monotonic() + _GRACE_S
    while child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(os.getpgid(0), signal.SIGKILL)  # ourselves included


def main(argv: Sequence[str]) -> int:
    """Guard the command; returns only where it could not be started, or where there is no way to become it."""
    parent_pid, command = int(argv[0]), list(argv[1:])
    try:
        if not signal_on_parent_death(parent_pid, signal.SIGTERM):
            return supervise(command)
        os.execvp(command[0], command)  # noqa: S606 (no shell wanted)
    except ProcessLookupError:
        return _PARENT_GONE
    except OSError as error:
        sys.stderr.write(f"error: cannot start {command[0]} ({error.strerror}): check the command's path\n")
        return _COMMAND_NOT_FOUND


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
