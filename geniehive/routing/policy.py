"""What a role and an asset change in a request, and what becomes of reasoning in its answer.

Three layers, the later over the earlier: a rule for Qwen3, the asset's `request_policy`, the role's
`prompt_policy`. `effective_policy` folds them once for each pair of role and asset; `shape` applies the
result to one body and tells only what has to change, so that a body with nothing to shape is sent as
the bytes that came. Nothing that is given here is ever changed in place.

Engines turn thinking off by `chat_template_kwargs.enable_thinking` (vLLM, SGLang, llama.cpp); Ollama's
OpenAI route knows only `reasoning_effort: "none"`, so there the rule says both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

from geniehive.resources import Asset, Operation, PromptPolicy, ReasoningMode, RequestPolicy, Role, SystemPromptPosition
from geniehive.routing.candidate import Candidate
from geniehive.routing.steady import Steadied, steady

Json = dict[str, Any]

INCLUDE_REASONING: Final = "include_reasoning"
RESERVED: Final = frozenset({"model", "stream", INCLUDE_REASONING})
"""What no policy sets: the first two decide where and how the request goes, `reasoning` says the third."""

_QWEN3 = re.compile(r"(?<![a-z0-9])qwen[-_. ]?3(?:[-_.]?5)?(?![0-9])")
_NO_THINKING: Final = {"chat_template_kwargs": {"enable_thinking": False}}
_NO_THINKING_OLLAMA: Final = {**_NO_THINKING, "reasoning_effort": "none"}
_THINKING_WORDS: Final = ("enable_thinking", "reasoning_effort", "reasoning", "think", "thinking")
_NOT_AT_ALL: Final = (None, False, "none", "disabled")
_SYSTEM: Final = ("system", "developer")
INPUT: Final = "{input}"
"""Where a template takes what the user says."""
_MOST_REMEMBERED: Final = 4096
_NO_POLICY: Final = PromptPolicy()


class EffectivePolicy(msgspec.Struct, frozen=True, kw_only=True):
    """All layers folded into one, for one operation of one asset under one role (or none)."""

    body_defaults: Json = {}
    body_overrides: Json = {}
    system_prompt: str = ""
    system_prompt_position: SystemPromptPosition = SystemPromptPosition.PREPEND
    user_template: str = ""
    reasoning: ReasoningMode = ReasoningMode.STRIP

    thoughtful_defaults: Json | None = None
    """The defaults for a caller who asks the model to think: without the rule. None: the rule does not apply."""
    steady: bool = False
    """Whether the beginnings of prompts are kept the same from turn to turn: see `geniehive.routing.steady`."""
    plain: bool = False
    """Whether there is nothing to change in bodies."""

    def shown(self) -> Json:
        """As `/v1/models` tells it; what is not set is left out."""
        told = msgspec.to_builtins(self)
        kept = {key: told[key] for key in ("body_defaults", "body_overrides", "user_template") if told[key]}
        if self.system_prompt:
            kept |= {key: told[key] for key in ("system_prompt", "system_prompt_position")}
        if self.steady:
            kept["steady_prefix"] = True
        return {**kept, "reasoning": told["reasoning"]}


class Changes(NamedTuple):
    """What has to change at the top level of a body: fields to write whole, fields to leave out."""

    put: Json
    drop: frozenset[str]
    steadied: Steadied | None = None
    """What was done to keep the beginning of the prompt."""


class PolicyBook:
    """Remembers the effective policies for one operation, by candidate: those only change with their whole shape."""

    def __init__(self, operation: Operation) -> None:
        self._operation = operation
        self._known: dict[Candidate, EffectivePolicy] = {}

    def of(self, candidate: Candidate) -> EffectivePolicy:
        """The policy for one candidate."""
        found = self._known.get(candidate)
        if found is None:
            if len(self._known) >= _MOST_REMEMBERED:  # of shapes long gone
                self._known.clear()
            asset, role, protocol = candidate.asset, candidate.role, candidate.service.protocol
            found = self._known[candidate] = effective_policy(asset, role, self._operation, protocol)
        return found


def effective_policy(asset: Asset, role: Role | None, operation: Operation, protocol: str = "") -> EffectivePolicy:
    """The layers folded: the role's word over the asset's, and its system prompt instead of the asset's."""
    own, prompts = asset.request_policy, _NO_POLICY if role is None else role.prompt_policy
    wanted = prompts.request_policy
    defaults = deep_merge(_allowed(own.body_defaults), _allowed(wanted.body_defaults))
    overrides = deep_merge(_allowed(own.body_overrides), _allowed(wanted.body_overrides))
    rule = _rule(asset, operation, protocol) if not asks_to_think(deep_merge(defaults, overrides)) else {}
    spoken: PromptPolicy | RequestPolicy = next((p for p in (prompts, wanted) if p.system_prompt), own)
    keeps = role is not None and role.routing_policy.steady_prefix
    return EffectivePolicy(
        body_defaults=deep_merge(rule, defaults),
        body_overrides=overrides,
        system_prompt=spoken.system_prompt,
        system_prompt_position=spoken.system_prompt_position,
        user_template=prompts.user_template,
        reasoning=wanted.reasoning or own.reasoning or ReasoningMode.STRIP,
        thoughtful_defaults=defaults if rule else None,
        steady=keeps,
        plain=not (rule or defaults or overrides or spoken.system_prompt or prompts.user_template or keeps),
    )


def deep_merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> Json:
    """Both, key by key, objects inside too; where they differ `above` wins, with a null as well."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        merged[key] = deep_merge(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return merged


def is_qwen3(asset: Asset) -> bool:
    """Whether this is Qwen3 or Qwen3.5 (or a later 3.x), by its family or one of its names."""
    return any(_QWEN3.search(name.casefold()) for name in (asset.family, asset.asset_id, *asset.aliases))


def asks_to_think(body: Mapping[str, Any]) -> bool:
    """Whether a body asks the model to think, in any of the words that clients and engines have for it."""
    kwargs = body.get("chat_template_kwargs")
    said = [kwargs.get("enable_thinking")] if isinstance(kwargs, dict) else []
    said += [body[word] for word in _THINKING_WORDS if word in body]
    return any(map(_yes, said))


def shape(
    fields: Mapping[str, Any], policy: EffectivePolicy, operation: Operation, kept_back: frozenset[str] = frozenset()
) -> Changes:
    """What to change in a body; `kept_back` are parameters that no engine may see from a client."""
    drop = frozenset(key for key in kept_back if key in fields)
    told = {key: value for key, value in fields.items() if key not in drop} if drop else fields
    rule = policy.thoughtful_defaults
    put = _under(told, policy.body_defaults if rule is None or not asks_to_think(told) else rule)
    for key, value in policy.body_overrides.items():
        current = put.get(key, told.get(key))
        put[key] = deep_merge(current, value) if isinstance(current, dict) and isinstance(value, dict) else value
    if policy.system_prompt or policy.user_template:
        _put_prompts(put, told, policy, operation)
    if not policy.steady:
        return Changes(put, drop)
    found = steady({**told, **put} if put else told)
    return Changes({**put, **found.put}, drop, found.done)


def apply_changes(fields: Mapping[str, Any], changes: Changes) -> Json:
    """The body as it is after the changes."""
    return {**{key: value for key, value in fields.items() if key not in changes.drop}, **changes.put}


def passes_reasoning(asked: bool | None, policy: EffectivePolicy) -> bool:  # noqa: FBT001 - the client's own word
    """Whether the client gets reasoning: what the request asks for, else what the policy says."""
    return policy.reasoning is ReasoningMode.PASS if asked is None else asked


def _allowed(body: Json) -> Json:
    return body if RESERVED.isdisjoint(body) else {key: body[key] for key in body if key not in RESERVED}


def _rule(asset: Asset, operation: Operation, protocol: str) -> Json:
    if operation is not Operation.CHAT or not is_qwen3(asset):
        return {}
    return _NO_THINKING_OLLAMA if protocol == "ollama" else _NO_THINKING


def _yes(said: Any) -> bool:
    if isinstance(said, dict):  # OpenAI's {"effort": …}, Anthropic's {"type": …}, OpenRouter's {"enabled": …}
        return all(said.get(word, True) not in _NOT_AT_ALL for word in ("effort", "type", "enabled"))
    return isinstance(said, bool | str | int | float) and said not in _NOT_AT_ALL


def _under(told: Mapping[str, Any], defaults: Json) -> Json:
    """The fields that defaults change: those that are missing, and objects that get more keys."""
    put: Json = {}
    for key, value in defaults.items():
        if key not in told:
            put[key] = value
        elif isinstance(value, dict) and isinstance(said := told[key], dict):
            put[key] = deep_merge(value, said)
    return put


def _put_prompts(put: Json, told: Mapping[str, Any], policy: EffectivePolicy, operation: Operation) -> None:
    key = _PROMPT_FIELDS.get(operation)
    value = None if key is None else put.get(key, told.get(key))
    if key is None or value is None:
        return
    shaped = _messages(value, policy) if operation is Operation.CHAT else _templated(value, policy.user_template)
    if shaped is not value:
        put[key] = shaped


_PROMPT_FIELDS: Final[Mapping[Operation, str]] = {
    Operation.CHAT: "messages",
    Operation.COMPLETION: "prompt",
    Operation.EMBEDDINGS: "input",
}


def _templated(value: Any, template: str) -> Any:
    """A text in the template, or each of a list of texts; tokens stay as they are."""
    if template and isinstance(value, str):
        return template.replace(INPUT, value)
    if template and isinstance(value, list) and any(isinstance(item, str) for item in value):
        return [template.replace(INPUT, item) if isinstance(item, str) else item for item in value]
    return value


def _messages(messages: Any, policy: EffectivePolicy) -> Any:
    """The messages with the prompts in place; what is no list of messages is left to the engine to refuse."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        return messages
    if policy.user_template:
        messages = _with_template(messages, policy.user_template)
    if policy.system_prompt:
        messages = _with_system(messages, policy.system_prompt, policy.system_prompt_position)
    return messages


def _with_template(messages: list[Json], template: str) -> list[Json]:
    """The last message of the user in the template; of one in parts, its first text."""
    for at in range(len(messages) - 1, -1, -1):
        if messages[at].get("role") == "user":
            content = messages[at].get("content")
            return _replaced(messages, at, _wrapped(content, template))
    return messages


def _wrapped(content: Any, template: str) -> Any:
    if isinstance(content, str):
        return template.replace(INPUT, content)
    for at, part in enumerate(content if isinstance(content, list) else ()):
        if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
            return [*content[:at], {**part, "text": template.replace(INPUT, part["text"])}, *content[at + 1 :]]
    return content


def _with_system(messages: list[Json], prompt: str, position: SystemPromptPosition) -> list[Json]:
    """The prompt before, after or instead of the client's own.

    It joins the client's message: many chat templates refuse a second system message.
    """
    if position is SystemPromptPosition.REPLACE:
        messages = [message for message in messages if message.get("role") not in _SYSTEM]
    leading = next((at for at, message in enumerate(messages) if message.get("role") not in _SYSTEM), len(messages))
    if not leading:
        return [{"role": "system", "content": prompt}, *messages]
    if position is SystemPromptPosition.APPEND:
        return _replaced(messages, leading - 1, _joined(messages[leading - 1].get("content"), prompt, before=False))
    return _replaced(messages, 0, _joined(messages[0].get("content"), prompt, before=True))


def _joined(content: Any, prompt: str, *, before: bool) -> Any:
    """The client's system prompt, a text or parts, with the policy's."""
    if isinstance(content, list):
        text = f"{prompt}\n\n" if before else f"\n\n{prompt}"
        part = {"type": "text", "text": text}
        return [part, *content] if before else [*content, part]
    if not isinstance(content, str) or not content:
        return prompt
    return f"{prompt}\n\n{content}" if before else f"{content}\n\n{prompt}"


def _replaced(messages: list[Json], at: int, content: Any) -> list[Json]:
    return [*messages[:at], {**messages[at], "content": content}, *messages[at + 1 :]]
