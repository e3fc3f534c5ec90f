"""A large transcription upload: how fast it passes, and whether anything of it stays in memory.

    python bench/bench_upload.py [--megabytes M] [--rounds N]

A multipart form with a file of 200 MB goes through the gateway, through nginx, and to the upstream itself, which
counts the bytes and throws them away. The resident memory is read all the time; growth is the highest value less that
after a small upload just before.
"""

from __future__ import annotations

import argparse
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Self

from kit import peers, report
from kit.processes import BenchError, Cores, Processes, Program
from kit.stack import CLIENT_KEY, MODEL, service, start_stack, start_upstream

MB = 1_000_000
PIECE = 256 * 1024
MOST_GROWTH_MB = 16.0  # "no more than a few": what buffers and the allocator may take
_BOUNDARY = b"geniehive-bench-0123456789"
_ANSWER_S = 60


@dataclass
class Way:
    """One way to the upstream."""

    name: str
    port: int
    program: Program | None
    mb_per_s: list[float] = field(default_factory=list)
    growth_mb: list[float] = field(default_factory=list)


def main() -> int:
    """Measure, print, save; fails if the gateway's memory grows with the file."""
    options = _options()
    cores = Cores.of_this_machine()
    with Processes() as programs:
        ways = _ways(programs, cores)
        for _ in range(options.rounds):
            for way in ways:
                _one(way, options.megabytes * MB)
    gateway = ways[0]
    rows = [
        (
            way.name,
            report.number(median(way.mb_per_s)),
            report.ratio(median(way.mb_per_s), _speed(ways, "nginx")),
            report.number(max(way.growth_mb), 1) if way.growth_mb else "-",
        )
        for way in ways
    ]
    print(report.table((f"upload of {options.megabytes} MB", "MB/s", "of nginx", "growth MB"), rows))
    figures = {way.name: {"mb_per_s": way.mb_per_s, "growth_mb": way.growth_mb} for way in ways}
    print(f"\nwritten to {report.save('upload', {'megabytes': options.megabytes, 'ways': figures})}")
    if max(gateway.growth_mb) > MOST_GROWTH_MB:
        print(f"the gateway grew by more than {MOST_GROWTH_MB:g} MB", file=sys.stderr)
        return 1
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def _ways(programs: Processes, cores: Cores) -> list[Way]:
    upstream = start_upstream(programs, cores.upstream)
    stack = start_stack(programs, [service("bench/audio", upstream)], cores=cores.tested)
    ways = [Way("GenieHive gateway", stack.port, stack.gateway)]
    try:
        port = peers.nginx(programs, upstream, cores.tested)
    except BenchError as error:
        print(f"without nginx: {error}", file=sys.stderr)
    else:
        ways.append(Way("nginx", port, programs.named("nginx")))
    return [*ways, Way("upstream itself", upstream, None)]


def _one(way: Way, size: int) -> None:
    """One small upload, and then the large one."""
    upload(way.port, MB)
    with _Watch(way.program) as watch:
        began = time.perf_counter()
        upload(way.port, size)
        seconds = time.perf_counter() - began
    way.mb_per_s.append(size / MB / seconds)
    if way.program is not None:
        way.growth_mb.append(watch.growth_bytes / MB)


def upload(port: int, size: int) -> None:
    """Send a form with a file of `size` bytes. Raises BenchError unless the upstream counted them all."""
    head, tail = _form()
    length = len(head) + size + len(tail)
    request = (
        f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {CLIENT_KEY}\r\n"
        f"Content-Type: multipart/form-data; boundary={_BOUNDARY.decode()}\r\nContent-Length: {length}\r\n"
        "Connection: close\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", port), timeout=_ANSWER_S) as sock:
        sock.sendall(request.encode() + head)
        for piece in _pieces(size):
            sock.sendall(piece)
        sock.sendall(tail)
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    counted = answer.rpartition(b'{"text":"')[2].partition(b" bytes")[0]
    if not answer.startswith(b"HTTP/1.1 200") or not counted.isdigit() or int(counted) < size:
        raise BenchError(f"the upload was not answered as it should be: {answer[:400]!r}")


def _form() -> tuple[bytes, bytes]:
    """What comes before and after the file's bytes."""
    disposition = b'--%b\r\nContent-Disposition: form-data; name="%b"'
    model = disposition % (_BOUNDARY, b"model") + b"\r\n\r\n" + MODEL.encode() + b"\r\n"
    file = disposition % (_BOUNDARY, b"file") + b'; filename="long.wav"\r\nContent-Type: audio/wav\r\n\r\n'
    return model + file, b"\r\n--" + _BOUNDARY + b"--\r\n"


def _pieces(size: int) -> Iterator[bytes]:
    """Bytes that look like sound: nothing in them is a boundary."""
    noise = bytes((at * 131 + at // 7) % 251 for at in range(PIECE))
    for _ in range(size // PIECE):
        yield noise
    yield noise[: size % PIECE]


class _Watch:
    """Reads the resident memory of a program until the block ends."""

    def __init__(self, program: Program | None) -> None:
        self._program = program
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._first = self._highest = program.rss_bytes() if program is not None else 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while self._program is not None and not self._done.wait(0.01):
            self._highest = max(self._highest, self._program.rss_bytes())

    @property
    def growth_bytes(self) -> int:
        """The highest less the first."""
        return self._highest - self._first


def _speed(ways: Sequence[Way], name: str) -> float | None:
    return next((median(way.mb_per_s) for way in ways if way.name == name), None)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchError as error:
        sys.exit(f"bench_upload: {error}")
