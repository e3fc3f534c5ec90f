"""The body check against json.loads, and the splice against re-encoding."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.openai.body import parse
from geniehive.errors import InvalidRequest

keys = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(["model", "a b", '"', "\\"])
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
space = st.text(" \t\r\n", max_size=3)


@st.composite
def documents(draw):
    """A JSON object with a model, with white space anywhere, keys and texts escaped or not."""
    fields = draw(st.dictionaries(keys.filter(lambda key: key not in {"model", "stream"}), plain, max_size=4))
    fields["model"] = draw(names)
    order = draw(st.permutations(list(fields)))
    parts = []
    for key in order:
        ascii_ = draw(st.booleans())
        indent = draw(st.sampled_from([None, 1]))
        value = json.dumps(fields[key], ensure_ascii=ascii_, indent=indent)
        parts.append(
            f"{draw(space)}{json.dumps(key, ensure_ascii=ascii_)}{draw(space)}:{draw(space)}{value}{draw(space)}"
        )
    return f"{draw(space)}{{{','.join(parts)}}}{draw(space)}".encode()


@given(documents(), names)
def test_the_splice_changes_the_model_and_nothing_else(raw, name):
    body = parse(raw)
    before, after = json.loads(raw), json.loads(body.with_model(name))
    assert body.model == before["model"]
    assert body.with_model(body.model) == body.raw
    assert after == {**before, "model": name}
    assert list(after) == list(before)
    spliced = body.with_model(name)
    start, end = body.place()
    assert spliced.startswith(body.raw[:start])
    assert spliced.endswith(body.raw[end:])


@given(documents())
def test_bytes_stay_unless_a_key_had_escapes(raw):
    body = parse(raw)
    top = [json.dumps(key, ensure_ascii=False) for key in json.loads(raw)]
    if all(each.encode() in raw and "\\" not in each for each in top):
        assert body.raw == raw


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_what_json_loads_refuses_is_refused(raw):
    try:
        body = parse(raw)
    except InvalidRequest:
        return
    assert json.loads(raw)["model"] == body.model


@given(documents(), names)
def test_a_second_model_is_refused_wherever_it_stands(raw, name):
    closing = raw.rindex(b"}")
    for twice in (
        raw[:closing] + b',"model":' + json.dumps(name).encode() + raw[closing:],
        raw.replace(b"{", b'{"model":' + json.dumps(name).encode() + b",", 1),
        raw[:closing] + b',"\\u006dodel":' + json.dumps(name).encode() + raw[closing:],
    ):
        with pytest.raises(InvalidRequest, match="twice"):
            parse(twice)


def test_a_model_deeper_down_is_not_the_model():
    raw = b'{"a":{"model":"x"},"b":"\\"model\\":\\"y\\"","\\u006dodel":"m","c":[{"model":"z"}]}'
    body = parse(raw)
    assert body.model == "m"
    assert json.loads(body.with_model("n")) == {**json.loads(raw), "model": "n"}


def test_another_key_twice_is_put_together_with_its_last_value():
    body = parse(b'{"seed":1,"model":"m","seed":2}')
    assert json.loads(body.with_model("n")) == {"seed": 2, "model": "n"}


def test_a_model_of_odd_characters_is_written_as_json():
    body = parse(b'{"model":"m"}')
    assert json.loads(body.with_model('a"b\\c\n<img>é')) == {"model": 'a"b\\c\n<img>é'}


@given(documents(), names, st.dictionaries(keys.filter(lambda key: key != "model"), plain, max_size=3), st.data())
def test_changes_put_and_drop_fields_and_nothing_else(raw, name, put, data):
    body = parse(raw)
    others = sorted(body.fields.keys() - {"model"})
    drop = frozenset(data.draw(st.lists(st.sampled_from(others)))) if others else frozenset()
    kept = {key: value for key, value in json.loads(raw).items() if key not in drop}
    assert json.loads(body.with_changes(name, put, drop)) == {**kept, **put, "model": name}


def test_fields_that_are_only_added_leave_the_bytes_of_the_others():
    raw = b' { "seed" : 1.50e+1,\n"model":"m" } '
    changed = parse(raw).with_changes("n", {"a": {"b": False}}, frozenset())
    assert changed == b' { "seed" : 1.50e+1,\n"model":"n" ,"a":{"b":false}}'


def test_values_that_stay_keep_their_bytes_where_others_go():
    raw = b'{"n_discard": 3, "model":"m", "seed" : 1.50e+1}'
    assert b"1.50e+1" in parse(raw).with_changes("n", {}, frozenset({"n_discard"}))


edges = st.sampled_from([-(2**63) - 1, -(2**63), 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**18, 10**40])


@given(plain | edges, st.lists(st.sampled_from(["list", "object"]), max_size=70), st.booleans())
def test_depth_and_integers_are_bounded_wherever_they_stand(leaf, shells, large):
    value, depth = leaf, 1 + len(shells)
    for shell in shells:
        value = [value] if shell == "list" else {"a": value}
    raw = json.dumps({"model": "m", "pad": " " * 20_000 * large, "x": value}).encode()
    if (type(leaf) is int and not -(2**63) <= leaf < 2**64) or depth + _depth(leaf) > 64:
        with pytest.raises(InvalidRequest, match="64"):
            parse(raw)
    else:
        assert repr(parse(raw).fields["x"]) == repr(value)


def _depth(value):
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(_depth, inner), default=0)


def test_no_changes_are_the_splice():
    body = parse(b'{ "model" : "m" }')
    assert body.with_changes("m", {}, frozenset()) is body.raw
