"""The one YAML schema: every section as a frozen struct; attribute names are the YAML keys.

A daemon reads the sections it needs. Every value has a default, so an empty file is a valid config of one machine.
`config_load` reads files and environment into these structs, `config_check` refuses what the types cannot. Names
ending in `_s` are seconds, in `_bytes` bytes. The attribute docstrings here are the reference; docs/config.md follows.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from geniehive.resources import Asset, Operation

Port = Annotated[int, Meta(ge=0, le=65535)]
Seconds = Annotated[float, Meta(gt=0)]
SecondsOrOff = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=1)]
Workers = Annotated[int, Meta(ge=1, le=256)]
Share = Annotated[float, Meta(ge=0, le=1)]
Weight = Annotated[float, Meta(ge=0, le=1000)]
Exponent = Annotated[float, Meta(ge=0, le=10)]

DiscoverProtocol = Literal[
    "auto",
    "ollama",
    "openai",
    "llamacpp",
    "vllm",
    "sglang",
    "lmstudio",
    "speaches",
    "whisper",
    "whispercpp",
    "kokoro",
    "sdcpp",
    "manifest",
]
Strategy = Literal["scored", "round_robin", "least_loaded", "predicted"]

DEFAULT_DISCOVER_PORTS = (
    11434,  # Ollama
    8080,  # llama.cpp, whisper.cpp, mlx
    8000,  # vLLM, speaches
    30000,  # SGLang
    1234,  # LM Studio, stable-diffusion.cpp
    8880,  # Kokoro-FastAPI
)


# Of a request, what would steer an engine behind the gateway's back: where it calls out to, whose key it
# uses, which slot or cache it takes, what code it loads.
DEFAULT_DROPPED_PARAMETERS = (
    "api_base",
    "api_key",
    "base_url",
    "bootstrap_host",  # SGLang: where to fetch a KV cache from
    "bootstrap_port",
    "bootstrap_room",
    "custom_llm_provider",
    "custom_logit_processor",  # SGLang: pickled code
    "extra_headers",
    "id_slot",  # llama.cpp: the gateway chooses the engine, the engine its slot
    "kv_transfer_params",  # vLLM: where to fetch a KV cache from
    "n_discard",
)


# What engines serve besides, and nothing that changes them: scores and classes (vLLM, SGLang), tokens (SGLang,
# llama.cpp), variations of images and sounds (LocalAI).
DEFAULT_EXTRA_ROUTES = (
    "/v1/chat/completions/input_tokens",
    "/v1/classify",
    "/v1/detokenize",
    "/v1/images/variations",
    "/v1/score",
    "/v1/sound-generation",
    "/v1/tokenize",
)


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all sections: frozen, and strict about keys."""


class EjectionConfig(Section, frozen=True, kw_only=True):
    """When a worker of the gateway keeps a service out for a while, by how its own requests fared there."""

    failures: Annotated[int, Meta(ge=0)] = 5
    """In a row, after which a service is ejected; 0 is never."""
    failure_rate: Share = 0.5
    """Of the requests of the last 10 seconds, from which on a service is ejected; 0 is never."""
    least_requests: Count = 10
    """In those 10 seconds, for the rate to count."""
    first_s: Seconds = 1
    """For which a service is ejected; each ejection in a row lasts twice as long."""
    longest_s: Seconds = 10
    """For an ejection."""
    trials: Count = 1
    """Requests at a time that may try a service again once its ejection is over; one that goes well ends it."""


class QueueConfig(Section, frozen=True, kw_only=True):
    """Where requests wait that an engine has no free slot for."""

    at_slots: bool = True
    """Whether a service gets no more requests at a time than it has slots (`max_concurrency`, else what the engine
    tells; unknown is no limit); false sends all on, and engines queue."""
    most: Annotated[int, Meta(ge=0)] = 256
    """Requests that may wait for one service in each worker; more are answered 503. 0 lets none wait."""
    timeout_s: Seconds = 120
    """For which a request may wait; then it is answered 503."""


class GatewayConfig(Section, frozen=True, kw_only=True):
    """The HTTP side: where it listens, and how long it waits for whom."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Port = 8800
    """Port to listen on; 0 takes a free one."""
    workers: Workers = 1
    """Processes that share the port."""
    gateway_id: str = ""
    """Name in the control plane; empty is a random one."""
    max_body_bytes: Count = 32 * 1024 * 1024
    """Largest JSON body."""
    max_upload_bytes: Count = 2 * 1024 * 1024 * 1024
    """Largest multipart body (audio, images)."""
    max_answer_bytes: Count = 1024 * 1024 * 1024
    """Largest answer of an engine, streams too; a longer one is broken off with an error."""
    max_resume_bytes: Annotated[int, Meta(ge=0)] = 1024 * 1024
    """Text of a stream that is kept, so that another service can go on with it when it is cut; 0 is never."""
    max_resumptions: Annotated[int, Meta(ge=0)] = 3
    """Attempts to go on with one stream that was cut; 0 is none."""
    max_connections: Count = 10_000
    """Clients that may be connected to each worker; more are answered 503. Never more than half its open files."""
    connect_timeout_s: Seconds = 5
    """For a connection to an engine."""
    first_byte_timeout_s: Seconds = 300
    """For an engine's first byte, not counting the time in which it is known to load the model."""
    load_timeout_s: Seconds = 600
    """For the first byte of an engine that has to load the model."""
    idle_timeout_s: Seconds = 120
    """Between two pieces of an engine's stream."""
    request_timeout_s: Seconds = 3600
    """For a request as a whole, its stream included."""
    body_timeout_s: Seconds = 30
    """Without a byte of a client's body."""
    header_timeout_s: Seconds = 10
    """For a client's headers."""
    keepalive_comment_s: SecondsOrOff = 15
    """Between comment lines in a waiting stream; 0 is none."""
    drain_timeout_s: SecondsOrOff = 30
    """That running requests get at shutdown."""
    dropped_parameters: tuple[str, ...] = DEFAULT_DROPPED_PARAMETERS
    """Fields of JSON bodies (top level) and forms that engines never see from clients; policies may set them."""
    extra_routes: tuple[str, ...] = DEFAULT_EXTRA_ROUTES
    """Paths under /v1 that are not known here and sent on by their `model`; all others are a 404."""
    receipts: Annotated[int, Meta(ge=0, le=100_000)] = 1000
    """Finished requests whose receipts each worker keeps; 0 is none."""
    stored_responses: Annotated[int, Meta(ge=0, le=100_000)] = 1000
    """Responses that each worker keeps for `previous_response_id`, of 64 MiB together; 0 is none."""
    ejection: EjectionConfig = EjectionConfig()
    """When failing services are kept out."""
    queue: QueueConfig = QueueConfig()
    """Where requests wait for a free slot."""
    tls_cert_file: str = ""
    """Certificate chain (PEM) to serve HTTPS with; empty is plain HTTP. Read again when it changes, and on SIGHUP."""
    tls_key_file: str = ""
    """Its private key; empty is in `tls_cert_file` as well."""
    state_dir: str = "state"
    """Folder for what the gateway keeps: its own certificate, once it has joined."""


class ControlConfig(Section, frozen=True, kw_only=True):
    """The control plane itself."""

    listen: str = "127.0.0.1:8801"
    """host:port of the gRPC server."""
    lease_ttl_s: Seconds = 15
    """Silence after which a host is stale and leaves the routes."""
    lease_grace_s: Seconds = 60
    """Further silence after which it is offline."""
    heartbeat_interval_s: Seconds = 5
    """What nodes are told; must be less than the lease."""
    max_message_bytes: Count = 16 * 1024 * 1024
    """Largest gRPC message."""
    allowed_endpoints: tuple[str, ...] = ()
    """Networks (192.168.1.0/24) and names of engines that nodes may announce besides addresses of their own host."""
    tls: Literal["auto", "on", "off"] = "auto"
    """Whether only certificates of the cluster get in (mTLS); auto: as soon as `listen` is beyond loopback."""
    tls_names: tuple[str, ...] = ()
    """Further host names and addresses in the control plane's own certificate."""
    tls_cert_file: str = ""
    """Certificate chain (PEM) of the control plane, instead of one that its CA issues."""
    tls_key_file: str = ""
    """Its private key."""
    ca_cert_file: str = ""
    """Your own CA (PEM, the issuing one first); empty is one that is made in `state_dir`."""
    ca_key_file: str = ""
    """Its private key; without it nobody can join here, and all certificates are yours to make."""
    certificate_ttl_s: Seconds = 86400
    """Life of the certificates that are issued; they are renewed at half of it."""
    operator_certificate_ttl_s: Seconds = 90 * 86400
    """The same for the certificates of people."""
    join_approval: bool = False
    """Whether a host that joins waits until `geniehive nodes approve`."""
    state_dir: str = "state"
    """Folder for the CA and its key."""


class ControlPlaneConfig(Section, frozen=True, kw_only=True):
    """What node agents, gateways and the CLI dial."""

    address: str = "127.0.0.1:8801"
    """host:port of the control plane; several are separated by commas."""
    addresses: tuple[str, ...] = ()
    """The same as a list; used instead of `address` where given."""
    node_api_key: str = ""
    """One of the control plane's `auth.node_api_keys`; for a control plane without TLS."""
    ca_file: str = ""
    """CA (PEM) that vouches for the control plane; not needed after a join, which keeps it in the state folder."""
    cert_file: str = ""
    """Own certificate chain (PEM), where it is not had by joining."""
    key_file: str = ""
    """Its private key; empty is in `cert_file` as well."""
    server_name: str = ""
    """Name that the control plane's certificate must have; empty is that of certificates that it issues to itself."""

    @property
    def targets(self) -> tuple[str, ...]:
        """Every address to try, in order."""
        return self.addresses or tuple(part.strip() for part in self.address.split(",") if part.strip())


class StorageConfig(Section, frozen=True, kw_only=True):
    """Where the control plane keeps what must survive a restart."""

    url: str = "sqlite+aiosqlite:///state/geniehive.sqlite3"
    """SQLAlchemy URL; three slashes and a path is relative to the working directory, four absolute."""


class AuthConfig(Section, frozen=True, kw_only=True):
    """Keys. An empty list leaves that side open, which only loopback may be, until the first token is made."""

    client_api_keys: tuple[str, ...] = ()
    """For HTTP clients of the gateway."""
    node_api_keys: tuple[str, ...] = ()
    """For node agents and gateways at the control plane."""
    admin_api_keys: tuple[str, ...] = ()
    """For operators: everything that the others may, and orders to the cluster."""


class WeightsConfig(Section, frozen=True, kw_only=True):
    """How much each signal counts in scores (`geniehive route match`): shares of their sum; 0 leaves one out."""

    text: Weight = 4
    """Words that the task shares with the role's or the service's own texts."""
    family: Weight = 1
    """How early the model's family stands in the role's preferred_families."""
    loaded: Weight = 1
    """Whether the model is in memory."""
    latency: Weight = 1
    """Time to first token."""
    throughput: Weight = 1
    """Generated tokens a second."""
    queue: Weight = 1
    """Requests that are there already."""
    benchmark: Weight = 2
    """Quality in benchmarks that resemble the task."""


class ScoredConfig(Section, frozen=True, kw_only=True):
    """How much each signal counts in the strategy `scored`: exponents of a product; 0 leaves one out."""

    idle: Exponent = 1
    """Requests there for each slot, and those that would wait."""
    speed: Exponent = 1
    """Generated tokens a second beside the fastest candidate's."""
    warm: Exponent = 1
    """Share of the prompt that is in the cache there."""
    loaded: Exponent = 1
    """Whether the model is in memory."""
    benchmark: Exponent = 1
    """Quality in benchmarks that resemble the role, and the share of requests that did not fail."""


class RoutingConfig(Section, frozen=True, kw_only=True):
    """How services are chosen."""

    default_strategy: Strategy = "scored"
    """Used where a role names none."""
    health_stale_after_s: Seconds = 30
    """Age after which what was measured of a host and its services counts as unknown."""
    probe_interval_s: SecondsOrOff = 0
    """Between probes of each service that the control plane makes itself; 0 is none."""
    probe_timeout_s: Seconds = 5
    """For one such probe."""
    weights: WeightsConfig = WeightsConfig()
    """How much each signal counts in scores."""
    scored: ScoredConfig = ScoredConfig()
    """How much each signal counts in the strategy `scored`."""


class NodeConfig(Section, frozen=True, kw_only=True):
    """The host that a node agent speaks for."""

    host_id: str = ""
    """Name in the cluster; empty is the host name."""
    display_name: str = ""
    """Name for people; empty is the id."""
    labels: dict[str, str] = {}
    """Anything that roles may prefer, such as {room: attic}."""
    trust_tier: str = ""
    """Word that roles allow or deny, such as "trusted" or "shared"."""
    workload_classes: tuple[str, ...] = ()
    """Kinds of work that the host is for, such as "interactive" or "batch"."""
    device_class: str = ""
    """Kind of machine, such as "server", "workstation" or "laptop"."""
    address: str = ""
    """What gateways dial to reach engines here; empty is taken from the route to the control plane."""
    heartbeat_interval_s: Seconds | None = None
    """Between heartbeats; absent is what the control plane says (5)."""
    discover: bool = True
    """Whether engines are looked for on this host."""
    discover_ports: tuple[Port, ...] = DEFAULT_DISCOVER_PORTS
    """Where they are looked for."""
    status_host: str = "127.0.0.1"
    """Address of the agent's own status page."""
    status_port: Port = 8802
    """Its port; 0 takes a free one."""
    state_dir: str = "state"
    """Folder for what the agent keeps: its boot epoch, generated models."""


class RuntimeConfig(Section, frozen=True, kw_only=True):
    """What runs behind a service, and who starts it."""

    engine: str = ""
    """Such as "llama.cpp" or "vllm"."""
    launcher: Literal["external", "managed"] = "external"
    """external: somebody else starts it. managed: the node agent does."""
    version: str = ""
    """As the engine calls it."""
    command: tuple[str, ...] = ()
    """managed: program and arguments. Empty with engine llama.cpp is the embedded one."""
    env: dict[str, str] = {}
    """managed: variables added to its environment."""
    cwd: str = ""
    """managed: its working directory; empty is the agent's."""
    model: str = ""
    """Embedded llama.cpp: the GGUF file; empty is a tiny generated model whose words are noise."""
    context_size: Count | None = None
    """Embedded llama.cpp: tokens of context; absent is the model's own."""
    slots: Count | None = None
    """Embedded llama.cpp: requests at a time; absent is the engine's default."""
    gpu_layers: int | None = None
    """Embedded llama.cpp: layers on the GPU; absent is the engine's default."""
    embedding: bool | None = None
    """Embedded llama.cpp: also serve embeddings from a chat model; absent does so for the tiny model alone."""
    start_timeout_s: Seconds = 120
    """managed: for the engine to come up."""
    stop_timeout_s: Seconds = 10
    """managed: from SIGTERM to SIGKILL."""


class ServiceConfig(Section, frozen=True, kw_only=True):
    """One endpoint of one engine on the node's host."""

    service_id: str
    """Unique in the cluster, such as "atlas-01/chat/qwen3-8b"."""
    kind: Operation | None = None
    """The one operation it serves."""
    kinds: tuple[Operation, ...] = ()
    """The operations it serves; instead of `kind`. With neither, discovery says."""
    endpoint: str = ""
    """http(s)://host:port of the engine, without /v1; what gateways dial."""
    discover_protocol: DiscoverProtocol | None = None
    """How the engine is asked what it serves; null: it is not, `assets` says all. Where there are no `assets`: auto."""
    api_key: str = ""
    """The engine's own key; stays on the host."""
    manifest: str = ""
    """JSON manifest of a server that lists nothing: a file, or else a path on the server ("/models.json")."""
    runtime: RuntimeConfig = RuntimeConfig()
    """What runs behind it."""
    assets: tuple[Asset, ...] = ()
    """Models known beforehand; discovery adds to them and corrects what changes."""
    routes: tuple[str, ...] = ()
    """Routes that the engine serves itself beside those of its kinds, such as "/v1/messages"; empty: discovery says."""
    max_concurrency: Count | None = None
    """Requests that the engine takes at a time; absent is unknown."""

    @property
    def operations(self) -> tuple[Operation, ...]:
        """`kind` or `kinds`, whichever is given."""
        return (self.kind,) if self.kind else self.kinds


class Config(Section, frozen=True, kw_only=True):
    """The whole file."""

    gateway: GatewayConfig = GatewayConfig()
    """The HTTP side."""
    control: ControlConfig = ControlConfig()
    """The control plane itself."""
    control_plane: ControlPlaneConfig = ControlPlaneConfig()
    """What node agents, gateways and the CLI dial."""
    storage: StorageConfig = StorageConfig()
    """Where the control plane keeps its registry."""
    auth: AuthConfig = AuthConfig()
    """Keys."""
    roles_path: str = ""
    """YAML file of roles, relative to this file; empty is none."""
    routing: RoutingConfig = RoutingConfig()
    """How services are chosen."""
    node: NodeConfig = NodeConfig()
    """The host that a node agent speaks for."""
    services: tuple[ServiceConfig, ...] = ()
    """Engines of the node's host."""
