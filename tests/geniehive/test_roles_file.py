"""Files of roles: what is read, and the one line that a bad one gets."""

import itertools
from pathlib import Path

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from geniehive.errors import ConfigError
from geniehive.resources import Operation, ReasoningMode, RoutingPolicy
from geniehive.roles_file import find_cycle, load_roles, parse_roles

EXAMPLES = Path(__file__).parents[2] / "examples"


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


def test_every_field_of_a_role_is_read():
    """The whole of it, as the issue of roles names its fields."""
    text = """
roles:
  - role_id: r
    display_name: R
    description: words
    operation: completion
    modality: text
    prompt_policy:
      system_prompt: P
      system_prompt_position: append
      user_template: "{input}"
      request_policy:
        body_defaults: {a: {b: [1, 2.5, null]}}
        body_overrides: {c: d}
        reasoning: strip
    routing_policy:
      preferred_families: [b, a]
      preferred_labels: {room: attic}
      min_context: 1
      require_loaded: true
      allowed_trust_tiers: [a]
      denied_trust_tiers: [b]
      allowed_device_classes: [a]
      denied_device_classes: [b]
      allowed_workload_classes: [a]
      denied_workload_classes: [b]
      fallback_roles: [s]
      strategy: round_robin
      assets: [m]
      priority: batch
      hedge: true
      no_resume: true
      steady_prefix: true
  - {role_id: s}
"""
    read, _ = parse_roles(text, "roles.yaml")
    assert msgspec.json.decode(msgspec.json.encode(read)) == yaml.safe_load(text)["roles"][0]
    assert set(yaml.safe_load(text)["roles"][0]["routing_policy"]) == set(RoutingPolicy.__struct_fields__)


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("roles*.yaml")))
def test_the_example_catalogues_load_and_every_role_ends_somewhere(name):
    roles = {role.role_id: role for role in load_roles(EXAMPLES / name)}
    assert len(roles) >= 4
    assert all(role.display_name and role.description for role in roles.values())
    assert {role.operation for role in roles.values()} > {Operation.CHAT}


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
        ("roles: [{role_id: a, routing_policy: {priority: urgent}}]", "expected one of interactive, batch, got urgent"),
        ("roles: [{role_id: a, routing_policy: {min_context: 0}}]", "at least 1"),
        ("roles: [{role_id: a, prompt_policy: {user_template: hello}}]", "has no {input}"),
        ("roles: [{role_id: a, routing_policy: {allowed_trust_tiers: [own], denied_trust_tiers: [x, own]}}]",
         "denied_trust_tiers[1]: own is allowed as well"),
        ("roles: [{role_id: a, prompt_policy: {system_prompt: x, request_policy: {system_prompt: y}}}]", "given twice"),
        ("roles: [{role_id: a, prompt_policy: {request_policy: {body_overrides: {model: x}}}}]",
         "body_overrides.model: cannot be set by a policy"),
        ("roles: [{role_id: a, prompt_policy: {request_policy: {body_defaults: {include_reasoning: true}}}}]",
         "set reasoning: pass"),
        ("roles: [{role_id: a, prompt_policy: {request_policy: {body_defaults: {a: [.inf]}}}}]", "JSON does not have"),
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
