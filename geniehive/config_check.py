"""[pure] What the types cannot say about a config: addresses, URLs, duplicates, open doors.

Every problem is a ConfigError of one line that names the key and the fix.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterable
from urllib.parse import SplitResult, urlsplit

from geniehive.config import Config, ServiceConfig
from geniehive.config_schema import Fail
from geniehive.endpoints import read_allowed
from geniehive.errors import ConfigError
from geniehive.resources import RequestPolicy
from geniehive.routing.policy import INCLUDE_REASONING, RESERVED
from geniehive.yaml_source import Path

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,252}")
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_KEY = re.compile(r"[\x21-\x7e]+")
_DRIVERS = ("sqlite+aiosqlite", "postgresql+asyncpg")
_STORAGE_EXAMPLES = "sqlite+aiosqlite:///state/geniehive.sqlite3 or postgresql+asyncpg://user:password@host/geniehive"
_LOOPBACK_NAMES = frozenset({"localhost", "localhost.localdomain", "ip6-localhost"})


def check_config(config: Config, fail: Fail) -> None:
    """Refuse a config that no daemon could honour."""
    _check_control(config, fail)
    _check_node(config, fail)
    for side in ("client_api_keys", "node_api_keys", "admin_api_keys"):
        for index, key in enumerate(getattr(config.auth, side)):
            if not _KEY.fullmatch(key):
                raise fail(("auth", side, index), "a key must be printable ASCII without spaces, and not empty")
    node_key = config.control_plane.node_api_key
    if node_key and not _KEY.fullmatch(node_key):
        raise fail(("control_plane", "node_api_key"), "a key must be printable ASCII without spaces")
    _check_tls(config, fail)
    _check_storage(config.storage.url, fail)
    _check_services(config.services, fail)


def _check_tls(config: Config, fail: Fail) -> None:
    """Files of a pair that are no use alone."""
    for section, key, other in (
        ("control", "tls_key_file", "tls_cert_file"),
        ("control", "tls_cert_file", "ca_cert_file"),
        ("control", "ca_key_file", "ca_cert_file"),
        ("control_plane", "key_file", "cert_file"),
        ("control_plane", "cert_file", "ca_file"),
        ("gateway", "tls_key_file", "tls_cert_file"),
    ):
        settings = getattr(config, section)
        if getattr(settings, key) and not getattr(settings, other):
            raise fail((section, key), f"needs {section}.{other} as well")


def check_exposure(config: Config, *, insecure: bool, gateway: bool = True, control: bool = True) -> None:
    """Refuse to listen beyond loopback without keys (gateway) or TLS (control plane), unless the operator insists.

    Raises ConfigError. `gateway` and `control` say which of the two is about to listen.
    """
    if insecure:
        return
    fix = "or listen on 127.0.0.1, or insist with --insecure"
    host = config.gateway.host
    if gateway and not is_loopback(host) and not config.auth.client_api_keys:
        raise ConfigError(f"gateway.host {host} is not loopback and auth.client_api_keys is empty: set a key, {fix}")
    host = parse_address(config.control.listen)[0]
    if control and not is_loopback(host) and config.control.tls == "off":
        raise ConfigError(
            f"control.listen {config.control.listen} is not loopback and control.tls is off: let it be on, {fix}"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address; an empty host and 0.0.0.0 are everybody's."""
    if host.lower() in _LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of "host:port"; IPv6 in brackets. Raises ValueError with what is wrong."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f'expected host:port, such as 127.0.0.1:8801, got "{text}"')
    if "/" in host or any(char.isspace() for char in host):
        raise ValueError(f'expected host:port without a scheme, got "{text}"')
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError(f'an IPv6 address needs brackets, such as [::1]:8801, got "{text}"')
    return host.strip("[]"), int(port)


def normalize_endpoint(url: str) -> str:
    """The endpoint as it is dialled: no trailing slash, no /v1. Raises ValueError with what is wrong."""
    parts = _split(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f'expected http://host:port, got "{url[:200]}"')
    if parts.query or parts.fragment:
        raise ValueError("must not have a ? or a # part")
    _check_host(parts.hostname)
    path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return f"{parts.scheme}://{parts.netloc.lower()}{path}"


def _split(url: str) -> SplitResult:
    if any(char.isspace() or ord(char) < 32 for char in url):
        raise ValueError("must not have spaces")
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ValueError(f"not a URL: {error}") from None
    if "@" in parts.netloc:
        raise ValueError("must not have a user or password in it; the engine's key goes into api_key")
    return parts


def _check_host(host: str) -> None:
    """Refuse addresses that no engine has: metadata services, 0.0.0.0, odd notations that hide an address."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        last = host.rstrip(".").rpartition(".")[2]
        if last.isdigit() or re.fullmatch(r"0x[0-9a-f]*", last):
            raise ValueError(f"{host} is an odd way to write an address; write it as 192.168.1.20") from None
        return
    if address.is_link_local or address.is_multicast or address.is_unspecified:
        raise ValueError(f"{host} is not an address of an engine")


def _check_control(config: Config, fail: Fail) -> None:
    _address(config.control.listen, ("control", "listen"), fail)
    at: Path = ("control_plane", "addresses") if config.control_plane.addresses else ("control_plane", "address")
    if not config.control_plane.targets:
        raise fail(at, "is empty; name the control plane, such as 127.0.0.1:8801")
    for target in config.control_plane.targets:
        _address(target, at, fail)
    for index, allowed in enumerate(config.control.allowed_endpoints):
        try:
            read_allowed(allowed)
        except ValueError as error:
            raise fail(("control", "allowed_endpoints", index), str(error)) from None
    if config.control.heartbeat_interval_s >= config.control.lease_ttl_s:
        raise fail(
            ("control", "lease_ttl_s"),
            f"must be longer than heartbeat_interval_s ({config.control.heartbeat_interval_s:g}); three times is usual",
        )


def _check_storage(url: str, fail: Fail) -> None:
    """Refuse what the store cannot open; the rest of the URL is the database's to judge. It may hold a password."""
    driver, found, rest = url.partition("://")
    if found and driver in _DRIVERS and (rest or driver.startswith("sqlite")):
        return
    better = next((good for good in _DRIVERS if good.partition("+")[0].startswith(driver.partition("+")[0] or "-")), "")
    hint = f"{better}://… (the driver must be asynchronous)" if found and better else _STORAGE_EXAMPLES
    raise fail(("storage", "url"), f"is no URL of a database that is supported; write {hint}")


def _check_node(config: Config, fail: Fail) -> None:
    node = config.node
    if node.host_id and not _NAME.fullmatch(node.host_id):
        raise fail(("node", "host_id"), "use letters, digits, dots, dashes and underscores only")
    if node.address:
        try:
            _check_host(node.address.strip("[]"))
        except ValueError as error:
            raise fail(("node", "address"), str(error)) from None
        if not re.fullmatch(r"[A-Za-z0-9._:\[\]-]+", node.address):
            raise fail(("node", "address"), "expected a host name or an address, without scheme and port")


def _address(text: str, at: Path, fail: Fail) -> None:
    try:
        parse_address(text)
    except ValueError as error:
        raise fail(at, str(error)) from None


def _check_services(services: Iterable[ServiceConfig], fail: Fail) -> None:
    seen: set[str] = set()
    for index, service in enumerate(services):
        at: Path = ("services", index)
        if not _ID.fullmatch(service.service_id):
            raise fail((*at, "service_id"), "use letters, digits and . _ : / @ + - only, at most 253")
        if service.service_id in seen:
            raise fail(
                (*at, "service_id"), f"{service.service_id} is given twice; every service needs an id of its own"
            )
        seen.add(service.service_id)
        _check_service(service, at, fail)


def _check_service(service: ServiceConfig, at: Path, fail: Fail) -> None:
    if service.kind and service.kinds:
        raise fail((*at, "kinds"), "give kind or kinds, not both")
    if service.endpoint:
        try:
            normalize_endpoint(service.endpoint)
        except ValueError as error:
            raise fail((*at, "endpoint"), str(error)) from None
    elif service.runtime.launcher == "external":
        raise fail(at, "endpoint is missing; say where the engine listens, such as http://127.0.0.1:8080")
    _check_runtime(service, at, fail)
    static = service.discover_protocol is None and bool(service.assets) and not service.manifest
    if static and not service.operations and not all(asset.operations for asset in service.assets):
        raise fail(at, "kind is missing; say what it serves (chat, embeddings, …) or set discover_protocol: auto")
    names: set[str] = set()
    for number, asset in enumerate(service.assets):
        if not asset.asset_id or asset.asset_id in names:
            problem = f"{asset.asset_id} is given twice in this service" if asset.asset_id else "must not be empty"
            raise fail((*at, "assets", number, "asset_id"), problem)
        names.add(asset.asset_id)
        check_request_policy(asset.request_policy, (*at, "assets", number, "request_policy"), fail)


def check_request_policy(policy: RequestPolicy, at: Path, fail: Fail) -> None:
    """Refuse fields that no policy can set, and numbers that JSON does not have."""
    for part, body in (("body_defaults", policy.body_defaults), ("body_overrides", policy.body_overrides)):
        for key in body:
            if key == INCLUDE_REASONING:
                raise fail((*at, part, key), "is a client's word; set reasoning: pass or strip beside it")
            if key in RESERVED:
                raise fail((*at, part, key), "cannot be set by a policy: the gateway sets the model, the client stream")
        try:
            json.dumps(body, allow_nan=False)
        except ValueError:
            raise fail((*at, part), "has a number that JSON does not have, such as .inf or .nan") from None


def _check_runtime(service: ServiceConfig, at: Path, fail: Fail) -> None:
    runtime = service.runtime
    if runtime.launcher == "managed" and not runtime.command and runtime.engine != "llama.cpp":
        raise fail((*at, "runtime"), "a managed service needs a command, or engine: llama.cpp for the embedded one")
    if runtime.launcher == "managed" and runtime.command and not service.endpoint:
        raise fail(at, "endpoint is missing; say where the command will listen, such as http://127.0.0.1:8080")
    if runtime.launcher == "external" and (runtime.command or runtime.model):
        key = "command" if runtime.command else "model"
        raise fail((*at, "runtime", key), "only has a meaning with launcher: managed")
