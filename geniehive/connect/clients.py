"""[pure] A recipe for each client: which file, what goes into it, and what is left for the user to do.

The formats are those of the clients' own documentation (November 2026): Codex 0.134 and later reads a profile from a
file of its own; Claude Code reads `env` of its settings.json; Open WebUI is set by environment variables; Continue by
config.yaml; Zed by settings.json, with the key in GENIEHIVE_API_KEY; aider by .aider.conf.yml; llm by
extra-openai-models.yaml. What each of them does with it: docs/clients.md.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple

from geniehive.connect.choose import Choice, Choices

Kind = Literal["json", "yaml", "text"]

KEY_VARIABLE: Final = "GENIEHIVE_API_KEY"
_NO_KEY: Final = "none"  # clients refuse an empty key; a gateway without keys takes any
_CONTEXT: Final = 32_768
"""For clients that must be told one, where nobody knows it; and what an agent needs."""


class Setup(NamedTuple):
    """What a recipe is made of. `url` is the gateway's, without /v1; `key` is empty where the user gave none."""

    url: str
    key: str
    choices: Choices

    @property
    def v1(self) -> str:
        """The base URL of OpenAI's API."""
        return f"{self.url}/v1"

    @property
    def secret(self) -> str:
        """What stands where a client wants a key in its file."""
        return self.key or _NO_KEY


class Recipe(NamedTuple):
    """`path` begins with ~ or is relative to where the user is; `content` is what is put into the file.

    `merge_by`: the field that tells the items of lists apart, so that a second run replaces its own items.
    """

    path: str
    kind: Kind
    content: Any
    merge_by: str = ""
    then: tuple[str, ...] = ()
    """Lines for the user: what to run, what to set."""


def codex(setup: Setup) -> Recipe:
    """Codex: a profile of its own, so that nothing that is there changes."""
    main = setup.choices.main
    lines = [f"model = {_toml(main.model)}", 'model_provider = "geniehive"']
    if main.context:
        lines.append(f"model_context_window = {main.context}")
    lines += [
        "",
        "[model_providers.geniehive]",
        'name = "GenieHive"',
        f"base_url = {_toml(setup.v1)}",
        'wire_api = "responses"',
        *([f'env_key = "{KEY_VARIABLE}"'] if setup.key else []),
    ]
    return Recipe(
        "~/.codex/geniehive.config.toml",
        "text",
        "\n".join(lines) + "\n",
        then=(*_room(setup), *_export(setup), "codex --profile geniehive"),
    )


def claude(setup: Setup) -> Recipe:
    """Claude Code: the gateway's URL without /v1, and the cluster's models for each of its sizes."""
    main, small = setup.choices.main.model, setup.choices.small.model
    env = {
        "ANTHROPIC_BASE_URL": setup.url,
        "ANTHROPIC_AUTH_TOKEN": setup.secret,
        "ANTHROPIC_MODEL": main,
        "ANTHROPIC_DEFAULT_OPUS_MODEL": main,
        "ANTHROPIC_DEFAULT_SONNET_MODEL": main,
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": small,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }
    return Recipe("~/.claude/settings.json", "json", {"env": env}, then=(*_room(setup), "claude"))


def openwebui(setup: Setup) -> Recipe:
    """Open WebUI: variables for its container; they count until the same is set in its admin panel."""
    choices = setup.choices
    lines: list[str] = []

    def put(**values: str) -> None:
        lines.extend(f"{name}={value}" for name, value in values.items())

    put(ENABLE_OPENAI_API="true", OPENAI_API_BASE_URL=setup.v1, OPENAI_API_KEY=setup.secret)
    put(DEFAULT_MODELS=choices.main.model, TASK_MODEL_EXTERNAL=choices.small.model)
    if choices.transcription:
        put(AUDIO_STT_ENGINE="openai", AUDIO_STT_OPENAI_API_BASE_URL=setup.v1, AUDIO_STT_OPENAI_API_KEY=setup.secret)
        put(AUDIO_STT_MODEL=choices.transcription.model)
    if choices.speech:
        put(AUDIO_TTS_ENGINE="openai", AUDIO_TTS_OPENAI_API_BASE_URL=setup.v1, AUDIO_TTS_OPENAI_API_KEY=setup.secret)
        put(AUDIO_TTS_MODEL=choices.speech.model)
        if choices.voice:
            put(AUDIO_TTS_VOICE=choices.voice)
    if choices.image:
        put(ENABLE_IMAGE_GENERATION="true", IMAGE_GENERATION_ENGINE="openai", IMAGES_OPENAI_API_BASE_URL=setup.v1)
        put(IMAGES_OPENAI_API_KEY=setup.secret, IMAGE_GENERATION_MODEL=choices.image.model)
    if choices.embeddings:
        put(RAG_EMBEDDING_ENGINE="openai", RAG_OPENAI_API_BASE_URL=setup.v1, RAG_OPENAI_API_KEY=setup.secret)
        put(RAG_EMBEDDING_MODEL=choices.embeddings.model)
    run = (
        "docker run -d -p 3000:8080 --env-file open-webui.env -v open-webui:/app/backend/data "
        "ghcr.io/open-webui/open-webui:main"
    )
    local = (
        "# in a container 127.0.0.1 is the container: give --url http://host.docker.internal:PORT, or the host's name"
    )
    return Recipe("open-webui.env", "text", "\n".join(lines) + "\n", then=(run, local))


def continue_dev(setup: Setup) -> Recipe:
    """Continue, in VS Code and JetBrains."""
    choices = setup.choices
    models = [_continue(setup, "GenieHive", choices.main, ["chat", "edit", "apply"])]
    if choices.small.model != choices.main.model:
        models.append(_continue(setup, "GenieHive (small)", choices.small, ["chat", "summarize"]))
    if choices.embeddings:
        models.append(_continue(setup, "GenieHive (embeddings)", choices.embeddings, ["embed"]))
    if choices.rerank:
        models.append(_continue(setup, "GenieHive (rerank)", choices.rerank, ["rerank"]))
    content = {"name": "GenieHive", "version": "1.0.0", "schema": "v1", "models": models}
    return Recipe("~/.continue/config.yaml", "yaml", content, merge_by="name")


def zed(setup: Setup) -> Recipe:
    """Zed: an OpenAI-compatible provider; the key is read from the environment, never from the file."""
    chosen = dict.fromkeys((setup.choices.main, setup.choices.small))
    models = [
        {
            "name": choice.model,
            "display_name": f"{choice.model} (GenieHive)",
            "max_tokens": choice.context or _CONTEXT,
            "capabilities": {
                "tools": choice.tools,
                "images": choice.vision,
                "parallel_tool_calls": False,
                "prompt_cache_key": False,
            },
        }
        for choice in chosen
    ]
    provider = {"GenieHive": {"api_url": setup.v1, "available_models": models}}
    content = {
        "language_models": {"openai_compatible": provider},
        "agent": {"default_model": {"provider": "GenieHive", "model": setup.choices.main.model}},
    }
    shown = setup.key or _NO_KEY
    then = (f"export {KEY_VARIABLE}={shown}   # Zed asks for a key, and reads it from here",)
    return Recipe("~/.config/zed/settings.json", "json", content, merge_by="name", then=then)


def aider(setup: Setup) -> Recipe:
    """aider, which calls through LiteLLM: `openai/` before the name."""
    content = {
        "openai-api-base": setup.v1,
        "openai-api-key": setup.secret,
        "model": f"openai/{setup.choices.main.model}",
        "weak-model": f"openai/{setup.choices.small.model}",
        "show-model-warnings": False,
    }
    return Recipe("~/.aider.conf.yml", "yaml", content, then=("aider",))


def llm(setup: Setup) -> Recipe:
    """Simon Willison's llm."""
    chosen = dict.fromkeys((setup.choices.main, setup.choices.small))
    models = [
        {
            "model_id": f"geniehive/{choice.model}",
            "model_name": choice.model,
            "api_base": setup.v1,
            **({"api_key_name": "geniehive"} if setup.key else {}),
            **({"supports_tools": True} if choice.tools else {}),
            **({"vision": True} if choice.vision else {}),
        }
        for choice in chosen
    ]
    home = "~/Library/Application Support" if sys.platform == "darwin" else "~/.config"
    keys = (f"llm keys set geniehive --value {setup.key}",) if setup.key else ()
    path = f"{home}/io.datasette.llm/extra-openai-models.yaml"
    return Recipe(
        path, "yaml", models, merge_by="model_id", then=(*keys, f"llm -m geniehive/{setup.choices.main.model} hello")
    )


CLIENTS: Final[dict[str, Callable[[Setup], Recipe]]] = {
    "codex": codex,
    "claude": claude,
    "openwebui": openwebui,
    "continue": continue_dev,
    "zed": zed,
    "aider": aider,
    "llm": llm,
}


def _continue(setup: Setup, name: str, choice: Choice, roles: list[str]) -> dict[str, Any]:
    can = [*(["tool_use"] if choice.tools else []), *(["image_input"] if choice.vision else [])]
    return {
        "name": name,
        "provider": "openai",
        "model": choice.model,
        "apiBase": setup.v1,
        "apiKey": setup.secret,
        "roles": roles,
        **({"capabilities": can} if can else {}),
        **(
            {"defaultCompletionOptions": {"contextLength": choice.context}}
            if choice.context and "chat" in roles
            else {}
        ),
    }


def _room(setup: Setup) -> tuple[str, ...]:
    """A word of warning: what an agent says before its first question fills ten to twenty thousand tokens."""
    main = setup.choices.main
    if main.context is None or main.context >= _CONTEXT:
        return ()
    return (f"# {main.model} has a context of {main.context} tokens: an agent needs {_CONTEXT} or more",)


def _export(setup: Setup) -> tuple[str, ...]:
    return (f"export {KEY_VARIABLE}={setup.key}",) if setup.key else ()


def _toml(value: str) -> str:
    """A basic string of TOML 1.0."""
    return (
        '"'
        + "".join(
            _ESCAPES.get(char) or (f"\\u{ord(char):04x}" if char < " " or char == "\x7f" else char) for char in value
        )
        + '"'
    )


_ESCAPES: Final = {'"': '\\"', "\\": "\\\\"}
