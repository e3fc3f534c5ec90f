"""What a model's name gives away: family, quantization, and, as a guess, what it can be asked for.

Engines that know better say so themselves (Ollama's `details`, LM Studio's `architecture`, llama.cpp's `ftype`);
names are the last resort, and what they do not say stays unknown.
"""

from __future__ import annotations

import re
from typing import Final

from geniehive.resources import Operation

CHAT: Final = (Operation.CHAT, Operation.COMPLETION)
SPEECH_TO_TEXT: Final = (Operation.TRANSCRIPTION, Operation.TRANSLATION)

_FAMILIES: Final = (
    "gpt-oss|command-r|codellama|tinyllama|starcoder|smollm|llama|qwen|gemma|phi|ministral|mistral|mixtral|devstral|"
    "codestral|magistral|deepseek|granite|olmo|glm|kimi|nemotron|falcon|internlm|exaone|hermes|minimax|hunyuan|ernie|"
    "lfm|llava|pixtral|nomic|bge|gte|jina|minilm|mxbai|whisper|parakeet|canary|kokoro|piper|orpheus|flux|sdxl"
)
# A version follows at once (qwen3, phi-4, llama-3.1), and is no size: the 8 of llama-8b is one.
_FAMILY: Final = re.compile(rf"(?:^|[^a-z])({_FAMILIES})(?:[-_ ]?v?(\d{{1,2}}(?:\.\d{{1,2}})?)(?![\d.]*[bmk]\b|\d))?")
_QUANTIZATION: Final = re.compile(
    r"(?:^|[^a-z0-9])((?:i?q\d(?:_[a-z0-9]+)*)|tq\d_\d|mxfp4|nvfp4|bf16|f(?:p)?(?:16|32|8)|awq|gptq|int[48])(?![a-z0-9])",
    re.IGNORECASE,
)
_FTYPE: Final = re.compile(r"\s*-\s*(small|medium|large|extra large)\b.*", re.IGNORECASE)
_FTYPE_SIZES: Final = {"small": "_S", "medium": "_M", "large": "_L", "extra large": "_XL"}
_EMBEDDING: Final = re.compile(r"embed|(?:^|[^a-z])(?:bge|gte|e5|minilm|mxbai)(?![a-z])")
_RERANK: Final = re.compile(r"rerank")
_SPEECH_TO_TEXT: Final = re.compile(r"whisper|parakeet|canary")
_TEXT_TO_SPEECH: Final = re.compile(r"(?:^|[^a-z])(?:tts|kokoro|piper|orpheus)(?![a-z])")
_MODERATION: Final = re.compile(r"moderation")
_IMAGE: Final = re.compile(r"stable-?diffusion|sdxl|(?:^|[^a-z])flux|qwen-image")


def family_of(name: str) -> str:
    """The family that a model's name or file name tells, such as "qwen3" or "llama3.1"; empty where it tells none."""
    found = _FAMILY.search(stem(name).lower())
    return found[1] + (found[2] or "") if found else ""


def quantization_of(name: str) -> str:
    """The quantization that a model's name or file name tells, such as "Q4_K_M"; empty where it tells none."""
    found = _QUANTIZATION.search(stem(name))
    return found[1].upper() if found else ""


def quantization_of_ftype(ftype: str) -> str:
    """llama.cpp's `ftype` in the usual short form: "Q4_K - Medium" is "Q4_K_M", "all F32" is "F32"."""
    plain = ftype.removeprefix("(guessed) ").removeprefix("all ").strip()
    size = _FTYPE.search(plain)
    short = plain[: size.start()] + _FTYPE_SIZES[size[1].lower()] if size else plain.split(" ")[0]
    return "" if "unknown" in ftype.lower() else short


def operations_of(name: str) -> tuple[Operation, ...]:
    """What a model of this name is likely made for: a guess, chat and completion where nothing speaks against it."""
    low = name.lower()
    table: tuple[tuple[re.Pattern[str], tuple[Operation, ...]], ...] = (
        (_RERANK, (Operation.RERANK,)),
        (_EMBEDDING, (Operation.EMBEDDINGS,)),
        (_SPEECH_TO_TEXT, SPEECH_TO_TEXT),
        (_TEXT_TO_SPEECH, (Operation.SPEECH,)),
        (_IMAGE, (Operation.IMAGE,)),
        (_MODERATION, (Operation.MODERATION,)),
    )
    return next((operations for pattern, operations in table if pattern.search(low)), CHAT)


def parameter_size_of(count: int | None) -> str:
    """A number of parameters in the usual short form: 8190735360 is "8.2B", 137920 is "138K"; empty for None."""
    for unit, size, digits in (("B", 10**9, 1), ("M", 10**6, 0), ("K", 10**3, 0)):
        if count is not None and count >= size:
            return f"{count / size:.{digits}f}{unit}"
    return ""


def stem(name: str) -> str:
    """The last part of a path or repository name, without .gguf and without a number of parts."""
    last = name.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return re.sub(r"(-\d{5}-of-\d{5})?\.(gguf|bin|safetensors)$", "", last, flags=re.IGNORECASE)
