"""What `geniehive up` makes of the user's config: one machine's ports, keys, state and engines.

The children get the whole derived config as a file that only the user can read, and no GENIEHIVE_ variables: those
are in it already.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from geniehive.config import Config, GatewayConfig, RuntimeConfig, ServiceConfig
from geniehive.config_check import is_loopback, parse_address
from geniehive.config_load import PREFIX, LoadedConfig
from geniehive.errors import ConfigError

EMBEDDED_PORT = 18090
EMBEDDED_ID = "embedded"
_DRAIN_S = 3.0
_GGUF_MAGIC = b"GGUF"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The derived config, where the state is, and what the address in the browser's bar is."""

    config: Config
    state_dir: Path
    url: str

    @property
    def client_key(self) -> str:
        """A key that the gateway takes, or "" where it wants none."""
        return next(iter(self.config.auth.client_api_keys), "")


def make_plan(loaded: LoadedConfig, *, port: int | None, state_dir: Path | None, environ: Mapping[str, str]) -> Plan:
    """Settle ports, state and keys. Raises ConfigError if a port is taken."""
    config = _with_ports(loaded.config, port)
    here = state_dir or default_state_dir(config.gateway.port if port is not None else None, environ)
    control_host, control_port = parse_address(config.control.listen)
    own_ports = {config.gateway.port, control_port, config.node.status_port}
    replace = msgspec.structs.replace
    node = replace(
        config.node,
        discover_ports=tuple(number for number in config.node.discover_ports if number not in own_ports),
        state_dir=config.node.state_dir if _given(loaded, "node.state_dir") else str(here),
    )
    control_plane = replace(
        config.control_plane,
        address=f"{_bracketed(_dialled(control_host))}:{control_port}",
        addresses=(),
        node_api_key=config.control_plane.node_api_key or next(iter(config.auth.node_api_keys), ""),
    )
    storage = config.storage
    if not _given(loaded, "storage.url"):
        storage = replace(storage, url=f"sqlite+aiosqlite:///{(here / 'geniehive.sqlite3').absolute()}")
    gateway = config.gateway
    if not _given(loaded, "gateway.drain_timeout_s"):
        gateway = replace(gateway, drain_timeout_s=_DRAIN_S)
    if not _given(loaded, "gateway.state_dir"):
        gateway = replace(gateway, state_dir=str(here))
    control = config.control
    if not _given(loaded, "control.state_dir"):
        control = replace(control, state_dir=str(here))
    derived = replace(config, node=node, control_plane=control_plane, storage=storage, gateway=gateway, control=control)
    return Plan(
        config=derived,
        state_dir=here,
        url=f"{'https' if gateway.tls_cert_file else 'http'}://{_bracketed(_dialled(gateway.host))}:{config.gateway.port}",
    )


def default_state_dir(port: int | None, environ: Mapping[str, str]) -> Path:
    """The user's state folder, as the XDG base directory specification has it; one for each port that is asked for."""
    base = environ.get("XDG_STATE_HOME") or str(Path(environ.get("HOME") or "~").expanduser() / ".local" / "state")
    return Path(base) / "geniehive" / ("up" if port is None else f"up-{port}")


def with_embedded(plan: Plan, model: Path | None) -> Plan:
    """The plan with the embedded llama.cpp as one more managed service; None is the tiny generated model."""
    usual = plan.config.gateway.port == GatewayConfig().port and _usable("127.0.0.1", EMBEDDED_PORT)
    endpoint = f"http://127.0.0.1:{usual or free_port('127.0.0.1')}"
    taken = {service.service_id for service in plan.config.services}
    host = plan.config.node.host_id or socket.gethostname() or "localhost"
    name = next(
        candidate
        for number in range(len(taken) + 1)
        if (candidate := f"{host}/{EMBEDDED_ID}{number or ''}") not in taken
    )
    runtime = RuntimeConfig(engine="llama.cpp", launcher="managed", model=str(model.absolute()) if model else "")
    service = ServiceConfig(service_id=name, endpoint=endpoint, discover_protocol="auto", runtime=runtime)
    config = msgspec.structs.replace(plan.config, services=(*plan.config.services, service))
    return Plan(config=config, state_dir=plan.state_dir, url=plan.url)


def embedded_installed() -> bool:
    """Whether the extra `engine` is there; what it needs itself, its installer brought."""
    from importlib.util import find_spec

    return find_spec("xllamacpp") is not None


def check_model(path: Path) -> None:
    """Refuse what cannot be a model file. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            magic = file.read(len(_GGUF_MAGIC))
    except OSError as error:
        raise ConfigError(f"--model {path}: cannot be read: {error.strerror or error}") from None
    if magic != _GGUF_MAGIC:
        raise ConfigError(f"--model {path}: not a GGUF file; llama.cpp needs one, such as those on Hugging Face")


def write_config(config: Config, path: Path) -> None:
    """Write a config for a child; nobody else may read it, for there are keys in it."""
    data = msgspec.json.encode(config)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(data)


def child_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without what is in the derived config already, and without our own supervisor's socket."""
    drop = {f"{PREFIX}ROLES_PATH", f"{PREFIX}CONFIG", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}
    return {
        name: value
        for name, value in environ.items()
        if name not in drop and not (name.startswith(PREFIX) and "__" in name)
    }


def free_port(host: str) -> int:
    """A port that nobody uses now."""
    with socket.socket(_family(host), socket.SOCK_STREAM) as sock:
        sock.bind((host, 0))
        return int(sock.getsockname()[1])


def _with_ports(config: Config, port: int | None) -> Config:
    control_host, control_port = parse_address(config.control.listen)
    if port is not None:
        wanted = (port, port + 1, port + 2) if port else (0, 0, 0)
    else:
        wanted = (config.gateway.port, control_port, config.node.status_port)
    hosts = (config.gateway.host, control_host, config.node.status_host)
    what = ("the gateway", "the control plane", "the node agent's status page")
    ports = [_settle(host, number, name) for host, number, name in zip(hosts, wanted, what, strict=True)]
    replace = msgspec.structs.replace
    return replace(
        config,
        gateway=replace(config.gateway, port=ports[0]),
        control=replace(config.control, listen=f"{_bracketed(control_host)}:{ports[1]}"),
        node=replace(config.node, status_port=ports[2]),
    )


def _settle(host: str, port: int, what: str) -> int:
    if port == 0:
        return free_port(host)
    if _usable(host, port):
        return port
    if answers_as_geniehive(_dialled(host), port):
        raise ConfigError(
            f"a GenieHive already runs on port {port}; use it, or stop it, or start a second one beside it: "
            "geniehive up --port 8810"
        )
    raise ConfigError(
        f"port {port} for {what} is in use by another program; choose others: geniehive up --port 8810 "
        "(that port and the two after it)"
    )


def _usable(host: str, port: int) -> int:
    """The port if it can be listened on, else 0. Raises ConfigError if the address itself cannot."""
    try:
        with socket.socket(_family(host), socket.SOCK_STREAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, port))
            sock.listen(1)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return 0
        if error.errno == errno.EACCES:
            raise ConfigError(f"port {port} is for the system's own programs; choose one above 1023") from None
        raise ConfigError(f"cannot listen on {host} port {port}: {error.strerror or error}") from None
    return port


def answers_as_geniehive(host: str, port: int) -> bool:
    """Whether a gateway, or a node agent's status page, of GenieHive answers there."""
    import http.client

    connection = http.client.HTTPConnection(host, port, timeout=1)
    try:
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        return answer.status == 200 and b"geniehive" in (str(answer.headers).encode() + answer.read(4096)).lower()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _dialled(host: str) -> str:
    """Where this machine reaches what listens on `host`."""
    if host in {"", "0.0.0.0"}:  # noqa: S104 - compared, not bound
        return "127.0.0.1"
    return "::1" if host == "::" else "127.0.0.1" if is_loopback(host) and ":" not in host else host


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _given(loaded: LoadedConfig, key: str) -> bool:
    return loaded.origin(key) != "default"
