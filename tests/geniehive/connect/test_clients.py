"""Each client's recipe is what that client reads, and leaves what is in its file."""

import json
import shlex
import tomllib

import pytest
import yaml

from geniehive.connect.choose import Choice, Choices
from geniehive.connect.clients import CLIENTS, Setup
from geniehive.connect.merge import merged, written
from geniehive.errors import Conflict

MAIN, SMALL = Choice("qwen3:32b", 32768, tools=True), Choice('odd"\\name', 8192, vision=True)
CHOICES = Choices(
    MAIN, SMALL, Choice("bge"), Choice("rerank"), Choice("whisper"), Choice("kokoro"), "af_heart", Choice("flux")
)
SETUP = Setup("http://gw:8800", "sk-1", CHOICES)
BARE = Setup("http://gw:8800", "", Choices(Choice("m"), Choice("m")))


def text(name, setup=SETUP, before=None):
    return merged(CLIENTS[name](setup), before)


def test_codex_gets_a_profile_file_of_its_own():
    recipe = CLIENTS["codex"](SETUP)
    found = tomllib.loads(recipe.content)
    assert (found["model"], found["model_provider"], found["model_context_window"]) == ("qwen3:32b", "geniehive", 32768)
    provider = found["model_providers"]["geniehive"]
    assert provider == {
        "name": "GenieHive",
        "base_url": "http://gw:8800/v1",
        "wire_api": "responses",
        "env_key": "GENIEHIVE_API_KEY",
    }
    assert recipe.then == ("export GENIEHIVE_API_KEY=sk-1", "codex --profile geniehive")
    assert "sk-1" not in recipe.content
    bare = tomllib.loads(CLIENTS["codex"](BARE).content)
    assert "env_key" not in bare["model_providers"]["geniehive"]
    odd = Setup("u", "", Choices(SMALL._replace(model='a"\\\n\x7f'), SMALL))
    assert tomllib.loads(CLIENTS["codex"](odd).content)["model"] == 'a"\\\n\x7f'


@pytest.mark.parametrize("name", ["codex", "claude"])
def test_an_agent_is_told_that_its_model_has_too_little_room(name):
    small = Setup("u", "", Choices(Choice("m", 4096), Choice("m")))
    assert "4096 tokens" in CLIENTS[name](small).then[0]
    assert not any("tokens" in line for line in CLIENTS[name](SETUP).then)


def test_claude_code_gets_the_url_without_v1_and_keeps_its_settings():
    before = json.dumps({"permissions": {"allow": ["Bash"]}, "env": {"FOO": "1", "ANTHROPIC_MODEL": "x"}})
    found = json.loads(text("claude", before=before))
    assert found["permissions"] == {"allow": ["Bash"]}
    env = found["env"]
    assert (env["FOO"], env["ANTHROPIC_BASE_URL"], env["ANTHROPIC_MODEL"]) == ("1", "http://gw:8800", "qwen3:32b")
    assert (env["ANTHROPIC_AUTH_TOKEN"], env["ANTHROPIC_DEFAULT_HAIKU_MODEL"]) == ("sk-1", 'odd"\\name')
    assert json.loads(text("claude", BARE))["env"]["ANTHROPIC_AUTH_TOKEN"] == "none"


def test_open_webui_gets_a_variable_for_all_that_the_cluster_can():
    env = dict(line.split("=", 1) for line in text("openwebui").splitlines())
    assert (env["OPENAI_API_BASE_URL"], env["OPENAI_API_KEY"]) == ("http://gw:8800/v1", "sk-1")
    assert (env["AUDIO_TTS_MODEL"], env["AUDIO_TTS_VOICE"], env["AUDIO_STT_MODEL"]) == ("kokoro", "af_heart", "whisper")
    assert (env["IMAGE_GENERATION_MODEL"], env["RAG_EMBEDDING_MODEL"]) == ("flux", "bge")
    assert not {
        name for name in dict(line.split("=", 1) for line in text("openwebui", BARE).splitlines()) if "AUDIO" in name
    }


def test_continue_replaces_its_own_models_and_keeps_others():
    before = yaml.safe_dump(
        {"name": "Mine", "rules": ["x"], "models": [{"name": "GPT"}, {"name": "GenieHive", "model": "old"}]}
    )
    found = yaml.safe_load(text("continue", before=before))
    assert found["rules"] == ["x"]
    names = [model["name"] for model in found["models"]]
    assert names == ["GPT", "GenieHive", "GenieHive (small)", "GenieHive (embeddings)", "GenieHive (rerank)"]
    assert found["models"][1]["model"] == "qwen3:32b"
    assert found["models"][1]["capabilities"] == ["tool_use"]
    assert (
        yaml.safe_load(text("continue", before=text("continue")))["models"]
        == yaml.safe_load(text("continue"))["models"]
    )


def test_zed_gets_a_provider_with_limits_and_abilities_and_no_key_in_its_file():
    before = json.dumps({"theme": "x", "language_models": {"ollama": {"api_url": "u"}}})
    found = json.loads(text("zed", before=before))
    assert found["theme"] == "x"
    assert found["language_models"]["ollama"] == {"api_url": "u"}
    provider = found["language_models"]["openai_compatible"]["GenieHive"]
    assert provider["api_url"] == "http://gw:8800/v1"
    assert [(model["name"], model["max_tokens"]) for model in provider["available_models"]] == [
        ("qwen3:32b", 32768),
        ('odd"\\name', 8192),
    ]
    assert provider["available_models"][0]["capabilities"]["tools"] is True
    assert provider["available_models"][1]["capabilities"]["images"] is True
    assert "sk-1" not in text("zed")
    assert "GENIEHIVE_API_KEY=sk-1" in CLIENTS["zed"](SETUP).then[0]


def test_aider_and_llm_read_yaml():
    found = yaml.safe_load(text("aider", before="auto-commits: false\n"))
    assert (found["auto-commits"], found["model"], found["openai-api-base"]) == (
        False,
        "openai/qwen3:32b",
        "http://gw:8800/v1",
    )
    models = yaml.safe_load(text("llm", before="- model_id: other\n  model_name: o\n- model_id: geniehive/qwen3:32b\n"))
    assert [model["model_id"] for model in models] == ["other", "geniehive/qwen3:32b", 'geniehive/odd"\\name']
    assert (models[1]["api_key_name"], models[1]["supports_tools"]) == ("geniehive", True)
    assert "api_key_name" not in yaml.safe_load(text("llm", BARE))[0]


@pytest.mark.parametrize("name", CLIENTS)
def test_every_recipe_can_be_printed_and_its_commands_are_commands(name):
    for setup in (SETUP, BARE):
        recipe = CLIENTS[name](setup)
        assert written(recipe, recipe.content).strip()
        for line in recipe.then:
            assert shlex.split(line, comments=True) or line.startswith("#")


@pytest.mark.parametrize(
    ("name", "before"),
    [
        ("claude", '{"a": 1, // mine\n}'),
        ("zed", "[]"),
        ("aider", "a: 1  # mine\n"),
        ("aider", "# mine\na: 1\n"),
        ("aider", "- a\n"),
        ("continue", "a: [\n"),
        ("llm", "a: 1\n"),
    ],
)
def test_a_file_that_would_lose_something_is_refused(name, before):
    with pytest.raises(Conflict, match="by hand"):
        text(name, before=before)
