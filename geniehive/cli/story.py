"""The story of one request, told to people from its receipt."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from geniehive.cli import cells
from geniehive.cli.output import Listing, print_table, printable

Receipt = Mapping[str, Any]


def tell(receipt: Receipt, *, wide: bool = False) -> None:
    """Print the story."""
    when = time.strftime("%Y-%m-%d", time.localtime(receipt["at_ms"] / 1000))
    print(printable(f"{receipt['request_id']}  {when} {clock(receipt['at_ms'])}  {status(receipt)}"))
    print()
    for name, text in (("asked", _asked(receipt)), ("matched", _matched(receipt))):
        print(printable(f"{name:<9}{text}"))
    _candidates(receipt, wide=wide)
    _dropped(receipt)
    _attempts(receipt)
    print()
    for name, text in (("outcome", _outcome(receipt)), ("time", _time(receipt))):
        print(printable(f"{name:<9}{text}"))


def clock(at_ms: int) -> str:
    """The time of day here, with milliseconds: requests come close together."""
    return f"{time.strftime('%H:%M:%S', time.localtime(at_ms / 1000))}.{at_ms % 1000:03d}"


def ms(value: float | None) -> str:
    """Milliseconds as "340ms" or "2.1s", those below one with their fraction; or "-"."""
    return f"{value:.2f}ms" if value is not None and 0 < value < 1 else cells.seconds(_seconds(value))


def status(receipt: Receipt) -> str:
    """The outcome, and the HTTP status where there is one."""
    return receipt["outcome"] if receipt["status"] is None else f"{receipt['outcome']},{receipt['status']}"


def _seconds(value: float | None) -> float | None:
    return None if value is None else value / 1000


def _asked(receipt: Receipt) -> str:
    how = ", as a stream" if receipt["stream"] else ""
    who = f" by {receipt['principal']}" if receipt["principal"] else ""
    size = cells.size(receipt["request_bytes"])
    return f'"{receipt["model"]}" for {receipt["operation"] or "something"}{who}{how} ({size} bytes)'


def _matched(receipt: Receipt) -> str:
    if receipt["match"] is None:
        return "nothing"
    role = f" {receipt['role_id']}" if receipt["role_id"] else ""
    return f"{receipt['match']}{role}, strategy {receipt['strategy']}"


def _candidates(receipt: Receipt, *, wide: bool) -> None:
    if not receipt["candidates"]:
        if receipt["match"] is not None:
            print("\nno service could answer")
        return
    print("\ncandidates, best first")
    rows = [
        (
            str(place), one["service_id"], one["asset_id"], one["host_id"], _tier(one["tier"]),
            cells.count(one["score"], 3), cells.text("; ".join(one["reasons"])), _signals(one["signals"]),
        )
        for place, one in enumerate(receipt["candidates"], 1)
    ]  # fmt: skip
    columns = ("#", "SERVICE", "MODEL", "HOST", "TIER", "SCORE", "WHY", "SIGNALS")
    print_table(Listing(columns=columns, rows=rows, values=None), wide=wide)


def _tier(tier: list[int]) -> str:
    return ".".join(map(str, tier)) or cells.UNKNOWN


def _signals(signals: Mapping[str, float]) -> str:
    return cells.joined(f"{name}={value:.4g}" for name, value in signals.items())


def _dropped(receipt: Receipt) -> None:
    if receipt["dropped"]:
        print("\nnot considered")
        rows = [(one["service_id"], cells.text(one["asset_id"]), one["reason"]) for one in receipt["dropped"]]
        print_table(Listing(columns=("SERVICE", "MODEL", "WHY"), rows=rows, values=None))


def _attempts(receipt: Receipt) -> None:
    if not receipt["attempts"]:
        return
    print("\nattempts")
    rows = [
        (
            str(place), one["service_id"], one["asset_id"], f"+{ms(one['started_ms'])}", _ended(one),
            cells.count(one["status"]), ms(one["first_byte_ms"]), ms(one["duration_ms"]), _why(one),
        )
        for place, one in enumerate(receipt["attempts"], 1)
    ]  # fmt: skip
    columns = ("#", "SERVICE", "MODEL", "STARTED", "OUTCOME", "STATUS", "FIRST BYTE", "TOOK", "WHY")
    print_table(Listing(columns=columns, rows=rows, values=None))


def _ended(attempt: Mapping[str, Any]) -> str:
    """How an attempt ended; with how it had gone on with a stream that was cut."""
    return f"{attempt['outcome']} ({attempt['resumed']})" if attempt.get("resumed") else str(attempt["outcome"])


def _why(attempt: Mapping[str, Any]) -> str:
    """What was special about an attempt, and why it failed."""
    return cells.text("; ".join(filter(None, (attempt.get("note"), attempt["error"]))))


def _outcome(receipt: Receipt) -> str:
    parts = [status(receipt).replace(",", " ")]
    if receipt["error"]:
        parts.append(receipt["error"])
    if receipt["service_id"] and receipt["outcome"] in {"ok", "open", "cut"}:
        parts.append(f"{receipt['asset_id']} at {receipt['service_id']} on {receipt['host_id']}")
    if receipt["finish_reason"]:
        parts.append(f"finish {receipt['finish_reason']}")
    if receipt["completion_tokens"] is not None or receipt["prompt_tokens"] is not None:
        asked, made = cells.count(receipt["prompt_tokens"]), cells.count(receipt["completion_tokens"])
        parts.append(f"{asked} tokens of prompt, {made} of answer")
    if receipt["answer_bytes"]:
        parts.append(f"{cells.size(receipt['answer_bytes'])} bytes of answer")
    return ", ".join(parts)


def _time(receipt: Receipt) -> str:
    spent = receipt["timings"]
    first, total = spent["first_byte_ms"], spent["total_ms"]
    parts = [
        f"body {ms(spent['body_ms'])}",
        f"gateway {ms(spent['overhead_ms'])}",
        f"queue {ms(spent['queue_ms'])}" + _place(spent.get("queue_position")),
        f"waiting for engines {ms(spent['upstream_ms'])}",
    ]
    if first is not None:
        parts.append(f"the rest of the answer {ms(total - first)}")
    return f"{ms(total)} in all: {', '.join(parts)}"


def _place(position: int | None) -> str:
    """Where a request stood in the queue, for people."""
    return "" if position is None else f" (number {position})"
