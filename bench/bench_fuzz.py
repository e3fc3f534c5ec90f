"""Hostile input for minutes: JSON, forms and framing against the real stack. Any 500, hang or crash ends the run.

    python bench/bench_fuzz.py [--minutes M] [--seed N]

The input is that of tests/fuzz; a finding is shrunk to its smallest form, and repeated with the seed that is printed.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from kit import report
from kit.processes import Cores, Processes
from kit.stack import CLIENT_KEY, start_stack

from tests.fuzz.bodies import MODEL
from tests.fuzz.engine import FuzzedEngine, running_engine
from tests.fuzz.framing import conversations
from tests.fuzz.judge import Judge

_AT_ONCE = 300
_KINDS = ["chat", "completion", "embeddings", "rerank", "transcription", "translation", "speech", "image"]


def main() -> int:
    """Attack until the time is over, print what came back, save it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    with running_engine() as engine, Processes() as programs:
        fuzzed = {
            "service_id": "bench-host/fuzzed",
            "kinds": _KINDS,
            "endpoint": engine.url,
            "discover_protocol": "openai",
            "assets": [{"asset_id": MODEL}],
        }
        stack = start_stack(programs, [fuzzed], cores=Cores.of_this_machine().tested, model=MODEL)
        judge = Judge(stack.port, CLIENT_KEY)
        until, number = time.monotonic() + options.minutes * 60, options.seed
        while time.monotonic() < until:
            print(f"seed {number}: {judge.sent} connections so far, statuses {dict(sorted(judge.statuses.items()))}")
            _attack(judge, engine, number)
            judge.healthy()
            number += 1
    rows = [[str(status), f"{count:,}"] for status, count in sorted(judge.statuses.items())]
    print(f"{judge.sent:,} connections, {engine.requests:,} requests at the engine, nothing found")
    print(report.table(["status", "answers"], rows))
    report.save("fuzz", {"connections": judge.sent, "statuses": judge.statuses, "engine_requests": engine.requests})
    return 0


def _attack(judge: Judge, engine: FuzzedEngine, number: int) -> None:
    @seed(number)
    @settings(
        max_examples=_AT_ONCE,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def attack(data: st.DataObject) -> None:
        judge.converse(data.draw(conversations(CLIENT_KEY)))
        if engine.faults:
            raise AssertionError(engine.faults)

    attack()


if __name__ == "__main__":
    sys.exit(main())
