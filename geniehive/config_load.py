"""Reads the config: defaults, then one YAML file, then GENIEHIVE_… variables; each value knows its origin.

GENIEHIVE_SECTION__KEY overrides `section.key`; further levels take further double underscores, list items their
position: GENIEHIVE_SERVICES__0__ENDPOINT. A name without a double underscore is only looked at where it is a key of
the top level (GENIEHIVE_ROLES_PATH): Kubernetes itself sets names such as GENIEHIVE_GATEWAY_PORT for a service.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from geniehive import config_schema as schema
from geniehive import yaml_source
from geniehive.config import Config, ServiceConfig
from geniehive.config_check import check_config, normalize_endpoint
from geniehive.errors import ConfigError

PREFIX = "GENIEHIVE_"


class LoadedConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A checked config, and where each value came from: dotted key → "file:line" or the name of a variable.

    A key that is not in `origins` has its default.
    """

    config: Config
    origins: dict[str, str] = {}
    path: str = ""

    def origin(self, key: str) -> str:
        """Where the value of a dotted key came from."""
        return self.origins.get(key, "default")


def load_config(path: Path | None, environ: Mapping[str, str]) -> LoadedConfig:
    """The config from a file (None is none) and variables. Raises ConfigError: one line with file, line and key."""
    source = yaml_source.parse(read_text(path), str(path)) if path else yaml_source.Source("config", {}, {})
    data = schema.check(source.data, Config, (), source.fail)
    origins: dict[str, str] = {}
    _collect(data, (), source, origins)
    for name in sorted(environ):
        if name.startswith(PREFIX):
            _override(data, name, environ[name], origins)
    config = _build(data, source, origins)
    return LoadedConfig(config=_with_paths(config, path, origins), origins=origins, path=str(path or ""))


def read_text(path: Path) -> str:
    """A text file, or a ConfigError of one line."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text file in UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None


def _collect(value: Any, path: yaml_source.Path, source: yaml_source.Source, origins: dict[str, str]) -> None:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            _collect(item, (*path, key), source, origins)
    elif isinstance(value, list) and value:
        for index, item in enumerate(value):
            _collect(item, (*path, index), source, origins)
    elif path:
        origins[yaml_source.dotted(path)] = source.where(path)


def _override(data: dict[str, Any], name: str, text: str, origins: dict[str, str]) -> None:
    steps = name.removeprefix(PREFIX).lower().split("__")
    if len(steps) == 1 and steps[0] not in schema.field_types(Config):
        return
    try:
        kind, path = schema.type_at(Config, steps)
    except KeyError as error:
        known = [_variable(key) for key in schema.keys(Config)]
        raise ConfigError(f"{name}: there is no key {error.args[0]}{schema.nearest(name, known)}") from None

    def fail(at: yaml_source.Path, problem: str) -> ConfigError:
        return ConfigError(f"{name}: {yaml_source.dotted(at)}: {problem}")

    value = schema.check(_parse(text, kind, path, fail), kind, path, fail)
    _place(data, path, value, fail)
    key = yaml_source.dotted(path)
    for old in [old for old in origins if old.startswith((f"{key}.", f"{key}["))]:
        del origins[old]
    origins[key] = name


def _variable(key: str) -> str:
    return PREFIX + key.replace("[]", "__0").replace(".", "__").upper()


def _parse(text: str, kind: Any, path: yaml_source.Path, fail: schema.Fail) -> Any:
    if schema.is_text(kind):
        return text
    try:
        return yaml_source.strings(text) if schema.is_strings(kind) else yaml_source.scalar(text)
    except ValueError:
        raise fail(path, f"expected {schema.describe(kind)}, written as in YAML") from None


def _place(data: dict[str, Any], path: yaml_source.Path, value: Any, fail: schema.Fail) -> None:
    at: Any = data
    for step, following in zip(path, (*path[1:], None), strict=True):
        if isinstance(step, int) and step >= len(at):
            if step > len(at):
                raise fail(path, f"there are only {len(at)} items; the next one is number {len(at)}")
            at.append(None)
        if following is None:
            at[step] = value
            return
        inside = at[step] if isinstance(step, int) else at.get(step)
        if inside is None:
            inside = [] if isinstance(following, int) else {}
            at[step] = inside
        at = inside


def _build(data: dict[str, Any], source: yaml_source.Source, origins: Mapping[str, str]) -> Config:
    def fail(path: yaml_source.Path, problem: str) -> ConfigError:
        variable = origins.get(yaml_source.dotted(path), "")
        if variable.startswith(PREFIX):
            return ConfigError(f"{variable}: {yaml_source.dotted(path)}: {problem}")
        return source.fail(path, problem)

    config = msgspec.convert(schema.check(data, Config, (), fail), Config)
    check_config(config, fail)
    return msgspec.structs.replace(config, services=tuple(_settled(service) for service in config.services))


def _settled(service: ServiceConfig) -> ServiceConfig:
    """The service with what its other keys imply: discovery where no models are listed."""
    protocol = service.discover_protocol
    if service.manifest and protocol in {None, "auto"}:
        protocol = "manifest"
    elif protocol is None and not service.assets:
        protocol = "auto"
    endpoint = normalize_endpoint(service.endpoint) if service.endpoint else ""
    return msgspec.structs.replace(service, discover_protocol=protocol, endpoint=endpoint)


def _with_paths(config: Config, path: Path | None, origins: Mapping[str, str]) -> Config:
    """Roles are looked for beside the file that names them."""
    if not config.roles_path or path is None or origins.get("roles_path", "").startswith(PREFIX):
        return config
    return msgspec.structs.replace(config, roles_path=str(path.parent / Path(config.roles_path).expanduser()))
