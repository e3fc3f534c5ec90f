"""Reads the YAML file of roles: `roles:` is a list of them, each as `geniehive.resources.Role`.

Refused are unknown keys, duplicate ids, fallbacks to roles that do not exist, cycles of fallbacks, and policies
that cannot be meant: a tier both allowed and denied, a template without its {input}, fields that no policy sets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from geniehive import config_schema as schema
from geniehive import yaml_source
from geniehive.config_check import check_request_policy
from geniehive.config_load import read_text
from geniehive.resources import PromptPolicy, Role, RoutingPolicy

PRIORITIES = ("", "interactive", "batch")
STRATEGIES = ("", "scored", "round_robin", "least_loaded", "predicted")


class _RolesFile(msgspec.Struct, frozen=True, kw_only=True):
    roles: tuple[Role, ...] = ()


def load_roles(path: str | Path) -> tuple[Role, ...]:
    """The roles of a file, in its order. Raises ConfigError: one line with file, line and key."""
    return parse_roles(read_text(Path(path)), str(path))


def parse_roles(text: str, name: str) -> tuple[Role, ...]:
    """The roles of a text; `name` is what messages call it. Raises ConfigError."""
    source = yaml_source.parse(text, name)
    data: Any = schema.check(source.data, _RolesFile, (), source.fail)
    roles = msgspec.convert(data, _RolesFile).roles
    _check_ids(roles, source)
    _check_policies(roles, source)
    _check_cycles(roles, source)
    return roles


def find_cycle(fallbacks: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """A cycle such as (a, b, a), or () if following fallbacks always ends."""
    done: set[str] = set()
    for start in fallbacks:
        trail = [start]
        choices = [iter(fallbacks[start])]
        while trail:
            following = next(choices[-1], None)
            if following is None:
                done.add(trail.pop())
                choices.pop()
            elif following in trail:
                return (*trail[trail.index(following) :], following)
            elif following not in done:
                trail.append(following)
                choices.append(iter(fallbacks.get(following, ())))
    return ()


def _check_ids(roles: Sequence[Role], source: yaml_source.Source) -> None:
    seen: set[str] = set()
    for index, role in enumerate(roles):
        at: yaml_source.Path = ("roles", index, "role_id")
        if not role.role_id.strip() or role.role_id != role.role_id.strip():
            raise source.fail(at, "must not be empty, nor begin or end with a space")
        if role.role_id in seen:
            raise source.fail(at, f"{role.role_id} is given twice; every role needs an id of its own")
        seen.add(role.role_id)


def _check_policies(roles: Sequence[Role], source: yaml_source.Source) -> None:
    known = [role.role_id for role in roles]
    for index, role in enumerate(roles):
        at: yaml_source.Path = ("roles", index, "routing_policy")
        policy = role.routing_policy
        for number, fallback in enumerate(policy.fallback_roles):
            if fallback not in known:
                problem = f"there is no role {fallback}{schema.nearest(fallback, known)}"
                raise source.fail((*at, "fallback_roles", number), problem)
        if policy.strategy not in STRATEGIES:
            raise source.fail((*at, "strategy"), f"expected one of {', '.join(STRATEGIES[1:])}, got {policy.strategy}")
        if policy.priority not in PRIORITIES:
            raise source.fail((*at, "priority"), f"expected one of {', '.join(PRIORITIES[1:])}, got {policy.priority}")
        if policy.min_context is not None and policy.min_context < 1:
            raise source.fail((*at, "min_context"), "expected a whole number of at least 1")
        _check_tiers(policy, at, source)
        _check_prompts(role.prompt_policy, ("roles", index, "prompt_policy"), source)


def _check_tiers(policy: RoutingPolicy, at: yaml_source.Path, source: yaml_source.Source) -> None:
    for what in ("trust_tiers", "device_classes", "workload_classes"):
        allowed, denied = getattr(policy, f"allowed_{what}"), getattr(policy, f"denied_{what}")
        for number, word in enumerate(denied):
            if word in allowed:
                raise source.fail((*at, f"denied_{what}", number), f"{word} is allowed as well; take one of them out")


def _check_prompts(policy: PromptPolicy, at: yaml_source.Path, source: yaml_source.Source) -> None:
    if policy.user_template and "{input}" not in policy.user_template:
        raise source.fail((*at, "user_template"), "has no {input} where the user's message goes")
    if policy.system_prompt and policy.request_policy.system_prompt:
        raise source.fail((*at, "request_policy", "system_prompt"), "is given twice; prompt_policy has one of its own")
    check_request_policy(policy.request_policy, (*at, "request_policy"), source.fail)


def _check_cycles(roles: Sequence[Role], source: yaml_source.Source) -> None:
    cycle = find_cycle({role.role_id: role.routing_policy.fallback_roles for role in roles})
    if not cycle:
        return
    index = next(index for index, role in enumerate(roles) if role.role_id == cycle[0])
    raise source.fail(
        ("roles", index, "routing_policy", "fallback_roles"),
        f"fallbacks go in a circle: {' → '.join(cycle)}; take one of them out",
    )
