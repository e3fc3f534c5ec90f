"""[pure] YAML text as plain values plus the line of each, so that an error can say where it is.

PyYAML's composer gives nodes with marks; they are turned into values here, because its constructor forgets the marks
and takes the last of duplicate keys without a word. Safe by construction: only plain scalars, lists and maps.
"""

from __future__ import annotations

from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from geniehive.errors import ConfigError

Path = tuple[str | int, ...]
_MAX_DEPTH = 64


class _Loader(yaml.SafeLoader):
    """The safe loader, with dates left as they were written."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in pairs if tag != "tag:yaml.org,2002:timestamp"]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def dotted(path: Path) -> str:
    """The path as people write it: services[0].assets[1].asset_id."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


class Source:
    """One parsed file: `data`, and `where(path)` as "file:line"."""

    def __init__(self, name: str, data: Any, lines: dict[Path, int]) -> None:
        self.name = name
        self.data = data
        self.lines = lines

    def where(self, path: Path) -> str:
        """The file and the line of a value, or of the nearest thing around it that is in the file."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.lines:
                return f"{self.name}:{self.lines[path[:end]]}"
        return self.name

    def fail(self, path: Path, problem: str) -> ConfigError:
        """The one-line error about the value at a path."""
        key = dotted(path)
        return ConfigError(f"{self.where(path)}: {key}: {problem}" if key else f"{self.where(path)}: {problem}")


def parse(text: str, name: str) -> Source:
    """Parse one YAML document. Raises ConfigError with line and column."""
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        lines: dict[Path, int] = {}
        data = _value(loader, root, (), lines, name) if root is not None else None
    except yaml.MarkedYAMLError as error:
        raise ConfigError(f"{_mark(name, error)}: not valid YAML: {_problem(error)}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ConfigError(f"{name}: not valid YAML: nested too deeply") from None
    return Source(name, data, lines)


def scalar(text: str) -> Any:
    """A value written on one line, such as in an environment variable. Raises ValueError."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a subclass of the safe loader
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError("not a YAML value") from error


def strings(text: str) -> Any:
    """A list of strings written on one line: "a, b" or "[a, b]"; nothing is taken for a number. Raises ValueError."""
    if not text.lstrip().startswith("["):
        return [part.strip() for part in text.split(",") if part.strip()]
    try:
        return yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506 - the loader that makes nothing but strings
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError("not a YAML list") from error


def _value(loader: _Loader, node: Node, path: Path, lines: dict[Path, int], name: str) -> Any:
    lines.setdefault(path, node.start_mark.line + 1)
    if len(path) > _MAX_DEPTH:
        raise ConfigError(f"{name}:{node.start_mark.line + 1}: nested deeper than {_MAX_DEPTH} levels")
    if isinstance(node, MappingNode):
        return _mapping(loader, node, path, lines, name)
    if isinstance(node, SequenceNode):
        return [_value(loader, item, (*path, index), lines, name) for index, item in enumerate(node.value)]
    return _plain(loader, node, name)


def _mapping(loader: _Loader, node: MappingNode, path: Path, lines: dict[Path, int], name: str) -> dict[str, Any]:
    loader.flatten_mapping(node)
    seen: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, ScalarNode):
            raise ConfigError(f"{name}:{line}: a key must be a word")
        key = key_node.value
        if key in seen:
            raise ConfigError(f"{name}:{line}: {dotted((*path, key))}: given twice (first in line {lines[*path, key]})")
        lines[*path, key] = line
        seen[key] = _value(loader, value_node, (*path, key), lines, name)
    return seen


def _plain(loader: _Loader, node: Node, name: str) -> Any:
    value = loader.construct_object(node, deep=True)
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise ConfigError(
        f"{name}:{node.start_mark.line + 1}: {node.tag.rpartition(':')[2]} is not a value that is used here"
    )


def _mark(name: str, error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    return f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name


def _problem(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or error.context or "it cannot be read"
    hint = " (indent with spaces, not tabs)" if "\\t" in problem else ""
    return " ".join(problem.split()) + hint
