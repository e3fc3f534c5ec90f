"""Which engines serve the routes of agents themselves, by their version."""

import pytest

from nodeagent.engines.lmstudio import LMStudio
from nodeagent.engines.native import AGENT_ROUTES, COUNT_TOKENS, MESSAGES, RESPONSES, since
from nodeagent.engines.ollama import Ollama
from nodeagent.engines.openai import OpenAI
from nodeagent.engines.sglang import SGLang
from nodeagent.engines.vllm import VLLM


@pytest.mark.parametrize(
    ("engine", "version", "routes"),
    [
        (Ollama(), "0.33.1", (RESPONSES, MESSAGES)),
        (Ollama(), "0.13.5", (RESPONSES,)),
        (Ollama(), "0.9.0", ()),
        (Ollama(), "0.14.1-rc0", (RESPONSES, MESSAGES)),
        (VLLM(), "0.33.0", AGENT_ROUTES),
        (VLLM(), "0.11.0", (RESPONSES,)),
        (VLLM(), "v0.17.0rc1.dev3+g0123", AGENT_ROUTES),
        (VLLM(), "dev", ()),
        (SGLang(), "0.5.19", AGENT_ROUTES),
        (SGLang(), "0.5.2", (RESPONSES,)),
        (SGLang(), "", ()),
        (OpenAI(), "9.9.9", ()),
    ],
)
def test_a_version_tells_the_routes(engine, version, routes):
    assert engine.state(version=version).routes == routes


def test_what_an_adapter_says_itself_counts():
    assert LMStudio().state(routes=(RESPONSES,)).routes == (RESPONSES,)
    assert since({COUNT_TOKENS: "1.2"}, "1.10") == (COUNT_TOKENS,)
