"""Files of roles: what is read, and the one line that a bad one gets."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geniehive.errors import ConfigError
from geniehive.resources import Operation, ReasoningMode
from geniehive.roles_file import find_cycle, load_roles, parse_roles


def roles_text(**fallbacks):
    lines = ["roles:"]
    for role_id, names in fallbacks.items():
        lines += [f"  - role_id: {role_id}", f"    routing_policy: {{fallback_roles: [{', '.join(names)}]}}"]
    return "\n".join(lines)


def test_a_role_is_read_with_all_its_policies():
    text = """
roles:
  - role_id: code
    operation: chat
    prompt_policy: {system_prompt: Be brief., user_template: "Q: {input}", request_policy: {reasoning: pass}}
    routing_policy: {min_context: 4096, preferred_labels: {room: attic}, fallback_roles: [any]}
  - {role_id: any, operation: embeddings}
"""
    code, other = parse_roles(text, "roles.yaml")
    assert code.prompt_policy.request_policy.reasoning is ReasoningMode.PASS
    assert code.routing_policy.preferred_labels == {"room": "attic"}
    assert other.operation is Operation.EMBEDDINGS


@pytest.mark.parametrize("text", ["", "roles:\n", "roles: []\n"])
def test_no_roles_are_fine(text):
    assert parse_roles(text, "roles.yaml") == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (roles_text(a=["b"], b=["c"], c=["b"]),
         "roles.yaml:5: roles[1].routing_policy.fallback_roles: fallbacks go in a circle: b → c → b"),
        (roles_text(a=["a"]), "fallbacks go in a circle: a → a; take one of them out"),
        (roles_text(a=["chat-fats"], **{"chat-fast": []}), "there is no role chat-fats; did you mean chat-fast?"),
        ("roles: [{role_id: a}, {role_id: a}]", "roles[1].role_id: a is given twice"),
        ("roles: [{role_id: ''}]", "must not be empty"),
        ("roles:\n - role_id: a\n   rotuing_policy: {}", "roles.yaml:3: roles[0].rotuing_policy: unknown key"),
        ("roles: [{role_id: a, operation: chatt}]", "roles[0].operation: expected one of chat"),
        ("roles: [{role_id: a, routing_policy: {strategy: fastest}}]", "expected one of scored, round_robin"),
        ("roles: [{role_id: a, routing_policy: {min_context: 0}}]", "at least 1"),
        ("roles: [{role_id: a, prompt_policy: {user_template: hello}}]", "has no {input}"),
        ("roles: {a: {}}", "roles: expected a list, got keys and values"),
        ("- role_id: a", "expected keys and values, got a list"),
        ("roles: [", "roles.yaml:1:9: not valid YAML"),
    ],
)  # fmt: skip
def test_a_bad_file_gets_one_line(text, message):
    with pytest.raises(ConfigError) as caught:
        parse_roles(text, "roles.yaml")
    assert message in caught.value.message
    assert "\n" not in caught.value.message


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"r\.yaml: no such file"):
        load_roles(tmp_path / "r.yaml")


NAMES = "abcdef"


@given(st.dictionaries(st.sampled_from(NAMES), st.lists(st.sampled_from(NAMES), max_size=4)))
def test_a_cycle_is_found_exactly_where_there_is_one(fallbacks):
    cycle = find_cycle(fallbacks)
    if cycle:
        assert cycle[0] == cycle[-1]
        assert all(after in fallbacks[before] for before, after in itertools.pairwise(cycle))
    else:
        left = {name: set(names) & set(fallbacks) for name, names in fallbacks.items()}
        while leaves := [name for name, names in left.items() if not names]:
            left = {name: names - set(leaves) for name, names in left.items() if name not in leaves}
        assert not left
