"""What roles and assets change in a body: the laws of merging, prompts, Qwen3, reasoning."""

import copy

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geniehive.resources import (
    Asset,
    Host,
    Operation,
    PromptPolicy,
    ReasoningMode,
    RequestPolicy,
    Role,
    Service,
    SystemPromptPosition,
)
from geniehive.routing.candidate import Candidate
from geniehive.routing.policy import (
    PolicyBook,
    apply_changes,
    asks_to_think,
    deep_merge,
    effective_policy,
    is_qwen3,
    passes_reasoning,
    shape,
)

KEYS = st.sampled_from("abcd")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.text("xy", max_size=2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)
BODIES = st.dictionaries(KEYS, VALUES, max_size=4)
PLAIN = st.none() | st.integers(0, 3) | st.lists(st.integers(0, 3), max_size=2)
INNER = st.dictionaries(KEYS, PLAIN, max_size=3)
ALIKE = st.fixed_dictionaries(
    {}, optional={"a": INNER, "b": PLAIN, "c": st.fixed_dictionaries({}, optional={"d": INNER})}
)
PREPEND, APPEND, REPLACE = SystemPromptPosition


def leaves(value, path=()):
    if isinstance(value, dict) and value:
        return {leaf: found for key, inner in value.items() for leaf, found in leaves(inner, (*path, key)).items()}
    return {path: value}


def at(value, path):
    for key in path:
        if not isinstance(value, dict) or key not in value:
            return None
        value = value[key]
    return value


def role(**policy):
    return msgspec.convert({"role_id": "r", "prompt_policy": policy}, Role)


def asset(asset_id="llama", **policy):
    return Asset(asset_id=asset_id, request_policy=msgspec.convert(policy, RequestPolicy))


def shaped(body, of_asset=None, of_role=None, operation=Operation.CHAT, protocol="openai", kept_back=()):
    policy = effective_policy(of_asset or asset(), of_role, operation, protocol)
    return apply_changes(body, shape(body, policy, operation, frozenset(kept_back)))


def say(text, speaker="user"):
    return {"role": speaker, "content": text}


# --- merging -------------------------------------------------------------------------------------


@given(BODIES)
def test_merging_with_nothing_and_with_itself_changes_nothing(body):
    assert deep_merge(body, {}) == deep_merge({}, body) == deep_merge(body, body) == body


@given(ALIKE, ALIKE, ALIKE)
def test_merging_three_is_the_same_in_either_grouping_where_objects_stay_objects(a, b, c):
    assert deep_merge(deep_merge(a, b), c) == deep_merge(a, deep_merge(b, c))


@given(BODIES, BODIES)
def test_every_value_of_the_upper_one_is_in_the_merged_one(below, above):
    merged = deep_merge(below, above)
    assert all(at(merged, path) == value for path, value in leaves(above).items() if value != {})
    assert merged.keys() == below.keys() | above.keys()


@given(BODIES, BODIES)
def test_merging_changes_neither(below, above):
    before = copy.deepcopy((below, above))
    deep_merge(below, above)
    assert (below, above) == before


@given(BODIES, BODIES, BODIES, BODIES, BODIES)
def test_a_body_is_defaults_then_the_client_then_overrides(own, wanted, body, own_last, wanted_last):
    of_asset = asset(body_defaults=own, body_overrides=own_last)
    of_role = role(request_policy={"body_defaults": wanted, "body_overrides": wanted_last})
    given_ = copy.deepcopy(body)
    expected = deep_merge(deep_merge(deep_merge(own, wanted), body), deep_merge(own_last, wanted_last))
    assert shaped(body, of_asset, of_role) == expected
    assert body == given_


@given(BODIES)
def test_what_has_no_policy_has_nothing_to_change(body):
    policy = effective_policy(asset(), None, Operation.CHAT)
    assert policy.plain
    assert shape(body, policy, Operation.CHAT) == ({}, frozenset(), None)


def test_the_caller_wins_over_defaults_even_with_null_and_loses_to_overrides():
    of_role = role(
        request_policy={
            "body_defaults": {"temperature": 0.2, "seed": 1, "extra": {"a": 1, "b": 2}},
            "body_overrides": {"max_tokens": 100, "extra": {"c": 3}},
        }
    )
    body = {"temperature": 0.9, "seed": None, "max_tokens": 9999, "extra": {"a": 9}}
    assert shaped(body, of_role=of_role) == {
        "temperature": 0.9,
        "seed": None,
        "max_tokens": 100,
        "extra": {"a": 9, "b": 2, "c": 3},
    }


def test_no_policy_sets_what_is_not_its_to_set():
    reserved = {"model": "x", "stream": True, "include_reasoning": True}
    of_asset = asset(body_defaults=reserved, body_overrides={**reserved, "seed": 1})
    assert shaped({"model": "m"}, of_asset) == {"model": "m", "seed": 1}


def test_what_is_kept_back_goes_but_a_policy_may_set_it():
    body = {"model": "m", "n_discard": 5, "id_slot": 3}
    of_asset = asset(body_defaults={"id_slot": 0})
    assert shaped(body, of_asset, kept_back=("n_discard", "id_slot", "api_base")) == {"model": "m", "id_slot": 0}


# --- prompts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("position", "messages", "expected"),
    [
        (PREPEND, [say("hi")], [say("P", "system"), say("hi")]),
        (APPEND, [say("hi")], [say("P", "system"), say("hi")]),
        (REPLACE, [say("hi")], [say("P", "system"), say("hi")]),
        (PREPEND, [], [say("P", "system")]),
        (PREPEND, [say("C", "system"), say("hi")], [say("P\n\nC", "system"), say("hi")]),
        (APPEND, [say("C", "system"), say("hi")], [say("C\n\nP", "system"), say("hi")]),
        (REPLACE, [say("C", "system"), say("hi")], [say("P", "system"), say("hi")]),
        (PREPEND, [say("C", "developer"), say("hi")], [say("P\n\nC", "developer"), say("hi")]),
        (PREPEND, [say(None, "system")], [say("P", "system")]),
        (APPEND, [say("C", "system"), say("D", "developer"), say("hi")],
         [say("C", "system"), say("D\n\nP", "developer"), say("hi")]),
        (REPLACE, [say("C", "system"), say("hi"), say("D", "system")], [say("P", "system"), say("hi")]),
        (PREPEND, [say("hi"), say("D", "system")], [say("P", "system"), say("hi"), say("D", "system")]),
    ],
)  # fmt: skip
def test_a_system_prompt_goes_where_it_is_told(position, messages, expected):
    of_role = role(system_prompt="P", system_prompt_position=position)
    before = copy.deepcopy(messages)
    assert shaped({"messages": messages}, of_role=of_role) == {"messages": expected}
    assert messages == before


def test_a_system_prompt_joins_one_that_is_in_parts():
    parts = [{"type": "text", "text": "C"}]
    body = {"messages": [{"role": "system", "content": parts}]}
    first = shaped(body, of_role=role(system_prompt="P"))["messages"][0]["content"]
    assert "".join(part["text"] for part in first) == "P\n\nC"
    last = shaped(body, of_role=role(system_prompt="P", system_prompt_position=APPEND))["messages"][0]["content"]
    assert "".join(part["text"] for part in last) == "C\n\nP"


def test_the_role_wins_on_prompts_and_the_asset_speaks_where_it_says_nothing():
    own = asset(system_prompt="asset", system_prompt_position="append")
    body = {"messages": [say("C", "system")]}
    assert shaped(body, own)["messages"][0]["content"] == "C\n\nasset"
    assert shaped(body, own, role())["messages"][0]["content"] == "C\n\nasset"
    assert shaped(body, own, role(system_prompt="role"))["messages"][0]["content"] == "role\n\nC"
    nested = role(request_policy={"system_prompt": "role", "system_prompt_position": "replace"})
    assert shaped(body, own, nested)["messages"][0]["content"] == "role"
    both = role(system_prompt="of prompts", request_policy={"system_prompt": "of requests"})
    assert shaped(body, own, both)["messages"][0]["content"] == "of prompts\n\nC"


def test_the_last_message_of_the_user_goes_into_the_template():
    of_role = role(user_template="Q: {input} {x} ({input})")
    body = {"messages": [say("one"), say("two", "assistant"), say("3 {input}"), say("r", "tool")]}
    found = shaped(body, of_role=of_role)["messages"]
    assert [message["content"] for message in found] == ["one", "two", "Q: 3 {input} {x} (3 {input})", "r"]


def test_of_a_message_in_parts_the_first_text_goes_into_the_template():
    image = {"type": "image_url", "image_url": {"url": "data:,"}}
    content = [image, {"type": "text", "text": "what?"}, {"type": "text", "text": "more"}]
    found = shaped({"messages": [{"role": "user", "content": content}]}, of_role=role(user_template="<{input}>"))
    assert found["messages"][0]["content"] == [image, {"type": "text", "text": "<what?>"}, content[2]]


@pytest.mark.parametrize(
    ("operation", "body", "expected"),
    [
        (Operation.COMPLETION, {"prompt": "a"}, {"prompt": "<a>"}),
        (Operation.COMPLETION, {"prompt": ["a", "b"]}, {"prompt": ["<a>", "<b>"]}),
        (Operation.COMPLETION, {"prompt": [1, 2]}, {"prompt": [1, 2]}),
        (Operation.EMBEDDINGS, {"input": "a"}, {"input": "<a>"}),
        (Operation.EMBEDDINGS, {"input": ["a"]}, {"input": ["<a>"]}),
        (Operation.RERANK, {"input": "a"}, {"input": "a"}),
    ],
)
def test_templates_know_the_field_of_each_operation(operation, body, expected):
    assert shaped(body, of_role=role(user_template="<{input}>", system_prompt="P"), operation=operation) == expected


@pytest.mark.parametrize("messages", [None, "x", 3, ["x"], [None], {"role": "user"}])
def test_what_is_no_list_of_messages_is_left_to_the_engine(messages):
    of_role = role(user_template="<{input}>", system_prompt="P")
    assert shaped({"messages": messages}, of_role=of_role) == {"messages": messages}
    assert shaped({}, of_role=of_role) == {}


odd_messages = st.fixed_dictionaries(
    {}, optional={"role": VALUES | st.sampled_from(["user", "system"]), "content": VALUES}
)


@given(VALUES | st.lists(odd_messages), st.sampled_from(SystemPromptPosition))
def test_no_messages_break_it(messages, position):
    of_role = role(user_template="<{input}>", system_prompt="P", system_prompt_position=position)
    shaped({"messages": messages}, of_role=of_role)


# --- Qwen3 ---------------------------------------------------------------------------------------

OFF = {"chat_template_kwargs": {"enable_thinking": False}}


@pytest.mark.parametrize(
    "name",
    ["qwen3:8b", "Qwen/Qwen3-8B", "qwen3-8b-q4km", "qwen3", "Qwen3.5-9B-Instruct", "qwen3.5:35b-a3b", "qwen3moe",
     "qwen35moe", "qwen3_5", "unsloth/Qwen3-30B-A3B-GGUF", "hf.co/x/qwen-3-4b", "Qwen3.5", "models/my_qwen3.gguf"],
)  # fmt: skip
def test_qwen3_is_known_by_name(name):
    assert is_qwen3(Asset(asset_id=name))
    assert is_qwen3(Asset(asset_id="default", family=name))
    assert is_qwen3(Asset(asset_id="default", aliases=("a", name)))


@pytest.mark.parametrize(
    "name", ["qwen2.5:7b", "qwen:32b", "qwen", "qwen2", "qwen30b", "qwen350", "qwq", "llama3", "xqwen3"]
)
def test_others_are_not_qwen3(name):
    assert not is_qwen3(Asset(asset_id=name))


@pytest.mark.parametrize(
    "body",
    [{}, {"chat_template_kwargs": {"enable_thinking": False}}, {"reasoning_effort": "none"}, {"think": False},
     {"reasoning": {"enabled": False}}, {"thinking": {"type": "disabled"}}, {"reasoning_effort": None}],
)  # fmt: skip
def test_qwen3_does_not_think_by_itself(body):
    assert shaped(body, asset("qwen3:8b")) == {**OFF, **body}


@pytest.mark.parametrize(
    "body",
    [{"chat_template_kwargs": {"enable_thinking": True}}, {"reasoning_effort": "high"}, {"think": True},
     {"enable_thinking": True}, {"reasoning": {"effort": "low"}}, {"thinking": {"type": "enabled"}}],
)  # fmt: skip
@pytest.mark.parametrize("protocol", ["openai", "ollama"])
def test_qwen3_thinks_where_the_caller_says_so(body, protocol):
    assert asks_to_think(body)
    assert shaped(body, asset("qwen3:8b"), protocol=protocol) == body


def test_qwen3_thinks_where_a_policy_says_so():
    on = {"chat_template_kwargs": {"enable_thinking": True}}
    assert shaped({}, asset("qwen3", body_defaults=on)) == on
    assert shaped({}, asset("qwen3"), role(request_policy={"body_overrides": on})) == on
    assert shaped({}, asset("qwen3"), role(request_policy={"body_defaults": on}), protocol="ollama") == on


def test_other_template_arguments_stay():
    body = {"chat_template_kwargs": {"tools_in_user_message": True}}
    assert shaped(body, asset("qwen3"))["chat_template_kwargs"] == {
        "tools_in_user_message": True,
        "enable_thinking": False,
    }


def test_ollama_is_told_in_its_own_word_too():
    assert shaped({}, asset("qwen3"), protocol="ollama") == {**OFF, "reasoning_effort": "none"}


@pytest.mark.parametrize("operation", [Operation.COMPLETION, Operation.EMBEDDINGS])
def test_only_chats_are_told_not_to_think(operation):
    assert effective_policy(asset("qwen3-embedding"), None, operation).plain


# --- reasoning -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("of_asset", "of_role", "asked", "passes"),
    [
        (None, None, None, False),
        ("pass", None, None, True),
        (None, "pass", None, True),
        ("pass", "strip", None, False),
        ("strip", "pass", None, True),
        ("strip", "strip", True, True),
        ("pass", "pass", False, False),
    ],
)
def test_the_request_then_the_role_then_the_asset_says_what_becomes_of_reasoning(of_asset, of_role, asked, passes):
    policy = effective_policy(
        asset(reasoning=of_asset), role(request_policy={"reasoning": of_role}) if of_role else None, Operation.CHAT
    )
    assert passes_reasoning(asked, policy) is passes


# --- folding -------------------------------------------------------------------------------------


def candidate(of_asset, of_role=None, protocol="openai"):
    service = Service(service_id="s", host_id="h", protocol=protocol, assets=(of_asset,))
    return Candidate(service, of_asset, Host(host_id="h"), (), of_role)


def test_a_policy_is_folded_once_and_never_mistaken_for_another():
    book, own, of_role = PolicyBook(Operation.CHAT), asset("qwen3"), role(system_prompt="P")
    same = candidate(own, of_role)
    assert book.of(same) is book.of(same)
    assert book.of(candidate(own)).system_prompt == ""
    assert "reasoning_effort" in book.of(candidate(own, of_role, "ollama")).body_defaults
    assert PolicyBook(Operation.COMPLETION).of(candidate(own, of_role)).body_defaults == {}


def test_the_book_is_bounded_and_right_when_objects_come_and_go():
    book = PolicyBook(Operation.CHAT)
    for number in range(10_000):
        assert book.of(candidate(asset(body_defaults={"n": number}))).body_defaults == {"n": number}
    assert len(book._known) <= 4096


def test_what_is_shown_is_what_is_done():
    policy = effective_policy(asset("qwen3", body_overrides={"max_tokens": 5}), role(system_prompt="P"), Operation.CHAT)
    assert policy.shown() == {
        "body_defaults": OFF,
        "body_overrides": {"max_tokens": 5},
        "system_prompt": "P",
        "system_prompt_position": "prepend",
        "reasoning": "strip",
    }
    assert effective_policy(asset(), None, Operation.CHAT).shown() == {"reasoning": "strip"}


def test_a_prompt_policy_has_its_defaults():
    assert PromptPolicy().request_policy.reasoning is None
    assert effective_policy(asset(), Role(role_id="r"), Operation.CHAT).reasoning is ReasoningMode.STRIP
