"""From `geniehive up` in an empty folder to the first streamed token, and where the time goes.

    python bench/bench_first_answer.py [--runs N]

Each run starts from nothing: a new state folder, free ports, no engine found, so the embedded llama.cpp with its tiny
generated model. "up says so" is when the URL is printed; the other times are when each part first answered, asked
every few milliseconds. All are seconds since the start of the command. Target of the issue: the first answer within
5 s.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from kit import report
from kit.processes import REPO, BenchError

TARGET_S, GIVE_UP_S, POLL_S = 5.0, 60.0, 0.01
STEPS = ("control plane listens", "gateway answers", "node agent answers", "model listed", "up says so", "first token")


def main() -> int:
    """Measure, print, save; fails if the median misses the target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    runs = [_run() for _ in range(options.runs)]
    rows = [
        (step, *(report.number(pick([run[step] for run in runs]), 2) for pick in (min, median, max))) for step in STEPS
    ]
    print(report.table(("seconds after the start", "min", "median", "max"), rows))
    print(f"\nwritten to {report.save('first_answer', {'runs': runs})}")
    if median(run["first token"] for run in runs) > TARGET_S:
        print(f"the first answer misses the target of {TARGET_S:g} s", file=sys.stderr)
        return 1
    return 0


def _run() -> dict[str, float]:
    """One start, from nothing to the first token."""
    with tempfile.TemporaryDirectory(prefix="geniehive-bench-") as folder:
        config = Path(folder) / "geniehive.yaml"
        config.write_text(json.dumps({"node": {"discover": False}}))  # engines of this machine would change the figures
        port = _three_free_ports()
        argv = [
            sys.executable, "-m", "geniehive.cli", "up", "--config", str(config),
            "--state-dir", f"{folder}/state", "--port", str(port),
        ]  # fmt: skip
        environ = {name: value for name, value in os.environ.items() if not name.startswith("GENIEHIVE_")}
        began = time.perf_counter()
        process = subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=REPO, env=environ
        )
        try:
            return _Start(process, port, began).measure()
        finally:
            process.terminate()
            try:
                process.communicate(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()


class _Start:
    """A `geniehive up` that is being watched."""

    def __init__(self, process: subprocess.Popen[str], port: int, began: float) -> None:
        self._process = process
        self._port = port
        self._began = began
        self._at: dict[str, float] = {}

    def measure(self) -> dict[str, float]:
        """The seconds of each step. Raises BenchError if it does not come up."""
        watchers = [
            threading.Thread(target=self._wait, args=step, daemon=True)
            for step in (
                ("control plane listens", lambda: _listens(self._port + 1)),
                ("gateway answers", lambda: bool(_get(self._port, "/healthz"))),
                ("node agent answers", lambda: bool(_get(self._port + 2, "/healthz"))),
                ("model listed", lambda: b'"status"' in _get(self._port, "/v1/models")),
            )
        ]
        for watcher in watchers:
            watcher.start()
        said = self._until_up()
        for watcher in watchers:
            watcher.join(GIVE_UP_S)
        model = re.search(r'"model": ?"([^"]+)"', said)
        if model is None:
            raise BenchError(f"`geniehive up` named no model:\n{said}")
        self._first_token(model[1])
        return {step: self._at[step] for step in STEPS}

    def _mark(self, step: str) -> None:
        self._at[step] = time.perf_counter() - self._began

    def _wait(self, step: str, happened: Callable[[], bool]) -> None:
        while time.perf_counter() - self._began < GIVE_UP_S and self._process.poll() is None:
            if happened():
                self._mark(step)
                return
            time.sleep(POLL_S)

    def _until_up(self) -> str:
        """What it says, up to the `curl`."""
        said = ""
        if self._process.stdout is None:
            raise BenchError("`geniehive up` has no output to read")
        for line in self._process.stdout:
            said += line
            if "Ctrl-C ends everything" in line:
                self._mark("up says so")
                return said
        raise BenchError(f"`geniehive up` ended:\n{said}")

    def _first_token(self, model: str) -> None:
        """Stream a chat, as the printed `curl` does, until the first event with content."""
        body = {"model": model, "stream": True, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=GIVE_UP_S)
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        for line in answer:
            if line.startswith(b"data: {") and (b'"content":"' in line or b'"content": "' in line):
                self._mark("first token")
                connection.close()
                return
        raise BenchError(f"the chat was answered with status {answer.status} and no token")


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def _get(port: int, path: str) -> bytes:
    """The body of a good answer; empty for anything else."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.read() if answer.status == 200 else b""
    except (OSError, http.client.HTTPException):
        return b""
    finally:
        connection.close()


def _three_free_ports() -> int:
    """The first of three in a row that nobody uses: `up --port` takes them so."""
    for port in range(21000 + os.getpid() % 5000, 32000, 3):
        if not any(_listens(port + at) for at in range(3)):
            return port
    raise BenchError("there are no three free ports in a row between 21000 and 32000")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchError as error:
        sys.exit(f"bench_first_answer: {error}")
