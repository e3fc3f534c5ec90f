"""The prompt of agents as routing knows it: the same conversation is found again, however its blocks are written."""

from gateway.translate.prompt import ask_of, prompt_of

AGENT = "You are an agent. " * 200
MARK = {"cache_control": {"type": "ephemeral"}}


def turn(role, text, *, block=False, **more):
    return {"role": role, "content": [{"type": "text", "text": text, **more}] if block else text}


def shared(one, other):
    """How many bytes of prompt two requests have in common, as far as marks tell."""
    keys = set(ask_of(one, 0.0).prefix.keys) & set(ask_of(other, 0.0).prefix.keys)
    return max((key >> 32 for key in keys), default=0)


def test_the_next_turn_of_claude_code_begins_with_the_one_before():
    first = {
        "system": [
            {"type": "text", "text": "x-anthropic-billing-header: cch=a;"},
            {"type": "text", "text": AGENT, **MARK},
        ],
        "messages": [turn("user", "go " * 200), turn("system", "Env.", block=True, **MARK)],
    }
    second = {
        "system": [{"type": "text", "text": "x-anthropic-billing-header: cch=b;"}, {"type": "text", "text": AGENT}],
        "messages": [turn("user", "go " * 200, block=True), turn("system", "Env."), turn("assistant", "ok")],
    }
    assert prompt_of(second).startswith(prompt_of(first)[:-1])
    assert shared(first, second) == ask_of(first, 0.0).prefix.size > len(AGENT)


def test_the_next_turn_of_codex_begins_with_the_one_before():
    items = [{"type": "message", "id": "a", **turn("developer", AGENT)}, turn("user", "go")]
    call = {"type": "function_call", "id": "x", "call_id": "c", "name": "a", "arguments": "{}"}
    first, second = {"input": items}, {"input": [{**items[0], "id": "b"}, items[1], call]}
    assert shared(first, second) == ask_of(first, 0.0).prefix.size > len(AGENT)


def test_other_conversations_share_nothing_and_limits_are_known():
    assert shared({"input": "a" * 4000}, {"input": "b" * 4000}) == 0
    assert ask_of({"input": "hi", "max_output_tokens": 7}, 0.0).max_tokens == 7
    assert ask_of({"messages": [], "max_tokens": 8}, 0.0).max_tokens == 8


def test_odd_shapes_are_no_failure():
    for fields in (
        {},
        {"messages": None},
        {"messages": [None, 3, "x", {}]},
        {"input": {"a": 1}},
        {"system": [1], "tools": 3},
    ):
        assert ask_of(fields, 0.0).prefix.size > 0
