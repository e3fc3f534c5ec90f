"""Ports of 127.0.0.1 that nobody else takes between the moment they are chosen and the moment they are used.

A port from the kernel (port 0) that is closed again may be given to anybody, and a port drawn at random may be drawn by
another test process too. Here each process claims blocks of ports of its own, below those that the kernel gives out,
and hands out each port once. A block is claimed by holding the UDP port of its first number for as long as the process
lives: that excludes every other process that runs these tests, and a crash gives it back.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from functools import cache

# The kernel gives out ports from 32768 on (net.ipv4.ip_local_port_range); SGLang, which a scan looks for, has 30000.
FIRST, END, BLOCK = 20_000, 30_000, 50


def free_port() -> int:
    """A port that nobody listens on, and that no other test gets."""
    return free_run(1)


def free_ports(count: int) -> list[int]:
    """So many different ones."""
    return [free_port() for _ in range(count)]


def free_run(count: int) -> int:
    """The first of so many in a row, for what takes the ports behind the one that it is given."""
    assert 0 < count < BLOCK
    while True:
        run = [next(_ports())]
        while len(run) < count and (port := next(_ports())) == run[-1] + 1:
            run.append(port)
        if len(run) == count and all(map(_bindable, run)):
            return run[0]


@cache
def _ports() -> Iterator[int]:
    """The ports of this process, each once."""
    return _claimed()


def _claimed() -> Iterator[int]:
    held = []  # as long as this generator, which is for ever
    blocks = list(range(FIRST, END, BLOCK))
    random.shuffle(blocks)
    for first in blocks:
        claim = socket.socket(type=socket.SOCK_DGRAM)
        try:
            claim.bind(("127.0.0.1", first))
        except OSError:
            claim.close()
            continue
        held.append(claim)
        yield from range(first, first + BLOCK)
    raise RuntimeError(f"the ports from {FIRST} to {END} are all claimed: do so many tests run at once?")


def _bindable(port: int) -> bool:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
