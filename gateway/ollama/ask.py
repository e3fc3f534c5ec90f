"""[pure] Requests of Ollama's API as requests of OpenAI's: chat, generate and embed.

Ollama's `docs/api.md` and `api/types.go` (0.33) say what may be in a request. What has a name in OpenAI's API gets it;
samplers that OpenAI has not go on under the names that llama.cpp and vLLM have for them; what is about loading a model
(num_ctx, num_gpu, keep_alive) is left out, since the engines behind a gateway are loaded by their own settings. Fields
that are not known here go on as they came.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

from geniehive.errors import InvalidRequest
from geniehive.resources import Operation

Json = dict[str, Any]

_OWN: Final = frozenset(
    {
        *("model", "messages", "prompt", "input", "system", "suffix", "template", "context", "raw", "images"),
        *("stream", "stream_options", "options", "format", "keep_alive", "think", "truncate", "shift", "n"),
    }
)
# Ollama's option → the fields it becomes. Those that are about loading a model become none.
_OPTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "num_predict": ("max_tokens",),
    "repeat_penalty": ("repeat_penalty", "repetition_penalty"),  # llama.cpp; vLLM, SGLang
    **dict.fromkeys(("num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "numa", "low_vram"), ()),
    **dict.fromkeys(("f16_kv", "use_mmap", "use_mlock", "vocab_only", "logits_all", "embedding_only"), ()),
    **dict.fromkeys(("num_keep", "penalize_newline", "draft_num_predict"), ()),
}
_SAMPLED: Final = frozenset(
    {"temperature", "top_p", "top_k", "min_p", "typical_p", "seed", "stop", "repeat_last_n", "mirostat"}
    | {"mirostat_tau", "mirostat_eta", "presence_penalty", "frequency_penalty"}
)
_PICTURES: Final = (("/9j/", "jpeg"), ("R0lGOD", "gif"), ("UklGR", "webp"))
_LEVELS: Final = ("low", "medium", "high", "max")


class Question(NamedTuple):
    """A request in OpenAI's words; without `fields` there is nothing to generate: a model is only to be loaded."""

    kind: str
    """chat, generate or embed: how the answer is told."""
    model: str
    operation: Operation
    path: str = ""
    fields: Json | None = None
    stream: bool = False
    unload: bool = False
    """Whether it is about putting the model out of memory."""


def chat(given: Json) -> Question:
    """POST /api/chat. Raises InvalidRequest, naming the part that cannot be translated."""
    messages = _list(given, "messages")
    question = _question("chat", given, Operation.CHAT, "/v1/chat/completions")
    if not messages:
        return question
    return question._replace(fields=_generating(given, {"messages": _messages(messages)}))


def generate(given: Json) -> Question:
    """POST /api/generate: a chat of one message, or a completion where it is raw or has a suffix."""
    for name in ("template", "context"):
        if given.get(name):
            raise InvalidRequest(
                f"`{name}` is not understood here: the engine has its own template; send /api/chat the messages",
                param=name,
            )
    prompt, suffix = _text(given, "prompt"), _text(given, "suffix")
    if given.get("raw") or suffix:
        if given.get("images"):
            raise InvalidRequest("`images` cannot go with `raw` or `suffix`; send them to /api/chat", param="images")
        question = _question("generate", given, Operation.COMPLETION, "/v1/completions")
        return question._replace(
            fields=_generating(given, {"prompt": prompt, **({"suffix": suffix} if suffix else {})})
        )
    question = _question("generate", given, Operation.CHAT, "/v1/chat/completions")
    if not prompt and not given.get("images"):
        return question
    system = _text(given, "system")
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": _content(prompt, given.get("images"))})
    return question._replace(fields=_generating(given, {"messages": messages}))


def embed(given: Json) -> Question:
    """POST /api/embed (`input`: a text or several), and /api/embeddings (`prompt`: one)."""
    question = _question("embed", given, Operation.EMBEDDINGS, "/v1/embeddings")._replace(stream=False)
    texts = given.get("input", given.get("prompt"))
    if texts in (None, "", []):
        return question
    if not isinstance(texts, str) and not (isinstance(texts, list) and all(isinstance(each, str) for each in texts)):
        raise InvalidRequest("`input` must be a text or a list of texts", param="input")
    return question._replace(
        fields={**_kept(given), "model": question.model, "input": texts, "encoding_format": "float"}
    )


def _question(kind: str, given: Json, operation: Operation, path: str) -> Question:
    keep = given.get("keep_alive")
    return Question(
        kind, given["model"], operation, path, stream=given.get("stream") is not False, unload=keep in (0, "0", "0s")
    )


def _generating(given: Json, content: Json) -> Json:
    """The fields of a request that generates."""
    fields = {**_kept(given), "model": given["model"], **content, **_options(given), **_format(given), **_think(given)}
    if given.get("stream") is not False:
        fields |= {"stream": True, "stream_options": {"include_usage": True}}
    return fields


def _kept(given: Json) -> Json:
    """What goes on as it came; a list of no tools, which Ollama's own client sends, is none (OpenAI refuses it)."""
    return {key: value for key, value in given.items() if key not in _OWN and (key != "tools" or value)}


def _options(given: Json) -> Json:
    options = given.get("options")
    if options is None:
        return {}
    if not isinstance(options, dict):
        raise InvalidRequest("`options` must be an object", param="options")
    fields: Json = {}
    for name, value in options.items():
        endless = name == "num_predict" and isinstance(value, int) and value < 0  # -1, -2
        if value is None or name in _OWN or endless:
            continue
        names = (name,) if name in _SAMPLED else _OPTIONS.get(name, (name,))
        fields |= dict.fromkeys(names, value)
    return fields


def _format(given: Json) -> Json:
    wanted = given.get("format")
    if not wanted:
        return {}
    if wanted == "json":
        return {"response_format": {"type": "json_object"}}
    if isinstance(wanted, dict):
        schema = {"name": "answer", "schema": wanted, "strict": True}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}
    raise InvalidRequest('`format` must be "json" or a JSON schema', param="format")


def _think(given: Json) -> Json:
    """Whether to think, in the words of llama.cpp, vLLM and SGLang, and of Ollama's own /v1."""
    think = given.get("think")
    if think is None or think == "":
        return {}
    if think is not True and think is not False and think not in _LEVELS:
        raise InvalidRequest('`think` must be true, false, "low", "medium" or "high"', param="think")
    fields: Json = {
        "chat_template_kwargs": {"enable_thinking": think is not False},
        "include_reasoning": think is not False,
    }
    if think is not True:
        fields["reasoning_effort"] = think or "none"
    return fields


def _messages(given: list[Any]) -> list[Json]:
    """OpenAI's messages. Ollama's tool calls need no ids; here each answer of a tool gets that of its call."""
    made: list[Json] = []
    waiting: list[tuple[str, str]] = []
    count = 0
    for place, message in enumerate(given):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise InvalidRequest(f"messages[{place}] must be an object with a `role`", param="messages")
        named = {"images", "thinking", "tool_calls", "tool_name", "content"}
        told = {key: value for key, value in message.items() if key not in named}
        told["content"] = _content(message.get("content") or "", message.get("images"))
        if message.get("thinking"):
            told["reasoning_content"] = message["thinking"]
        calls = message.get("tool_calls")
        if calls:
            told["tool_calls"] = [_call(call, count + each, place) for each, call in enumerate(_calls(calls, place))]
            count += len(calls)
            waiting += [(call["id"], call["function"]["name"]) for call in told["tool_calls"]]
        elif message["role"] == "tool" and "tool_call_id" not in told:
            told["tool_call_id"] = _answered(waiting, message.get("tool_name"))
        made.append(told)
    return made


def _calls(calls: Any, place: int) -> list[Any]:
    if not isinstance(calls, list):
        raise InvalidRequest(f"messages[{place}].tool_calls must be a list", param="messages")
    return calls


def _call(call: Any, number: int, place: int) -> Json:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise InvalidRequest(f"messages[{place}].tool_calls needs a `function` with a `name`", param="messages")
    arguments = function.get("arguments")
    written = arguments if isinstance(arguments, str) else msgspec.json.encode(arguments or {}).decode()
    identity = call.get("id") if isinstance(call.get("id"), str) and call["id"] else f"call_{number}"
    return {"id": identity, "type": "function", "function": {"name": function["name"], "arguments": written}}


def _answered(waiting: list[tuple[str, str]], name: Any) -> str:
    """The id of the call that a tool's answer is for: the first of that name, else the first that has no answer yet."""
    if not waiting:
        return "call_0"
    found = next((each for each in waiting if each[1] == name), waiting[0])
    waiting.remove(found)
    return found[0]


def _content(text: Any, images: Any) -> Any:
    if not images:
        return text
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise InvalidRequest("`images` must be a list of base64 texts", param="images")
    parts: list[Json] = [{"type": "text", "text": text}] if text else []
    return [*parts, *({"type": "image_url", "image_url": {"url": _data_url(image)}} for image in images)]


def _data_url(image: str) -> str:
    kind = next((kind for begin, kind in _PICTURES if image.startswith(begin)), "png")
    return image if image.startswith("data:") else f"data:image/{kind};base64,{image}"


def _text(given: Json, name: str) -> str:
    value = given.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidRequest(f"`{name}` must be a text", param=name)
    return value


def _list(given: Json, name: str) -> list[Any]:
    value = given.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise InvalidRequest(f"`{name}` must be a list", param=name)
    return value
