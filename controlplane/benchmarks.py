"""BenchmarkService: takes samples that make sense, all or none, and lists them.

What is stored is told to the loop, which sums it up for the gateways.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator, Sequence
from typing import Protocol

import msgspec

from controlplane.audit import Auditor
from controlplane.auth import Context
from controlplane.events import SamplesStored
from geniehive.clock import Clock
from geniehive.codec import operation_from_pb, sample_from_pb, sample_to_pb
from geniehive.errors import InvalidRequest
from geniehive.resources import AuditEntry, BenchmarkSample, Snapshot
from geniehive.v1 import benchmark_service_pb2 as pb
from geniehive.v1 import benchmark_service_pb2_grpc as pb_grpc

_MOST = 1000
_DEFAULT = 100
_LONGEST = 512
_DAY_MS = 86_400_000
_LIMITS = {"tokens_per_second": 1e7, "quality": 1.0}
_SECONDS_LIMIT = 1e6
_NUMBERS = (
    "ttft_p50_seconds",
    "ttft_p95_seconds",
    "tpot_p50_seconds",
    "tpot_p95_seconds",
    "tokens_per_second",
    "latency_p50_seconds",
    "latency_p95_seconds",
    "quality",
)


class SampleStore(Protocol):
    """Where samples are kept."""

    async def add_samples(self, samples: Sequence[BenchmarkSample], audit: AuditEntry | None = None) -> None:
        """Stores all or none, with the entry; an id that is stored already changes nothing."""

    async def list_samples(self, service_id: str, workload: str, limit: int) -> Sequence[BenchmarkSample]:
        """Newest first; an empty service or workload is any."""
        ...


class Cluster(Protocol):
    """What is asked of the control loop, and told to it."""

    @property
    def snapshot(self) -> Snapshot:
        """The cluster as it is now."""
        ...

    async def offer(self, event: SamplesStored) -> None:
        """Say what happened; waits while there is no room."""


class BenchmarkService(pb_grpc.BenchmarkServiceServicer):
    """The gRPC edge of benchmark samples."""

    def __init__(self, store: SampleStore, cluster: Cluster, clock: Clock, auditor: Auditor) -> None:
        self._store = store
        self._cluster = cluster
        self._clock = clock
        self._auditor = auditor

    async def IngestSamples(self, request: pb.IngestSamplesRequest, context: Context) -> pb.IngestSamplesResponse:
        """Stores samples, all or none."""
        count = f"{len(request.samples)} samples"
        async with self._auditor.doing(context, "benchmarks.ingest", count) as entry:
            samples = self._checked(request)
            await self._store.add_samples(samples, entry)
        await self._cluster.offer(SamplesStored(tuple(samples)))
        return pb.IngestSamplesResponse(sample_ids=[sample.sample_id for sample in samples])

    def _checked(self, request: pb.IngestSamplesRequest) -> list[BenchmarkSample]:
        """What is to be stored. Raises InvalidRequest naming the first sample that makes no sense."""
        if len(request.samples) > _MOST:
            raise InvalidRequest(f"{len(request.samples)} samples in one call: send at most {_MOST}", param="samples")
        now_ms = self._clock.unix_ms()
        samples = []
        for position, message in enumerate(request.samples):
            sample = sample_from_pb(message)
            unknown = "" if operation_from_pb(message.operation) else "operation is unknown here"
            if wrong := unknown or fault(sample, now_ms):
                name = f" ({sample.sample_id[:80]!r})" if sample.sample_id else ""
                raise InvalidRequest(f"samples[{position}]{name}: {wrong}; nothing was stored", param="samples")
            samples.append(self._completed(sample))
        return samples

    async def ListSamples(self, request: pb.ListSamplesRequest, _context: Context) -> pb.ListSamplesResponse:
        """Samples, newest first."""
        limit = min(request.limit or _DEFAULT, _MOST)
        found = await self._store.list_samples(request.service_id, request.workload, limit)
        return pb.ListSamplesResponse(samples=[sample_to_pb(sample) for sample in found])

    def _completed(self, sample: BenchmarkSample) -> BenchmarkSample:
        """The sample with an id and its service's host, where it came without."""
        service = self._cluster.snapshot.services.get(sample.service_id)
        return msgspec.structs.replace(
            sample,
            sample_id=sample.sample_id or uuid.uuid4().hex,
            host_id=sample.host_id or (service.host_id if service else ""),
        )


def fault(sample: BenchmarkSample, now_ms: int) -> str:
    """What makes no sense about a sample, in words; empty if nothing does."""
    return next(_faults(sample, now_ms), "")


def _faults(sample: BenchmarkSample, now_ms: int) -> Iterator[str]:
    yield from _text_faults(sample)
    if not 0 < sample.measured_at_ms < now_ms + _DAY_MS:
        yield f"measured_at_ms {sample.measured_at_ms} is not a past time in milliseconds since the Unix epoch"
    if sample.requests == 0:
        yield "requests is 0: a run has at least one"
    if sample.failures > sample.requests:
        yield f"{sample.failures} failures of {sample.requests} requests"
    yield from _number_faults(sample)


def _text_faults(sample: BenchmarkSample) -> Iterator[str]:
    for name in ("workload", "service_id"):
        if not getattr(sample, name):
            yield f"{name} is empty"
    for name in ("sample_id", "workload", "service_id", "asset_id", "host_id"):
        if len(getattr(sample, name)) > _LONGEST:
            yield f"{name} is longer than {_LONGEST} characters"


def _number_faults(sample: BenchmarkSample) -> Iterator[str]:
    for name in _NUMBERS:
        value, limit = getattr(sample, name), _LIMITS.get(name, _SECONDS_LIMIT)
        if value is not None and not (math.isfinite(value) and 0 <= value <= limit):
            yield f"{name} is {value}, not between 0 and {limit:g}"
    for name in ("ttft", "tpot", "latency"):
        p50, p95 = getattr(sample, f"{name}_p50_seconds"), getattr(sample, f"{name}_p95_seconds")
        if p50 is not None and p95 is not None and p50 > p95:
            yield f"{name}_p50_seconds {p50} is above {name}_p95_seconds {p95}"
