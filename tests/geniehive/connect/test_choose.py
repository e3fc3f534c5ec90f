"""Which models a client is given."""

import pytest

from geniehive.connect.choose import Choice, choose
from geniehive.errors import NotFound


def entry(name, *operations, kind="asset", status="loaded", size="", context=None, speed=None, aliases=(), **more):
    can = more.pop("can", ())
    own = {
        "kind": kind,
        "operation": operations[0] if operations else None,
        "operations": list(operations),
        "parameter_size": size,
        "observed": {"tokens_per_sec": speed},
        "aliases": list(aliases),
        "voices": more.pop("voices", []),
    }
    capabilities = dict.fromkeys((*operations, *can), True)
    return {
        "id": name,
        "status": {"value": status},
        "context_length": context,
        "capabilities": capabilities,
        "geniehive": own,
    }


def main_of(*entries, **named):
    return choose(list(entries), **named).main.model


def test_the_main_model_has_tools_is_ready_and_is_large():
    tools = ("tools",)
    small, large = entry("a", "chat", size="8B", can=tools), entry("b", "chat", size="70B", can=tools)
    assert main_of(small, large) == "b"
    assert main_of(small, entry("b", "chat", size="70B")) == "a"
    assert main_of(small, entry("b", "chat", size="70B", can=tools, status="unavailable")) == "a"
    assert main_of(entry("b", "chat", status="unavailable")) == "b"
    assert main_of(entry("x", "chat", context=1000), entry("y", "chat", context=9000)) == "y"
    assert main_of(entry("y", "chat"), entry("x", "chat")) == "x"
    assert main_of(large, entry("code", "chat", kind="role", can=tools)) == "code"
    assert main_of(large, entry("embed", "embeddings", "chat", kind="role", can=tools)) == "b"


def test_the_small_model_is_the_fastest_else_the_smallest():
    fast, slow = entry("a", "chat", size="70B", speed=90.0), entry("b", "chat", size="8B", speed=30.0)
    assert choose([fast, slow]).small.model == "a"
    assert choose([entry("a", "chat", size="70B"), entry("b", "chat", size="8B")]).small.model == "b"


def test_the_users_word_goes_first_aliases_and_strangers_included():
    entries = [entry("a", "chat", context=4096, aliases=("nick",), can=("tools", "vision", "thinking"))]
    assert choose(entries, main="nick").main == Choice("nick", 4096, tools=True, vision=True, reasoning=True)
    chosen = choose(entries, main="stranger", small="other")
    assert (chosen.main, chosen.small.model) == (Choice("stranger"), "other")
    assert choose([], main="stranger").small == Choice("stranger")


def test_every_other_purpose_has_its_model_or_none():
    entries = [
        entry("c", "chat"),
        entry("e", "embeddings"),
        entry("w", "transcription"),
        entry("k", "speech", voices=["af_heart", "am_adam"]),
        entry("f", "image"),
        entry("r", "rerank"),
    ]
    chosen = choose(entries)
    assert (chosen.embeddings.model, chosen.transcription.model, chosen.speech.model) == ("e", "w", "k")
    assert (chosen.image.model, chosen.rerank.model, chosen.voice) == ("f", "r", "af_heart")
    assert choose([entry("c", "chat")])[2:] == (None, None, None, None, "", None)


def test_nothing_that_chats_is_an_error_that_names_the_fix():
    with pytest.raises(NotFound, match="--model"):
        choose([entry("e", "embeddings")])
