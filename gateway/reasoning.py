"""[pure] Takes reasoning out of answers: `reasoning_content` (llama.cpp, SGLang, DeepSeek) and `reasoning`
(vLLM, Ollama, OpenRouter, the latter with `reasoning_details`).

Only what carries one of these fields is taken apart, and only as deep as the field; all other values
keep their bytes. An event that carried nothing else stays, without the field: it holds its finish
reason and usage, and while a model thinks these events keep the client's connection alive. `<think>`
in content is left alone: whoever wants it split sets the engine's reasoning parser.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from gateway.sse import data_of, split_events

REASONED: Final = b'"reasoning'
"""What has no such bytes has no reasoning; no text can hold them: inside of one a quote is escaped."""
_FIELDS: Final = ("reasoning_content", "reasoning", "reasoning_details")
_PLACES: Final = ("delta", "message")
_LINE = re.compile(rb"([^\r\n]*)(\r\n|\n|\r)")

_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_choices = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])


def strip_body(body: bytes) -> bytes:
    """An answer without a stream. What is no chat completion, or only the beginning of one, stays as it is."""
    return body if body.find(REASONED) < 0 else _strip(body)


def strip_events(block: bytes) -> bytes:
    """Whole events of a stream."""
    if block.find(REASONED) < 0:  # not `in`, which makes an exception first and throws it away
        return block
    return b"".join([_strip_event(event) for event in split_events(block)])


def _strip_event(event: bytes) -> bytes:
    data = data_of(event) if event.find(REASONED) >= 0 else None
    if data is None:
        return event
    kept = _strip(data)
    return event if kept is data else _with_data(event, kept)


def _strip(data: bytes) -> bytes:
    """One JSON object; the very same bytes if there is nothing to take out."""
    try:
        whole: dict[str, Any] = _object.decode(data)
        choices: list[dict[str, Any]] = _choices.decode(whole.get("choices", b"[]"))
        found = [_strip_choice(choice) for choice in choices]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return data
    if not any(found):
        return data
    whole["choices"] = choices
    return msgspec.json.encode(whole)


def _strip_choice(choice: dict[str, Any]) -> bool:
    """Whether anything was taken out of a choice."""
    found = False
    for place in _PLACES:
        if place in choice and REASONED in bytes(choice[place]):
            message = _object.decode(choice[place])
            kept = {key: value for key, value in message.items() if key not in _FIELDS}
            found = found or len(kept) < len(message)
            choice[place] = kept
    return found


def _with_data(event: bytes, data: bytes) -> bytes:
    """The event with other data; its other lines and its line ends as they were."""
    out: list[bytes] = []
    written = False
    for line, end in _LINE.findall(event):
        if line.partition(b":")[0].removeprefix(b"\xef\xbb\xbf") != b"data":
            out.append(line + end)
        elif not written:
            out += [b"data: " + part + end for part in data.split(b"\n")]
            written = True
    return b"".join(out)
