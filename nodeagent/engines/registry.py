"""The engines that are known, in the order in which fingerprints are judged, and the words of config for them."""

from __future__ import annotations

from typing import Final

from geniehive.errors import ConfigError
from nodeagent.engines.base import Engine
from nodeagent.engines.kokoro import Kokoro
from nodeagent.engines.lemonade import Lemonade
from nodeagent.engines.llamacpp import LlamaCpp
from nodeagent.engines.llamaswap import LlamaSwap
from nodeagent.engines.lmstudio import LMStudio
from nodeagent.engines.manifest import Manifest
from nodeagent.engines.ollama import Ollama
from nodeagent.engines.openai import OpenAI
from nodeagent.engines.sdcpp import SdCpp
from nodeagent.engines.sglang import SGLang
from nodeagent.engines.speaches import Speaches
from nodeagent.engines.vllm import VLLM
from nodeagent.engines.whispercpp import WhisperCpp

ENGINES: Final[tuple[Engine, ...]] = (
    SGLang(),
    LMStudio(),
    Lemonade(),
    LlamaSwap(),
    LlamaCpp(),
    VLLM(),
    Ollama(),
    Speaches(),
    WhisperCpp(),
    Kokoro(),
    SdCpp(),
    OpenAI(),
)
SPEECH_ENGINES: Final = tuple(engine for engine in ENGINES if engine.name in {"speaches", "whispercpp"})
"""What `discover_protocol: whisper` may turn out to be; otherwise it is a server that lists nothing."""

_RUNTIMES: Final = {engine.runtime_name: engine.name for engine in ENGINES}


def by_protocol(word: str | None, *, manifest: str = "", runtime: str = "") -> Engine:
    """The engine for a word of `discover_protocol`, `auto` and `whisper` excepted: those need `fingerprint.identify`.

    None (no discovery) gives one that only sees whether the server lives; it is announced with the protocol that
    `runtime` (config's runtime.engine) stands for. Raises ConfigError for an unknown word.
    """
    if not word:
        return Manifest(manifest, speaks=_RUNTIMES.get(runtime, runtime if runtime in _RUNTIMES.values() else "openai"))
    if word == Manifest.name:
        return Manifest(manifest)
    for engine in ENGINES:
        if engine.name == word:
            return engine
    known = ", ".join([*(engine.name for engine in ENGINES), Manifest.name, "whisper", "auto"])
    raise ConfigError(
        f"discover_protocol {word!r} is not known: use one of {known}, or null", param="discover_protocol"
    )
