"""Writes the tables of docs/config.md, errors.md and access.md from the code: `python -m tests.geniehive.reference`.

The tests compare them; run it after a change of a config key, an error, a route or a method.
"""

import ast
import asyncio
import inspect
import itertools
import re
import sys
from pathlib import Path
from typing import get_args, get_origin

import msgspec

from controlplane.methods import Need, table
from geniehive import config, errors
from geniehive.access import CALLER, PUBLIC, SCOPES
from geniehive.cli.output import plain
from geniehive.config_schema import describe, is_struct
from tests.gateway import harness

DOCS = Path(__file__).parents[2] / "docs"
WHAT_TO_DO = {
    "InvalidRequest": "change the request; `param` names the field",
    "Unauthenticated": "send a key: `Authorization: Bearer KEY` or `X-Api-Key: KEY`",
    "PermissionDenied": "use a key that may do this",
    "NotFound": "see the message for what exists",
    "ModelNotFound": "use one of `GET /v1/models`; the message names near misses",
    "MethodNotAllowed": "use a method of the `Allow` header",
    "RequestTimeout": "send the body without long pauses",
    "Conflict": "wait for the state that the message names, or change it",
    "Fenced": "give each machine its own `node.host_id`",
    "TooManyRequests": "wait for one of the key's requests to end, or raise its `max_concurrency`",
    "PayloadTooLarge": "send less, or raise `gateway.max_body_bytes` or `gateway.max_upload_bytes`",
    "UnsupportedMediaType": "send `application/json`, or `multipart/form-data` where the route takes files",
    "HeadersTooLarge": "send smaller or fewer headers",
    "ConfigError": "the daemon says which key of which file; it does not start",
    "CallerError": "change the request",
    "UpstreamUnavailable": "look at `geniehive services`; the engine refused or answered nonsense",
    "UpstreamTimeout": "look at the engine; or raise `gateway.first_byte_timeout_s`, `gateway.idle_timeout_s`",
    "NoServiceAvailable": "try again after `Retry-After`; `geniehive route resolve MODEL` says why",
    "UpstreamError": "look at `geniehive services`",
    "NotReady": "try again; the gateway has not heard from the control plane yet",
    "Overloaded": "try again after `Retry-After`",
    "StoreError": "look at the control plane's log: disk full, database locked or damaged",
    "ControlPlaneUnreachable": "start the control plane, or correct `control_plane.address`",
    "GatewayUnreachable": "start the gateway, or say where it is: `--gateway URL`",
    "InternalError": "a defect of ours: please report it with the `x-request-id`",
    "GenieHiveError": "a defect of ours: please report it with the `x-request-id`",
}


def config_tables() -> str:
    """A table for each section, in the order of the file."""
    parts = []
    for name, kind in _fields(config.Config):
        if is_struct(kind):
            parts.append(_section(f"{name}", kind, f"{name}."))
            inner = ((f"{name}.{key}", its) for key, its in _fields(kind) if is_struct(its))
            parts += [_section(key, its, f"{key}.") for key, its in inner]
        elif get_origin(kind) is tuple:
            item = get_args(kind)[0]
            parts.append(_section(f"{name}[]", item, ""))
            parts.append(_section(f"{name}[].runtime", config.RuntimeConfig, ""))
        else:
            parts.append(f"## {name}\n\n{_docs(config.Config)[name]}\n")
    return "\n".join(parts)


def errors_table() -> str:
    """One row an error."""
    lines = [
        "| error | HTTP | `type` | `code` | gRPC | retry | what to do |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind, wire in errors.WIRE.items():
        retry = "yes" if wire.retryable else "no"
        what = WHAT_TO_DO[kind.__name__]
        lines.append(
            f"| {kind.__name__} | {wire.status} | `{wire.type}` | `{wire.code}` | {wire.grpc} | {retry} | {what} |"
        )
    return "\n".join(lines) + "\n"


def errors_tree() -> str:
    """The tree, as the module draws it."""
    return inspect.cleandoc(errors.__doc__).partition("\n\n")[2].strip("\n")


def routes_table() -> str:
    """Every route of the gateway, by the scope that it needs."""

    async def routes():
        async with harness.gateway("http://127.0.0.1:1") as made:
            return made.front._table.routes

    names = {PUBLIC: "(no key)", CALLER: "any key"}
    found = {scope: [] for scope in (PUBLIC, CALLER, *SCOPES)}
    for route in asyncio.run(routes()):
        tail = "…" if route.path.endswith("/") and route.path != "/" else ""
        found[route.scope].append(f"`{route.method} {route.path}{tail}`")
    return _by_scope("route", {names.get(scope, f"`{scope}`"): each for scope, each in found.items()})


def methods_table() -> str:
    """Every gRPC method, by what it needs."""
    said = {"NOTHING": "(no key)", "NODE": "a node key", "READ": "`read`, or a node key"}
    found = {said.get(need.name, f"`{need.name.lower()}`"): [] for need in Need}
    for service, methods in table().items():
        for need, rows in zip(Need, found.values(), strict=True):
            if mine := ", ".join(f"`{name}`" for name, its in methods.items() if its is need):
                rows.append(f"`{service}`: {mine}")
    return _by_scope("method", found)


def _by_scope(what: str, found: dict[str, list[str]]) -> str:
    rows = [f"| {scope} | {'<br>'.join(each)} |" for scope, each in found.items()]
    return "\n".join([f"| scope | {what} |", "|---|---|", *rows]) + "\n"


def written(name: str) -> str:
    """A page with its generated part made anew."""
    text = (DOCS / name).read_text(encoding="utf-8")
    parts = {"config.md": {"keys": config_tables()}}
    parts["access.md"] = {"routes": routes_table(), "methods": methods_table()}
    parts["errors.md"] = {"tree": f"```\n{errors_tree()}\n```\n", "table": errors_table()}
    for mark, content in parts[name].items():
        begin, end = f"<!-- {mark}: generated -->", f"<!-- {mark}: end -->"
        pattern = re.compile(f"{begin}.*?{end}", re.DOTALL)
        assert pattern.search(text), f"{name} has no {begin}"
        text = pattern.sub(lambda _, c=content, b=begin, e=end: f"{b}\n{c}{e}", text)
    return text


def _section(title: str, struct: type, prefix: str) -> str:
    docs = _docs(struct)
    lines = [f"## {title}", "", "| key | type | default | meaning |", "|---|---|---|---|"]
    for field in msgspec.structs.fields(struct):
        default = "required" if field.required else f"`{_default(field)}`"
        if is_struct(field.type):
            default = "see below"
        meaning = " ".join(docs[field.name].split()).replace("|", "\\|")
        lines.append(f"| `{prefix}{field.name}` | {describe(field.type)} | {default} | {meaning} |")
    return "\n".join(lines) + "\n"


def _default(field: msgspec.structs.FieldInfo) -> str:
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    return msgspec.json.encode(plain(value)).decode()


def _fields(struct: type) -> list[tuple[str, object]]:
    return [(field.name, field.type) for field in msgspec.structs.fields(struct)]


def _docs(struct: type) -> dict[str, str]:
    """The string under each attribute, which Python itself forgets."""
    body = ast.parse(inspect.getsource(struct)).body[0].body
    return {
        before.target.id: after.value.value
        for before, after in itertools.pairwise(body)
        if isinstance(before, ast.AnnAssign) and isinstance(after, ast.Expr)
    }


if __name__ == "__main__":
    for page in ("config.md", "errors.md", "access.md"):
        (DOCS / page).write_text(written(page), encoding="utf-8")
        sys.stdout.write(f"{DOCS / page}\n")
