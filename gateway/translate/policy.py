"""[pure] A role's and an asset's policy at work on Responses and Messages that reach an engine in their own dialect.

Policies speak the words of chat completions. Here they get those of the dialect: `max_tokens` is `max_output_tokens`
in a response, `stop` is `stop_sequences` in a message, the system prompt is `instructions` or `system`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from geniehive.resources import Operation, SystemPromptPosition
from geniehive.routing.policy import INPUT, Changes, EffectivePolicy, shape
from geniehive.routing.steady import steady

Json = dict[str, Any]

_OWN_WORDS: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "input": {
        "max_tokens": ("max_output_tokens",),
        "max_completion_tokens": ("max_output_tokens",),
        "reasoning_effort": ("reasoning", "effort"),
    },
    "messages": {"max_completion_tokens": ("max_tokens",), "stop": ("stop_sequences",)},
}
"""By the field that holds the turns: where a chat completion's field stands."""
_HEAD: Final = {"input": "instructions", "messages": "system"}
_NOT_THINKING: Final[Json] = {"thinking": {"type": "disabled"}}
_SYSTEM: Final = frozenset({"system", "developer"})
_TEXT: Final = {"input": "input_text", "messages": "text"}


def native_changes(
    fields: Mapping[str, Any], policy: EffectivePolicy, turns: str, kept_back: frozenset[str]
) -> Changes:
    """What to change in a body whose turns stand in `turns`: "input" (Responses) or "messages" (Messages)."""
    words = _OWN_WORDS[turns]
    thoughtful = policy.thoughtful_defaults
    renamed = msgspec.structs.replace(
        policy,
        body_defaults=_renamed(policy.body_defaults, words),
        body_overrides=_renamed(policy.body_overrides, words),
        thoughtful_defaults=None if thoughtful is None else _renamed(thoughtful, words),
        system_prompt="",
        user_template="",
        steady=False,
    )
    put, drop, _ = shape(fields, renamed, Operation.CHAT, kept_back)
    told = {**fields, **put}
    if policy.user_template:
        put |= _templated(told, turns, policy.user_template)
    if policy.system_prompt:
        put |= _with_system({**told, **put}, turns, policy.system_prompt, policy.system_prompt_position)
    if not policy.steady:
        return Changes(put, drop)
    found = steady({**told, **put})
    return Changes({**put, **found.put}, drop, found.done)


def _renamed(body: Json, words: Mapping[str, tuple[str, ...]]) -> Json:
    made: Json = {}
    for key, value in body.items():
        path = words.get(key, (key,))
        if key == "stop" and isinstance(value, str) and path != (key,):
            value = [value]  # noqa: PLW2901 - Anthropic takes a list alone
        if key == "reasoning_effort" and path == (key,):
            made |= _NOT_THINKING if value == "none" else {"output_config": {"effort": value}}
        elif len(path) == 1:
            made[path[0]] = value
        else:
            made[path[0]] = {**made.get(path[0], {}), path[1]: value}
    return made


def _with_system(told: Json, turns: str, prompt: str, position: SystemPromptPosition) -> Json:
    head = _HEAD[turns]
    if position is SystemPromptPosition.REPLACE:
        put: Json = {head: prompt}
        if isinstance(told.get(turns), list):
            put[turns] = [each for each in told[turns] if not (isinstance(each, dict) and each.get("role") in _SYSTEM)]
        return put
    given = told.get(head)
    after = position is SystemPromptPosition.APPEND
    if isinstance(given, list):
        block = {"type": _TEXT[turns], "text": prompt}
        return {head: [*given, block] if after else [block, *given]}
    if not given:
        return {head: prompt}
    return {head: f"{given}\n\n{prompt}" if after else f"{prompt}\n\n{given}"}


def _templated(told: Json, turns: str, template: str) -> Json:
    """The last message of the user in the template; of one in parts, its first text."""
    given = told.get(turns)
    if isinstance(given, str):
        return {turns: template.replace(INPUT, given)}
    if not isinstance(given, list):
        return {}
    for at in range(len(given) - 1, -1, -1):
        turn = given[at]
        if isinstance(turn, dict) and turn.get("role") == "user":
            content = _in_template(turn.get("content"), template)
            return {turns: [*given[:at], {**turn, "content": content}, *given[at + 1 :]]}
    return {}


def _in_template(content: Any, template: str) -> Any:
    if isinstance(content, str):
        return template.replace(INPUT, content)
    for at, part in enumerate(content if isinstance(content, list) else ()):
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            return [*content[:at], {**part, "text": template.replace(INPUT, part["text"])}, *content[at + 1 :]]
    return content
