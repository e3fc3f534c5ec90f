"""[pure] How another engine is asked to go on where a stream was cut.

    prefill   the answer so far is given as the beginning of the assistant's message, and the engine goes on from there
    append    the same for plain completions: the text so far follows the prompt
    repeat    the same request once more; what the client has is skipped, as long as it comes again

The first two are for engines that are known to do it, and for answers that are nothing but text: a grammar, a tool
call or a thought would begin anew. Sources: llama.cpp server (a trailing assistant message is a prefill since
April 2025; `continue_final_message` since 2026; refused where a template thinks), vLLM (`continue_final_message`
with `add_generation_prompt: false`).
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from gateway.resume_sent import CONTENT, TEXT, Channel, Json, Sent
from geniehive.relay.request import Body
from geniehive.resources import Operation
from geniehive.routing.policy import asks_to_think

GOES_ON: Final = frozenset({"llamacpp", "vllm"})
"""Protocols of engines that continue a message."""
_LIMITS: Final = ("max_tokens", "max_completion_tokens", "n_predict")
_FORMS: Final = frozenset(
    {
        "functions", "grammar", "guided_choice", "guided_grammar", "guided_json", "guided_regex", "json_schema",
        "structural_tag", "structured_outputs", "tools",
    }
)  # fmt: skip
_THINK: Final = "<think>"  # templates take thoughts out of messages
_NOT_APPENDED: Final = ("echo", "logprobs", "suffix")

_body = msgspec.json.Decoder(Json)


class Again(NamedTuple):
    """A request for the rest; `goes_on` is what the engine continues, None if it begins anew."""

    how: str
    body: Body
    goes_on: str | None


def ways(operation: Operation | None, protocol: str, body: Body, sent: Sent) -> list[Again]:
    """How to ask an engine, the best first; `body` (bytes of JSON) is what it would be asked without a cut."""
    found = [Again("repeat", body, None)]
    if not isinstance(body, bytes):
        return found
    try:
        fields = _body.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return found
    better = _prefill(fields, protocol, sent) if operation is Operation.CHAT else _append(fields, protocol, sent)
    return found if better is None else [better, *found]


def _prefill(fields: Json, protocol: str, sent: Sent) -> Again | None:
    said = _only(sent, CONTENT)
    begun = said.rstrip()  # templates take spaces off the end of a message: they are met again instead
    limits = _limits(fields, sent.tokens)
    messages = fields.get("messages")
    if not begun or limits is None or not _plain(fields, protocol) or asks_to_think(fields) or _THINK in begun[:64]:
        return None
    if not isinstance(messages, list) or not messages or not isinstance(messages[-1], dict):
        return None
    if messages[-1].get("role") == "assistant":  # the client's own prefill, which some engines repeat and some do not
        return None
    rest = {"messages": [*messages, {"role": "assistant", "content": begun}], **limits}
    flags = {"continue_final_message": True, "add_generation_prompt": False}
    return Again("prefill", msgspec.json.encode({**fields, **rest, **flags}), begun)


def _append(fields: Json, protocol: str, sent: Sent) -> Again | None:
    begun, prompt = _only(sent, TEXT), fields.get("prompt")
    limits = _limits(fields, sent.tokens)
    if not begun or limits is None or not isinstance(prompt, str) or not _plain(fields, protocol):
        return None
    if any(fields.get(key) not in (None, False, "") for key in _NOT_APPENDED) or fields.get("best_of", 1) != 1:
        return None
    return Again("append", msgspec.json.encode({**fields, **limits, "prompt": prompt + begun}), begun)


def _only(sent: Sent, channel: Channel) -> str:
    """The text so far, if it is one answer of nothing else; else empty."""
    if sent.thought or sent.choices.keys() != {0}:
        return ""
    said = sent.choices[0]
    return "" if said.finished or said.pieces.keys() != {channel} else said.text(channel)


def _plain(fields: Json, protocol: str) -> bool:
    """Whether the engine is known to go on, and the answer has no form that would begin anew."""
    form = fields.get("response_format")
    free = form is None or (isinstance(form, dict) and form.get("type") == "text")
    one = fields.get("n") in {None, 1} if not isinstance(fields.get("n"), list | dict) else False
    return protocol in GOES_ON and free and one and not any(fields.get(key) for key in _FORMS)


def _limits(fields: Json, tokens: int) -> Json | None:
    """What is left of the limits on tokens; None if nothing is."""
    left: Json = {}
    for key in _LIMITS:
        given = fields.get(key)
        if type(given) is int and given >= 0:
            left[key] = given - tokens
            if left[key] < 1:
                return None
    if type(least := fields.get("min_tokens")) is int:
        left["min_tokens"] = max(0, least - tokens)
    return left
