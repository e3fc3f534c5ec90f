"""The nouns of the cluster as immutable values, shared by every component.

These are the in-process twins of `protos/geniehive/v1/resources.proto`; `geniehive.codec` turns one
into the other. A value of `None` means unknown, and unknown is never zero: an engine that reports
no queue must not look idle.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec


class Operation(StrEnum):
    """What a client can ask of a model."""

    CHAT = "chat"
    COMPLETION = "completion"
    EMBEDDINGS = "embeddings"
    RERANK = "rerank"
    TRANSCRIPTION = "transcription"
    TRANSLATION = "translation"
    SPEECH = "speech"
    IMAGE = "image"


class LeaseState(StrEnum):
    """Where a host stands with its lease."""

    UP = "up"
    STALE = "stale"
    OFFLINE = "offline"


class Availability(StrEnum):
    """Whether a host is offered for work."""

    AVAILABLE = "available"
    BUSY = "busy"
    DRAINING = "draining"
    PAUSED_BY_USER = "paused_by_user"
    OFFLINE = "offline"
    QUARANTINED = "quarantined"


class HealthStatus(StrEnum):
    """Whether a service answers."""

    UNKNOWN = "unknown"
    HEALTHY = "healthy"
    LOADING = "loading"
    UNHEALTHY = "unhealthy"


class SystemPromptPosition(StrEnum):
    """Where a policy's system prompt goes, relative to the client's."""

    PREPEND = "prepend"
    APPEND = "append"
    REPLACE = "replace"


class ReasoningMode(StrEnum):
    """What happens to reasoning fields in answers."""

    PASS = "pass"  # noqa: S105 - the design's word, not a password
    STRIP = "strip"


class CommandState(StrEnum):
    """Life of a command."""

    PENDING = "pending"
    SENDING = "sending"
    ACCEPTED = "accepted"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    UNKNOWN = "unknown"


class CommandKind(StrEnum):
    """What a command orders."""

    LOAD = "load"
    UNLOAD = "unload"
    DRAIN = "drain"
    RESUME = "resume"
    PROBE = "probe"


class Resource(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of all values here: frozen, compared by content, encodable as JSON and YAML.

    Fields that this version does not know are passed over: a record of a later version can be read.
    Files that people write are checked for unknown keys by `geniehive.config_schema`.
    """


class Gpu(Resource, frozen=True, kw_only=True):
    """One GPU, as the driver names it."""

    index: int
    uuid: str = ""
    name: str = ""
    vendor: str = ""
    vram_total_bytes: int | None = None
    driver_version: str = ""


class HostFacts(Resource, frozen=True, kw_only=True):
    """What a host is made of; constant while a node agent runs."""

    hostname: str = ""
    os: str = ""
    arch: str = ""
    cpu_model: str = ""
    cpu_count: int | None = None
    ram_total_bytes: int | None = None
    gpus: tuple[Gpu, ...] = ()
    agent_version: str = ""


class GpuObserved(Resource, frozen=True, kw_only=True):
    """What was measured of one GPU: bytes, shares of 0 to 1, degrees Celsius, watts."""

    index: int
    vram_used_bytes: int | None = None
    utilization: float | None = None
    temperature_celsius: float | None = None
    power_watts: float | None = None


class HostObserved(Resource, frozen=True, kw_only=True):
    """What was measured of a host."""

    ram_available_bytes: int | None = None
    cpu_utilization: float | None = None
    gpus: tuple[GpuObserved, ...] = ()


class Host(Resource, frozen=True, kw_only=True):
    """A machine of the cluster."""

    host_id: str
    display_name: str = ""
    labels: dict[str, str] = {}
    trust_tier: str = ""
    workload_classes: tuple[str, ...] = ()
    device_class: str = ""
    address: str = ""
    facts: HostFacts = HostFacts()
    availability: Availability = Availability.AVAILABLE
    lease: LeaseState = LeaseState.UP
    boot_epoch: int = 0
    observed: HostObserved = HostObserved()
    heartbeat_age_seconds: float | None = None
    notes: tuple[str, ...] = ()


class RequestPolicy(Resource, frozen=True, kw_only=True):
    """Changes that a role or an asset makes to requests.

    `body_defaults` are merged under the client's body, `body_overrides` over it.
    """

    body_defaults: dict[str, Any] = {}
    body_overrides: dict[str, Any] = {}
    system_prompt: str = ""
    system_prompt_position: SystemPromptPosition = SystemPromptPosition.PREPEND
    reasoning: ReasoningMode | None = None


class Asset(Resource, frozen=True, kw_only=True):
    """A model that a service can serve; `loaded` is None where the engine does not tell."""

    asset_id: str
    aliases: tuple[str, ...] = ()
    loaded: bool | None = None
    context_size: int | None = None
    family: str = ""
    quantization: str = ""
    capabilities: tuple[str, ...] = ()
    operations: tuple[Operation, ...] = ()
    size_bytes: int | None = None
    vram_bytes: int | None = None
    parameter_size: str = ""
    request_policy: RequestPolicy = RequestPolicy()


class Runtime(Resource, frozen=True, kw_only=True):
    """What runs behind a service."""

    engine: str = ""
    launcher: str = "external"
    version: str = ""


class Observed(Resource, frozen=True, kw_only=True):
    """What was measured of a service: counts, bytes, seconds, shares of 0 to 1, tokens a second."""

    running: int | None = None
    waiting: int | None = None
    slots: int | None = None
    kv_cache_usage: float | None = None
    vram_used_bytes: int | None = None
    loaded_model_count: int | None = None
    tokens_per_second: float | None = None
    prompt_tokens_per_second: float | None = None
    ttft_seconds: float | None = None
    latency_seconds: float | None = None
    in_flight: int | None = None
    prefix_cache_hit_rate: float | None = None


class Health(Resource, frozen=True, kw_only=True):
    """Whether a service answers, and why not."""

    status: HealthStatus = HealthStatus.UNKNOWN
    reason: str = ""


class Service(Resource, frozen=True, kw_only=True):
    """One endpoint of one engine on a host; `endpoint` has no trailing slash and no /v1."""

    service_id: str
    host_id: str
    operations: tuple[Operation, ...] = ()
    endpoint: str = ""
    protocol: str = "openai"
    runtime: Runtime = Runtime()
    assets: tuple[Asset, ...] = ()
    health: Health = Health()
    observed: Observed = Observed()
    max_concurrency: int | None = None
    discovered: bool = False
    reachable: bool = True
    notes: tuple[str, ...] = ()


class PromptPolicy(Resource, frozen=True, kw_only=True):
    """Shaping of prompts by a role; `user_template` has "{input}" where the user's message goes."""

    system_prompt: str = ""
    system_prompt_position: SystemPromptPosition = SystemPromptPosition.PREPEND
    user_template: str = ""
    request_policy: RequestPolicy = RequestPolicy()


class RoutingPolicy(Resource, frozen=True, kw_only=True):
    """Choice of services by a role; an empty tuple means any."""

    preferred_families: tuple[str, ...] = ()
    preferred_labels: dict[str, str] = {}
    min_context: int | None = None
    require_loaded: bool = False
    allowed_trust_tiers: tuple[str, ...] = ()
    denied_trust_tiers: tuple[str, ...] = ()
    allowed_device_classes: tuple[str, ...] = ()
    denied_device_classes: tuple[str, ...] = ()
    allowed_workload_classes: tuple[str, ...] = ()
    denied_workload_classes: tuple[str, ...] = ()
    fallback_roles: tuple[str, ...] = ()
    strategy: str = ""
    assets: tuple[str, ...] = ()
    priority: str = ""
    hedge: bool = False
    no_resume: bool = False
    steady_prefix: bool = False


class Role(Resource, frozen=True, kw_only=True):
    """A task profile. Clients may use its id as a model name."""

    role_id: str
    display_name: str = ""
    description: str = ""
    operation: Operation = Operation.CHAT
    modality: str = ""
    prompt_policy: PromptPolicy = PromptPolicy()
    routing_policy: RoutingPolicy = RoutingPolicy()


class AccessKey(Resource, frozen=True, kw_only=True):
    """A credential that gateways accept, without its secret; times in Unix seconds."""

    name: str
    secret_sha256: bytes
    scopes: tuple[str, ...] = ("inference",)
    models: tuple[str, ...] = ()
    operations: tuple[Operation, ...] = ()
    max_concurrency: int | None = None
    priority: str = ""
    expires_at: int | None = None
    created_at: int = 0
    created_by: str = ""
    revoked_at: int | None = None


class AuditEntry(Resource, frozen=True, kw_only=True):
    """One change to the cluster: who did what to which thing, and "ok" or the error; `entry_id` is the store's."""

    at_ms: int
    actor: str
    action: str
    subject: str = ""
    outcome: str = "ok"
    entry_id: int = 0


class BenchmarkSummary(Resource, frozen=True, kw_only=True):
    """What recent runs of one workload told about one asset: medians; seconds, tokens a second, a share of 0 to 1."""

    workload: str
    asset_id: str = ""
    operation: Operation = Operation.CHAT
    runs: int = 1
    requests: int = 0
    failures: int = 0
    measured_at_ms: int = 0
    ttft_seconds: float | None = None
    tpot_seconds: float | None = None
    tokens_per_second: float | None = None
    latency_seconds: float | None = None
    quality: float | None = None


class ServiceBenchmarks(Resource, frozen=True, kw_only=True):
    """What benchmark runs told about one service."""

    service_id: str
    summaries: tuple[BenchmarkSummary, ...] = ()


class Snapshot(Resource, frozen=True, kw_only=True):
    """The picture of the cluster that gateways route by; the dicts are keyed by id, never changed."""

    epoch: int = 0
    revision: int = 0
    hosts: dict[str, Host] = {}
    services: dict[str, Service] = {}
    roles: dict[str, Role] = {}
    access_keys: dict[str, AccessKey] = {}
    benchmarks: dict[str, ServiceBenchmarks] = {}
    keys_required: bool = False


class SnapshotDelta(Resource, frozen=True, kw_only=True):
    """A change of shape: what it names replaces what was there."""

    base_revision: int
    hosts: tuple[Host, ...] = ()
    services: tuple[Service, ...] = ()
    roles: tuple[Role, ...] = ()
    access_keys: tuple[AccessKey, ...] = ()
    removed_host_ids: tuple[str, ...] = ()
    removed_service_ids: tuple[str, ...] = ()
    removed_role_ids: tuple[str, ...] = ()
    removed_access_keys: tuple[str, ...] = ()
    benchmarks: tuple[ServiceBenchmarks, ...] = ()
    removed_benchmarks: tuple[str, ...] = ()
    keys_required: bool = False


class AssetState(Resource, frozen=True, kw_only=True):
    """What changes often about an asset."""

    asset_id: str
    loaded: bool | None = None
    vram_bytes: int | None = None


class ServiceState(Resource, frozen=True, kw_only=True):
    """What changes often about a service, as a heartbeat carries it."""

    service_id: str
    health: Health = Health()
    observed: Observed = Observed()
    assets: tuple[AssetState, ...] = ()


class ServiceTraffic(Resource, frozen=True, kw_only=True):
    """What one gateway worker saw of one service; totals count since the worker started."""

    service_id: str
    in_flight: int = 0
    succeeded_total: int = 0
    failed_total: int = 0
    ttft_seconds: float | None = None
    latency_seconds: float | None = None
    tokens_per_second: float | None = None
    prompt_tokens_per_second: float | None = None


class Command(Resource, frozen=True, kw_only=True):
    """An order to a node and where it stands; times in Unix milliseconds."""

    command_id: str
    host_id: str
    kind: CommandKind
    service_id: str = ""
    asset_id: str = ""
    context_size: int | None = None
    state: CommandState = CommandState.PENDING
    message: str = ""
    created_at_ms: int = 0
    updated_at_ms: int = 0


class BenchmarkSample(Resource, frozen=True, kw_only=True):
    """One run of one workload against one service; seconds, tokens a second, shares of 0 to 1."""

    sample_id: str
    workload: str
    service_id: str
    asset_id: str = ""
    host_id: str = ""
    operation: Operation = Operation.CHAT
    measured_at_ms: int = 0
    requests: int = 0
    failures: int = 0
    ttft_p50_seconds: float | None = None
    ttft_p95_seconds: float | None = None
    tpot_p50_seconds: float | None = None
    tpot_p95_seconds: float | None = None
    tokens_per_second: float | None = None
    latency_p50_seconds: float | None = None
    latency_p95_seconds: float | None = None
    quality: float | None = None
