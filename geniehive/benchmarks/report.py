"""[pure] The report of a benchmark run as JSON: for people the results, for the cluster the samples."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from geniehive.benchmarks.outcome import WorkloadResult
from geniehive.errors import InvalidRequest
from geniehive.resources import BenchmarkSample, Resource

FORMAT: Final = "geniehive.benchmark/1"
MOST_SAMPLES: Final = 1000
_HOW: Final = 'post what `geniehive bench run` wrote, or {"samples": [...]}'


class Report(Resource, frozen=True, kw_only=True):
    """One run of `geniehive bench run`; times in milliseconds since the Unix epoch."""

    format: str
    target: str
    gateway: str
    version: str
    started_at_ms: int
    ended_at_ms: int
    results: tuple[WorkloadResult, ...] = ()
    samples: tuple[BenchmarkSample, ...] = ()


def encode(report: Report) -> bytes:
    """The report as indented JSON, every field of it; what was not measured is null."""
    return msgspec.json.format(msgspec.json.encode(_plain(report)), indent=2) + b"\n"


def samples_in(raw: bytes) -> tuple[BenchmarkSample, ...]:
    """The samples of a report. Raises InvalidRequest naming the first that cannot be one.

    Whether the numbers make sense is for the control plane to say, which also knows the clock.
    """
    try:
        document = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"the report is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise InvalidRequest(f"a report is a JSON object: {_HOW}")
    if (named := document.get("format", FORMAT)) != FORMAT:
        raise InvalidRequest(f"format {str(named)[:64]!r} is not known here, but {FORMAT!r} is", param="format")
    listed = document.get("samples")
    if not isinstance(listed, list) or not listed:
        raise InvalidRequest(f"samples is missing or empty: {_HOW}", param="samples")
    if len(listed) > MOST_SAMPLES:
        raise InvalidRequest(f"{len(listed)} samples in one report: at most {MOST_SAMPLES} are taken", param="samples")
    return tuple(_sample(position, item) for position, item in enumerate(listed))


def _sample(position: int, item: Any) -> BenchmarkSample:
    if isinstance(item, dict):
        if unknown := sorted(item.keys() - set(BenchmarkSample.__struct_fields__)):
            raise InvalidRequest(
                f"samples[{position}]: unknown field `{unknown[0][:64]}`; nothing was stored", param="samples"
            )
        item = {"sample_id": "", **item}
    try:
        return msgspec.convert(item, BenchmarkSample)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"samples[{position}]: {error}; nothing was stored", param="samples") from None


def _plain(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        return {name: _plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return value
