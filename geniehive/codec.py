"""Resources to wire messages and back; besides the gRPC edges the only module that knows `geniehive.v1`.

Structs and messages have the same field names, so one plan a type does the work: it is derived once
from the annotations of the struct and says how each field travels. `PAIRS` is the whole list; a test
holds that no field is missing on either side. Enum values that this version does not know become the
field's default, or are left out of lists. Measured numbers that make no sense (NaN, negative, 2^63)
become unknown instead of failing the message around them.
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Any, Final

import msgspec
from google.protobuf.message import Message

from geniehive import resources as r
from geniehive.v1 import (
    access_service_pb2,
    benchmark_service_pb2,
    cluster_service_pb2,
    node_service_pb2,
    routing_service_pb2,
)
from geniehive.v1 import resources_pb2 as pb

PAIRS: Final[dict[type[r.Resource], type[Message]]] = {
    r.Gpu: pb.Gpu,
    r.HostFacts: pb.HostFacts,
    r.GpuObserved: pb.GpuObserved,
    r.HostObserved: pb.HostObserved,
    r.Host: pb.Host,
    r.RequestPolicy: pb.RequestPolicy,
    r.Asset: pb.Asset,
    r.Runtime: pb.Runtime,
    r.Observed: pb.Observed,
    r.Health: pb.Health,
    r.Service: pb.Service,
    r.PromptPolicy: pb.PromptPolicy,
    r.RoutingPolicy: pb.RoutingPolicy,
    r.Role: pb.Role,
    r.AccessKey: pb.AccessKey,
    r.BenchmarkSummary: pb.BenchmarkSummary,
    r.ServiceBenchmarks: pb.ServiceBenchmarks,
    r.Snapshot: pb.Snapshot,
    r.SnapshotDelta: routing_service_pb2.SnapshotDelta,
    r.AssetState: node_service_pb2.AssetState,
    r.ServiceState: node_service_pb2.ServiceState,
    r.ServiceTraffic: routing_service_pb2.ServiceTraffic,
    r.BenchmarkSample: benchmark_service_pb2.BenchmarkSample,
    r.AuditEntry: access_service_pb2.AuditEntry,
}

_ENUMS: Final[dict[type[StrEnum], tuple[Any, str]]] = {
    r.Operation: (pb.Operation, "OPERATION_"),
    r.LeaseState: (pb.LeaseState, "LEASE_STATE_"),
    r.Availability: (pb.Availability, "AVAILABILITY_"),
    r.HealthStatus: (pb.HealthStatus, "HEALTH_STATUS_"),
    r.SystemPromptPosition: (pb.SystemPromptPosition, "SYSTEM_PROMPT_POSITION_"),
    r.ReasoningMode: (pb.ReasoningMode, "REASONING_MODE_"),
    r.CommandState: (cluster_service_pb2.CommandState, "COMMAND_STATE_"),
}

# By class first: members of different enums may be equal strings.
_TO_NUMBER: Final[dict[type[StrEnum], dict[StrEnum, int]]] = {
    cls: {
        member: wire.Value(prefix + member.name)
        for member in cls
        if prefix + member.name in wire.keys()  # noqa: SIM118 - protobuf's enum wrapper is no dict
    }
    for cls, (wire, prefix) in _ENUMS.items()
}
_FROM_NUMBER: Final[dict[type[StrEnum], dict[int, StrEnum]]] = {
    cls: {number: member for member, number in numbers.items()} for cls, numbers in _TO_NUMBER.items()
}

# What is measured by others and may be nonsense: above these it is.
_MEASURED: Final = (r.Observed, r.HostObserved, r.GpuObserved, r.ServiceTraffic, r.AssetState)
_SHARES: Final = frozenset({"utilization", "cpu_utilization", "kv_cache_usage", "prefix_cache_hit_rate"})
_COUNTS: Final = ("running", "waiting", "slots", "loaded_model_count", "in_flight")
_LIMITS: Final = dict.fromkeys(_SHARES, 1.0) | dict.fromkeys(_COUNTS, 1e6)
_MOST: Final = 2**53  # exact in a double, and more bytes than any machine has

_R = typing.TypeVar("_R", bound=r.Resource)
_Encode = Callable[[Any, Any], None]
_Decode = Callable[[Any], Any]


class _Field(typing.NamedTuple):
    """How one field travels: `encode(value, message)` and `decode(message)`."""

    name: str
    encode: _Encode
    decode: _Decode


def sensible(name: str, value: float | None) -> float | None:
    """A measured number, or None if it cannot be one: not finite, negative, or beyond its limit."""
    if value is None or not math.isfinite(value) or value < 0 or value > _LIMITS.get(name, _MOST):
        return None
    return value


def encode(value: r.Resource) -> Any:
    """The wire message of a resource."""
    message = PAIRS[type(value)]()
    _fill(value, message)
    return message


def _fill(value: r.Resource, message: Any) -> None:
    for field in _PLANS[type(value)]:
        content = getattr(value, field.name)
        if content is not None:
            field.encode(content, message)


def decode(cls: type[_R], message: Any) -> _R:
    """The resource of a wire message."""
    return cls(**{field.name: field.decode(message) for field in _PLANS[cls]})


def _plan(cls: type[r.Resource]) -> tuple[_Field, ...]:
    hints = typing.get_type_hints(cls)
    return tuple(
        _field(info.name, hints[info.name], _default(info), measured=issubclass(cls, _MEASURED))
        for info in msgspec.structs.fields(cls)
    )


def _default(info: msgspec.structs.FieldInfo) -> Any:
    if info.default_factory is not msgspec.NODEFAULT:
        return info.default_factory()
    return None if info.default is msgspec.NODEFAULT else info.default


def _field(name: str, hint: Any, default: Any, *, measured: bool) -> _Field:
    """Choose how a field travels by its annotation."""
    if typing.get_origin(hint) is types.UnionType:
        return _optional(name, next(arg for arg in typing.get_args(hint) if arg is not type(None)), measured=measured)
    if typing.get_origin(hint) is tuple:
        return _Field(name, *_repeated(name, typing.get_args(hint)[0]))
    if typing.get_origin(hint) is dict:
        return _Field(name, *_mapping(name, *typing.get_args(hint)))
    if issubclass(hint, StrEnum):
        return _Field(name, *_enum(name, hint, default))
    if issubclass(hint, r.Resource):
        return _Field(name, *_nested(name, hint, default))
    if hint is bool:  # a bool that is not set is False on the wire, whatever the default here
        return _Field(name, lambda value, message: setattr(message, name, value), lambda m: getattr(m, name))
    if measured and hint is int:
        return _Field(name, *_measured_count(name))
    return _Field(
        name,
        lambda value, message: setattr(message, name, value),
        (lambda m: getattr(m, name) or default) if default else (lambda m: getattr(m, name)),
    )


def _optional(name: str, hint: Any, *, measured: bool) -> _Field:
    if issubclass(hint, StrEnum):
        return _Field(name, *_enum(name, hint, None))
    if not measured:
        return _Field(
            name,
            lambda value, message: setattr(message, name, value),
            lambda m: getattr(m, name) if m.HasField(name) else None,
        )

    def put(value: float, message: Any) -> None:
        if (good := sensible(name, value)) is not None:
            setattr(message, name, good)

    return _Field(name, put, lambda m: sensible(name, getattr(m, name)) if m.HasField(name) else None)


def _measured_count(name: str) -> tuple[_Encode, _Decode]:
    return (
        lambda value, message: setattr(message, name, sensible(name, value) or 0),
        lambda message: sensible(name, getattr(message, name)) or 0,
    )


def _repeated(name: str, hint: Any) -> tuple[_Encode, _Decode]:
    if issubclass(hint, StrEnum):
        numbers, known = _TO_NUMBER[hint], _FROM_NUMBER[hint]
        return (
            lambda values, message: getattr(message, name).extend(numbers[value] for value in values),
            lambda message: tuple(known[number] for number in getattr(message, name) if number in known),
        )
    if issubclass(hint, r.Resource):
        return (
            lambda values, message: _fill_all(values, getattr(message, name)),
            lambda message: tuple(decode(hint, item) for item in getattr(message, name)),
        )
    return (
        lambda values, message: getattr(message, name).extend(values),
        lambda message: tuple(getattr(message, name)),
    )


def _fill_all(values: Iterable[r.Resource], container: Any) -> None:
    for value in values:
        _fill(value, container.add())


def _mapping(name: str, _key: Any, hint: Any) -> tuple[_Encode, _Decode]:
    if hint is Any:  # a JSON object, kept as text: a protobuf Struct would turn 20 into 20.0
        text = name + "_json"
        return (
            lambda value, message: setattr(message, text, msgspec.json.encode(value).decode()),
            lambda message: msgspec.json.decode(getattr(message, text) or "{}", type=dict[str, Any]),
        )
    if hint is str:
        return (
            lambda value, message: getattr(message, name).update(value),
            lambda message: dict(getattr(message, name)),
        )
    key = _KEYS[hint]  # things by id travel as a list, in order of their ids
    return (
        lambda value, message: _fill_all((value[name] for name in sorted(value)), getattr(message, name)),
        lambda message: {getattr(item, key): decode(hint, item) for item in getattr(message, name)},
    )


def _enum(name: str, hint: type[StrEnum], default: Any) -> tuple[_Encode, _Decode]:
    numbers, known = _TO_NUMBER[hint], _FROM_NUMBER[hint]
    return (
        lambda value, message: setattr(message, name, numbers.get(value, 0)),
        lambda message: known.get(getattr(message, name), default),
    )


def _nested(name: str, hint: type[r.Resource], default: r.Resource) -> tuple[_Encode, _Decode]:
    def put(value: r.Resource, message: Any) -> None:
        if value != default:
            getattr(message, name).SetInParent()
            _fill(value, getattr(message, name))

    return put, lambda message: decode(hint, getattr(message, name)) if message.HasField(name) else default


_KEYS: Final = {
    r.Host: "host_id",
    r.Service: "service_id",
    r.Role: "role_id",
    r.AccessKey: "name",
    r.ServiceBenchmarks: "service_id",
}
_PLANS: Final = {cls: _plan(cls) for cls in PAIRS}


def host_to_pb(host: r.Host) -> pb.Host:
    """See `encode`."""
    return typing.cast("pb.Host", encode(host))


def host_from_pb(message: pb.Host) -> r.Host:
    """See `decode`."""
    return decode(r.Host, message)


def service_to_pb(service: r.Service) -> pb.Service:
    """See `encode`."""
    return typing.cast("pb.Service", encode(service))


def service_from_pb(message: pb.Service) -> r.Service:
    """See `decode`."""
    return decode(r.Service, message)


def role_to_pb(role: r.Role) -> pb.Role:
    """See `encode`."""
    return typing.cast("pb.Role", encode(role))


def role_from_pb(message: pb.Role) -> r.Role:
    """See `decode`."""
    return decode(r.Role, message)


def snapshot_to_pb(snapshot: r.Snapshot) -> pb.Snapshot:
    """See `encode`."""
    return typing.cast("pb.Snapshot", encode(snapshot))


def snapshot_from_pb(message: pb.Snapshot) -> r.Snapshot:
    """See `decode`."""
    return decode(r.Snapshot, message)


def delta_to_pb(delta: r.SnapshotDelta) -> routing_service_pb2.SnapshotDelta:
    """See `encode`."""
    return typing.cast("routing_service_pb2.SnapshotDelta", encode(delta))


def delta_from_pb(message: routing_service_pb2.SnapshotDelta) -> r.SnapshotDelta:
    """See `decode`."""
    return decode(r.SnapshotDelta, message)


def observed_to_pb(observed: r.Observed) -> pb.Observed:
    """See `encode`."""
    return typing.cast("pb.Observed", encode(observed))


def observed_from_pb(message: pb.Observed) -> r.Observed:
    """See `decode`."""
    return decode(r.Observed, message)


def host_observed_to_pb(observed: r.HostObserved) -> pb.HostObserved:
    """See `encode`."""
    return typing.cast("pb.HostObserved", encode(observed))


def host_observed_from_pb(message: pb.HostObserved) -> r.HostObserved:
    """See `decode`."""
    return decode(r.HostObserved, message)


def service_state_to_pb(state: r.ServiceState) -> node_service_pb2.ServiceState:
    """See `encode`."""
    return typing.cast("node_service_pb2.ServiceState", encode(state))


def service_state_from_pb(message: node_service_pb2.ServiceState) -> r.ServiceState:
    """See `decode`."""
    return decode(r.ServiceState, message)


def traffic_to_pb(traffic: r.ServiceTraffic) -> routing_service_pb2.ServiceTraffic:
    """See `encode`."""
    return typing.cast("routing_service_pb2.ServiceTraffic", encode(traffic))


def traffic_from_pb(message: routing_service_pb2.ServiceTraffic) -> r.ServiceTraffic:
    """See `decode`."""
    return decode(r.ServiceTraffic, message)


def sample_to_pb(sample: r.BenchmarkSample) -> benchmark_service_pb2.BenchmarkSample:
    """See `encode`."""
    return typing.cast("benchmark_service_pb2.BenchmarkSample", encode(sample))


def sample_from_pb(message: benchmark_service_pb2.BenchmarkSample) -> r.BenchmarkSample:
    """See `decode`. Nonsense in numbers is kept, for the ingest to refuse by name."""
    return decode(r.BenchmarkSample, message)


def key_to_pb(key: r.AccessKey) -> pb.AccessKey:
    """See `encode`."""
    return typing.cast("pb.AccessKey", encode(key))


def key_from_pb(message: pb.AccessKey) -> r.AccessKey:
    """See `decode`."""
    return decode(r.AccessKey, message)


def audit_to_pb(entry: r.AuditEntry) -> access_service_pb2.AuditEntry:
    """See `encode`."""
    return typing.cast("access_service_pb2.AuditEntry", encode(entry))


def audit_from_pb(message: access_service_pb2.AuditEntry) -> r.AuditEntry:
    """See `decode`."""
    return decode(r.AuditEntry, message)


def operation_to_pb(operation: r.Operation | None) -> pb.Operation:
    """The wire enum; None is unspecified."""
    return typing.cast("pb.Operation", 0 if operation is None else _TO_NUMBER[r.Operation][operation])


def operation_from_pb(number: int) -> r.Operation | None:
    """The operation; None if it is unspecified or unknown here."""
    return typing.cast("r.Operation | None", _FROM_NUMBER[r.Operation].get(number))
